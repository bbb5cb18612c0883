"""Test of Swin2SR: does it run here, and are its results right?

Swin2SRForImageSuperResolution of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_swin2sr.py [--device cuda] [--help]
    pytest test_hf_swin2sr.py

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
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Swin2SR": "title",
    "test_hf_swin2sr.py": "script",
    "Swin2SRConfig": "config_class",
    "Swin2SRForImageSuperResolution": "model_class",
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

FAMILY = "swin2sr"
ARCHITECTURE = "image_to_image"
MODEL_CLASS = "Swin2SRForImageSuperResolution"
CHECKPOINT = "caidas/swin2sr-classicalsr-x2-64"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "reconstruction": (2, 3, 64, 64),
    "hidden_states.0": (2, 1024, 12),
    "hidden_states.1": (2, 1024, 12),
    "hidden_states.2": (2, 1024, 12),
    "hidden_states.3": (2, 1024, 12),
    "hidden_states.4": (2, 1024, 12),
    "hidden_states.5": (2, 1024, 12),
    "hidden_states.6": (2, 1024, 12),
    "attentions.0": (512, 1, 4, 4),
    "attentions.1": (512, 1, 4, 4),
    "attentions.2": (512, 1, 4, 4),
    "attentions.3": (512, 1, 4, 4),
    "attentions.4": (512, 1, 4, 4),
    "attentions.5": (512, 1, 4, 4),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "reconstruction": (1.253596746, 0.286485945, -2.058544971),
    "all_outputs": (4.286326608, 0.9756814735, -8.057410334),
    "qkv_bias": (1.249772443, 0.06200720113, -1.745393503),
}


def build_config() -> Swin2SRConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Swin2SRConfig(
        image_size=32,
        embed_dim=12,
        depths=[2, 2, 2, 2, 2, 2],
        num_heads=[1, 1, 1, 1, 1, 1],
        window_size=2,
    )


def build_model(weights: str, size: str, seed: int) -> Swin2SRForImageSuperResolution:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(Swin2SRForImageSuperResolution, weights)
    model = Swin2SRForImageSuperResolution(Swin2SRConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: Swin2SRConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
