"""Test of Clap: does it run here, and are its results right?

ClapModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_clap.py [--device cuda] [--help]
    pytest test_hf_clap.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys

from templates._basics import (
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_forward,
    test_golden,
    test_gradients,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Clap": "title",
    "test_hf_clap.py": "script",
    "ClapConfig": "config_class",
    "ClapModel": "model_class",
    "FAMILY": "family",
    "MODEL_CLASS": "model_class",
    "CHECKPOINT": "checkpoint",
    "REQUIRES": "requires",
    "SEED": "seed",
    "ATTENTIONS": "attentions",
    "EXPERTS": "experts",
    "ALL_OUTPUTS": "all_outputs",
    "OUTPUTS": "outputs",
    "FP32_OUTPUTS": "fp32_outputs",
    "SWITCHES": "switches",
    "OPTIONS": "options",
    "INSENSITIVE": "insensitive",
    "NO_GRADIENT": "no_gradient",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
}

FAMILY = "clap"
ARCHITECTURE = "audio_dual_encoder"
MODEL_CLASS = "ClapModel"
CHECKPOINT = "laion/clap-htsat-fused"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits_per_audio": (2, 2),
    "logits_per_text": (2, 2),
    "text_embeds": (2, 20),
    "audio_embeds": (2, 20),
    "text_model_output.last_hidden_state": (2, 12, 32),
    "text_model_output.pooler_output": (2, 32),
    "text_model_output.hidden_states.0": (2, 12, 32),
    "text_model_output.hidden_states.1": (2, 12, 32),
    "text_model_output.hidden_states.2": (2, 12, 32),
    "text_model_output.attentions.0": (2, 4, 12, 12),
    "text_model_output.attentions.1": (2, 4, 12, 12),
    "audio_model_output.last_hidden_state": (2, 32, 2, 8),
    "audio_model_output.pooler_output": (2, 32),
    "audio_model_output.hidden_states.0": (2, 16, 8, 8),
    "audio_model_output.hidden_states.1": (2, 32, 4, 4),
    "audio_model_output.hidden_states.2": (2, 32, 4, 4),
    "audio_model_output.attentions.0": (8, 2, 16, 16),
    "audio_model_output.attentions.1": (2, 4, 16, 16),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "audio_config.enable_patch_layer_norm": False,
    "audio_config.qkv_bias": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits_per_audio": (3.097963547, -4.767462792, 3.666056964),
    "logits_per_text": (2.833410357, -3.262159965, 2.517940996),
    "text_embeds": (0.2236067977, -0.1444601444, -0.2672780472),
    "audio_embeds": (0.2236067977, 0.1324961543, 0.05500891571),
    "text_model_output.last_hidden_state": (1.032890522, -0.9856346501, 0.3993595066),
    "text_model_output.pooler_output": (0.6521599416, 0.4289192229, 0.6935834813),
    "audio_model_output.last_hidden_state": (1.09890455, 0.992768201, 0.8258905763),
    "audio_model_output.pooler_output": (0.9898531852, -0.3552153183, 0.2186353003),
    "all_outputs": (0.7766133246, 0.8428107928, -0.1259980583),
    "audio_config.enable_patch_layer_norm": (1.059265401, 1.230469745, -0.7684110755),
    "audio_config.qkv_bias": (1.028984403, 1.570257015, -1.185827873),
}


def build_config() -> ClapConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return ClapConfig(
        projection_dim=20,
        text_config=ClapTextConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=48,
            projection_dim=20,
        ),
        audio_config=ClapAudioConfig(
            projection_dim=20,
            spec_size=32,
            num_mel_bins=16,
            patch_size=4,
            depths=[2, 2],
            num_attention_heads=[2, 4],
            num_hidden_layers=2,
            patch_embeds_hidden_size=16,
            hidden_size=32,
            window_size=4,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> ClapModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(ClapModel, weights)
    model = ClapModel(ClapConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: ClapConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "input_features": normals("input_features", shape=(2, 1, 64, 16), seed=seed),
    }


def test_batch_invariance(subject: Subject) -> None:
    """Each pair of text and sound alone gives its embeddings and score of the batch."""
    score = next(name for name in subject.outputs if name.startswith("logits"))
    bounds = subject.bounds | {score: 2 * subject.bounds[score]}  # one of four may be all the error
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        outputs = row_of(subject.outputs, row)
        expected = {name: value for name, value in outputs.items() if name.endswith("embeds")}
        expected[score] = outputs[score][:, row : row + 1]
        assert_agree(alone, expected, bounds, f"pair {row} alone")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of finding each text's sound and each sound's text."""
    outputs = subject.run(subject.model, subject.inputs, return_loss=True)
    entropy, pairs = torch.nn.functional.cross_entropy, torch.arange(2)
    scores = [value for name, value in outputs.items() if name.startswith("logits")]
    expected = torch.stack([entropy(score, pairs) for score in scores]).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
