"""Test of Pixio: does it run here, and are its results right?

PixioModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_pixio.py [--device cuda] [--help]
    pytest test_hf_pixio.py

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
    from transformers import PixioConfig, PixioModel
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Pixio": "title",
    "test_hf_pixio.py": "script",
    "PixioConfig": "config_class",
    "PixioModel": "model_class",
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

FAMILY = "pixio"
ARCHITECTURE = "backbone"
MODEL_CLASS = "PixioModel"
CHECKPOINT = "facebook/pixio-huge"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "last_hidden_state": (2, 24, 24),
    "pooler_output": (2, 24),
    "hidden_states.0": (2, 24, 24),
    "hidden_states.1": (2, 24, 24),
    "hidden_states.2": (2, 24, 24),
    "attentions.0": (2, 4, 24, 24),
    "attentions.1": (2, 4, 24, 24),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "last_hidden_state": (1.121109401, -1.261861935, -0.189994226),
    "pooler_output": (1.017954555, -1.11314476, 1.162930348),
    "all_outputs": (0.7895952775, -0.2058065181, -0.1252933622),
    "qkv_bias": (1.12580969, -0.9485162312, -0.1117843332),
}


def build_config() -> PixioConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return PixioConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )


def build_model(weights: str, size: str, seed: int) -> PixioModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(PixioModel, weights)
    model = PixioModel(PixioConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: PixioConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
