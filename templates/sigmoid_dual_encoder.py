"""Test of Siglip: does it run here, and are its results right?

SiglipModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_siglip.py [--device cuda] [--help]
    pytest test_hf_siglip.py

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
from templates._checks import (
    test_attention_parity,
    test_padding_invariance,
)
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import ended, normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Siglip": "title",
    "test_hf_siglip.py": "script",
    "SiglipConfig": "config_class",
    "SiglipModel": "model_class",
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

FAMILY = "siglip"
ARCHITECTURE = "sigmoid_dual_encoder"
MODEL_CLASS = "SiglipModel"
CHECKPOINT = "google/siglip-base-patch16-224"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits_per_image": (2, 2),
    "logits_per_text": (2, 2),
    "text_embeds": (2, 24),
    "image_embeds": (2, 24),
    "text_model_output.last_hidden_state": (2, 12, 32),
    "text_model_output.pooler_output": (2, 24),
    "text_model_output.hidden_states.0": (2, 12, 32),
    "text_model_output.hidden_states.1": (2, 12, 32),
    "text_model_output.hidden_states.2": (2, 12, 32),
    "text_model_output.attentions.0": (2, 4, 12, 12),
    "text_model_output.attentions.1": (2, 4, 12, 12),
    "vision_model_output.last_hidden_state": (2, 16, 24),
    "vision_model_output.pooler_output": (2, 24),
    "vision_model_output.hidden_states.0": (2, 16, 24),
    "vision_model_output.hidden_states.1": (2, 16, 24),
    "vision_model_output.hidden_states.2": (2, 16, 24),
    "vision_model_output.attentions.0": (2, 4, 16, 16),
    "vision_model_output.attentions.1": (2, 4, 16, 16),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits_per_image": (0.4254162993, -0.5565091775, 0.3104505014),
    "logits_per_text": (0.4254162993, -0.788268332, 0.4866786568),
    "text_embeds": (0.2041241452, 0.02771259138, -0.06128688515),
    "image_embeds": (0.2041241452, 0.1038436549, -0.3853706035),
    "text_model_output.last_hidden_state": (0.955769415, -0.5888720655, -1.024829435),
    "text_model_output.pooler_output": (0.8783713654, 0.367818016, -0.2678825455),
    "vision_model_output.last_hidden_state": (0.920385627, 0.9279566623, 0.5276881532),
    "vision_model_output.pooler_output": (1.134280693, 0.3490152425, -2.269209009),
    "all_outputs": (0.8585482744, 0.7869880552, -0.9135009489),
    "SiglipForImageClassification": (0.6956345644, 0.4328830225, -0.6103799607),
}


def build_config() -> SiglipConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return SiglipConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text_config=SiglipTextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=48,
            bos_token_id=4,
            eos_token_id=3,
            projection_size=24,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> SiglipModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(SiglipModel, weights)
    model = SiglipModel(SiglipConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: SiglipConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": ended(
            token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
            token=config.text_config.eos_token_id,
            lengths=(12, 9),
        ),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "pixel_values": normals(
            "pixel_values",
            shape=(2, 3, config.vision_config.image_size, config.vision_config.image_size),
            seed=seed,
        ),
    }


def test_batch_invariance(subject: Subject) -> None:
    """Each pair of text and image alone gives its embeddings and score of the batch."""
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        outputs = row_of(subject.outputs, row)
        expected = {name: outputs[name] for name in ("text_embeds", "image_embeds")}
        expected["logits_per_text"] = outputs["logits_per_text"][:, row : row + 1]
        assert_agree(alone, expected, subject.bounds, f"pair {row} alone")


def test_loss(subject: Subject) -> None:
    """The loss asks of each text and image whether they belong together, apart from the others."""
    outputs = subject.run(subject.model, subject.inputs, return_loss=True)
    scores = outputs["logits_per_text"]
    together = 2 * torch.eye(len(scores)) - 1  # 1 for a pair, -1 for all others
    expected = -torch.nn.functional.logsigmoid(together * scores).sum(-1).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
