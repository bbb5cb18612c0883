"""Test of DPT: does it run here, and are its results right?

DPTForDepthEstimation of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_dpt.py [--device cuda] [--help]
    pytest test_hf_dpt.py

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
from templates._random import normals, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "DPT": "title",
    "test_hf_dpt.py": "script",
    "DPTConfig": "config_class",
    "DPTForDepthEstimation": "model_class",
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

FAMILY = "dpt"
ARCHITECTURE = "depth"
MODEL_CLASS = "DPTForDepthEstimation"
CHECKPOINT = "Intel/dpt-large"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 3  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "predicted_depth": (2, 64, 64),
    "hidden_states.0": (2, 17, 24),
    "hidden_states.1": (2, 17, 24),
    "hidden_states.2": (2, 17, 24),
    "hidden_states.3": (2, 17, 24),
    "hidden_states.4": (2, 17, 24),
    "attentions.0": (2, 4, 17, 17),
    "attentions.1": (2, 4, 17, 17),
    "attentions.2": (2, 4, 17, 17),
    "attentions.3": (2, 4, 17, 17),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False,
    "use_batch_norm_in_fusion_residual": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "dpt.layernorm.*": "the neck takes the hidden states before the last norm",
    "neck.fusion_stage.layers.0.residual_layer1.*": "the first fusion layer fuses nothing",
}  # parameters -> why they have none
GOLDEN = {
    "predicted_depth": (2.243476057, 1.419320334, -2.411564243),
    "all_outputs": (0.9609180808, -0.7256725838, -0.6058127999),
    "qkv_bias": (2.669646015, 2.441029175, -2.680087251),
    "use_batch_norm_in_fusion_residual": (2.544228384, -0.8689517225, -1.306636532),
}


def build_config() -> DPTConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return DPTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 32, 64],
        fusion_hidden_size=16,
    )


def build_model(weights: str, size: str, seed: int) -> DPTForDepthEstimation:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(DPTForDepthEstimation, weights)
    model = DPTForDepthEstimation(DPTConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: DPTConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        )
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
