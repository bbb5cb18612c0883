"""Test of OwlViT: does it run here, and are its results right?

OwlViTForObjectDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_owlvit.py [--device cuda] [--help]
    pytest test_hf_owlvit.py

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
    test_batch_invariance,
    test_padding_invariance,
)
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import ended, normals, ragged_mask, set_weights, token_ids
from templates._subject import pretrained

try:
    from transformers import (
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTTextConfig,
        OwlViTVisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "OwlViT": "title",
    "test_hf_owlvit.py": "script",
    "OwlViTConfig": "config_class",
    "OwlViTForObjectDetection": "model_class",
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

FAMILY = "owlvit"
ARCHITECTURE = "grounding"
MODEL_CLASS = "OwlViTForObjectDetection"
CHECKPOINT = "google/owlvit-base-patch16"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 16, 2),
    "pred_boxes": (2, 16, 4),
    "text_embeds": (2, 2, 32),
    "image_embeds": (2, 4, 4, 24),
    "class_embeds": (2, 16, 32),
    "text_model_output.last_hidden_state": (4, 12, 32),
    "text_model_output.pooler_output": (4, 32),
    "text_model_output.hidden_states.0": (4, 12, 32),
    "text_model_output.hidden_states.1": (4, 12, 32),
    "text_model_output.hidden_states.2": (4, 12, 32),
    "text_model_output.attentions.0": (4, 4, 12, 12),
    "text_model_output.attentions.1": (4, 4, 12, 12),
    "vision_model_output.last_hidden_state": (2, 17, 24),
    "vision_model_output.pooler_output": (2, 24),
    "vision_model_output.hidden_states.0": (2, 17, 24),
    "vision_model_output.hidden_states.1": (2, 17, 24),
    "vision_model_output.hidden_states.2": (2, 17, 24),
    "vision_model_output.attentions.0": (2, 4, 17, 17),
    "vision_model_output.attentions.1": (2, 4, 17, 17),
}
FP32_OUTPUTS: tuple[str, ...] = ("logits",)  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "owlvit.logit_scale": "serve the scores of whole images, which detection does not use",
    "owlvit.visual_projection.weight": (
        "serve the scores of whole images, which detection does not use"
    ),
}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.1600539506, 0.1203809733, -0.01051247334),
    "pred_boxes": (0.5442730191, 0.4759782421, -0.3052712572),
    "text_embeds": (0.1767766953, 0.1913958553, 0.1625233248),
    "image_embeds": (1.217497643, -0.2434245916, 0.8761739581),
    "class_embeds": (0.1767766704, -0.01679348822, 0.05351814711),
    "text_model_output.last_hidden_state": (1.034443075, -1.61385721, 0.3554296767),
    "text_model_output.pooler_output": (1.025854878, 1.259299883, -0.192734066),
    "vision_model_output.last_hidden_state": (1.906006618, 0.2074175671, 0.3647038474),
    "vision_model_output.pooler_output": (1.107124161, -0.2668519798, 0.9225992692),
    "all_outputs": (0.9181299466, -0.9275201174, -1.483992758),
}


def build_config() -> OwlViTConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return OwlViTConfig(
        projection_dim=32,
        text_config=OwlViTTextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=4,
            eos_token_id=98,
        ),
        vision_config=OwlViTVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> OwlViTForObjectDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(OwlViTForObjectDetection, weights)
    model = OwlViTForObjectDetection(OwlViTConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: OwlViTConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": ended(
            token_ids("input_ids", shape=(4, 12), low=5, high=98, seed=seed),
            token=98,
            lengths=(12, 11, 9, 7),
        ),
        "attention_mask": ragged_mask(lengths=(12, 11, 9, 7), width=12),
        "pixel_values": normals(
            "pixel_values",
            shape=(2, 3, config.vision_config.image_size, config.vision_config.image_size),
            seed=seed,
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
