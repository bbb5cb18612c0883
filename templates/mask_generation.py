"""Test of Sam: does it run here, and are its results right?

SamModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_sam.py [--device cuda] [--help]
    pytest test_hf_sam.py

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
from templates._checks import test_attention_parity, test_batch_invariance
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import boxes, normals, numbers, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Sam": "title",
    "test_hf_sam.py": "script",
    "SamConfig": "config_class",
    "SamModel": "model_class",
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

FAMILY = "sam"
ARCHITECTURE = "mask_generation"
MODEL_CLASS = "SamModel"
CHECKPOINT = "facebook/sam-vit-huge"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "iou_scores": (2, 2, 3),
    "pred_masks": (2, 2, 3, 32, 32),
    "vision_hidden_states.0": (2, 8, 8, 24),
    "vision_hidden_states.1": (2, 8, 8, 24),
    "vision_hidden_states.2": (2, 8, 8, 24),
    "mask_decoder_attentions.0": (4, 1, 64, 32),
    "mask_decoder_attentions.1": (4, 1, 64, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "vision_config.qkv_bias": False,
    "vision_config.use_abs_pos": False,
    "vision_config.use_rel_pos": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "prompt_encoder.no_mask_embed.*": (
        "a mask is given, so the embedding that stands for none is not used"
    ),
    "mask_decoder.output_hypernetworks_mlps.0.*": (
        "multimask_output, the default, leaves out what the first mask token gives"
    ),
}  # parameters -> why they have none
GOLDEN = {
    "iou_scores": (1.006975869, -0.805316469, -0.4007670689),
    "pred_masks": (0.1837242145, 0.1676775192, -0.02244761482),
    "all_outputs": (1.082065044, 0.5676638671, 0.191022406),
    "vision_config.qkv_bias": (0.1868635753, -0.5619656205, 0.06111323621),
    "vision_config.use_abs_pos": (0.1857565865, -0.4562732964, 0.04028956973),
    "vision_config.use_rel_pos": (0.1846237342, -0.4283113917, 0.04956916393),
}


def build_config() -> SamConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return SamConfig(
        prompt_encoder_config=SamPromptEncoderConfig(
            patch_size=8,
            image_size=64,
            hidden_size=32,
            mask_input_channels=12,
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            num_attention_heads=4,
            hidden_size=32,
            mlp_dim=40,
            iou_head_hidden_dim=20,
        ),
        vision_config=SamVisionConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=8,
            window_size=2,
            image_size=64,
            output_channels=32,
            num_pos_feats=16,
            mlp_dim=40,
            global_attn_indexes=[1],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> SamModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(SamModel, weights)
    model = SamModel(SamConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: SamConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values",
            shape=(
                2,
                3,
                config.prompt_encoder_config.image_size,
                config.prompt_encoder_config.image_size,
            ),
            seed=seed,
        ),
        "input_points": numbers(
            values=(
                (((9.0, 20.0), (30.0, 12.0)), ((5.0, 6.0), (50.0, 41.0))),
                (((40.0, 33.0), (17.0, 51.0)), ((22.0, 8.0), (11.0, 27.0))),
            )
        ),
        "input_labels": numbers(values=(((1, 0), (1, -1)), ((1, 1), (0, 1)))),
        "input_boxes": boxes("input_boxes", shape=(2, 2), size=64.0, seed=seed),
        "input_masks": normals(
            "input_masks",
            shape=(
                2,
                1,
                4
                * config.prompt_encoder_config.image_size
                // config.prompt_encoder_config.patch_size,
                4
                * config.prompt_encoder_config.image_size
                // config.prompt_encoder_config.patch_size,
            ),
            seed=seed,
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
