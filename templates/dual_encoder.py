"""Test of CLIP: does it run here, and are its results right?

CLIPModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_clip.py [--device cuda] [--help]
    pytest test_hf_clip.py

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
from templates._checks import test_attention_parity, test_padding_invariance
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import ended, normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "CLIP": "title",
    "test_hf_clip.py": "script",
    "CLIPConfig": "config_class",
    "CLIPModel": "model_class",
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

FAMILY = "clip"
ARCHITECTURE = "dual_encoder"
MODEL_CLASS = "CLIPModel"
CHECKPOINT = "openai/clip-vit-base-patch32"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits_per_image": (2, 2),
    "logits_per_text": (2, 2),
    "text_embeds": (2, 20),
    "image_embeds": (2, 20),
    "text_model_output.last_hidden_state": (2, 12, 32),
    "text_model_output.pooler_output": (2, 20),
    "text_model_output.hidden_states.0": (2, 12, 32),
    "text_model_output.hidden_states.1": (2, 12, 32),
    "text_model_output.hidden_states.2": (2, 12, 32),
    "text_model_output.attentions.0": (2, 4, 12, 12),
    "text_model_output.attentions.1": (2, 4, 12, 12),
    "vision_model_output.last_hidden_state": (2, 17, 24),
    "vision_model_output.pooler_output": (2, 20),
    "vision_model_output.hidden_states.0": (2, 17, 24),
    "vision_model_output.hidden_states.1": (2, 17, 24),
    "vision_model_output.hidden_states.2": (2, 17, 24),
    "vision_model_output.attentions.0": (2, 4, 17, 17),
    "vision_model_output.attentions.1": (2, 4, 17, 17),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits_per_image": (1.638173541, -3.828710828, 2.842447771),
    "logits_per_text": (1.638173541, -0.08084625133, -0.007404104075),
    "text_embeds": (0.2236067977, 0.0324525388, -0.03805352348),
    "image_embeds": (0.2236067977, 0.168208494, -0.07265782048),
    "text_model_output.last_hidden_state": (0.9992630408, -0.7860213056, -0.9920870967),
    "text_model_output.pooler_output": (0.8927365071, 0.150304953, -0.1470883092),
    "vision_model_output.last_hidden_state": (1.6887689, 1.328915107, -1.235473223),
    "vision_model_output.pooler_output": (1.279238176, 0.9613462061, -0.4103302202),
    "all_outputs": (0.8280504203, 0.6298520292, -0.9775899442),
    "CLIPForImageClassification": (1.157255592, 1.516245501, -0.930059014),
}


def build_config() -> CLIPConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return CLIPConfig(
        projection_dim=20,
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text_config=CLIPTextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=48,
            bos_token_id=4,
            eos_token_id=3,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> CLIPModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(CLIPModel, weights)
    model = CLIPModel(CLIPConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: CLIPConfig, seed: int) -> Tensors:
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
    """The loss is the mean cross-entropy of finding each text's image and each image's text."""
    outputs = subject.run(subject.model, subject.inputs, return_loss=True)
    scores, pairs = outputs["logits_per_text"], torch.arange(2)
    by_text = torch.nn.functional.cross_entropy(scores, pairs)
    by_image = torch.nn.functional.cross_entropy(scores.T, pairs)
    assert_loss(outputs["loss"], (by_text + by_image) / 2, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
