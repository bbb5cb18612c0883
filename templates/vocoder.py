"""Test of UnivNet: does it run here, and are its results right?

UnivNetModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_univnet.py [--device cuda] [--help]
    pytest test_hf_univnet.py

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
from templates._checks import test_batch_invariance
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import UnivNetConfig, UnivNetModel
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "UnivNet": "title",
    "test_hf_univnet.py": "script",
    "UnivNetConfig": "config_class",
    "UnivNetModel": "model_class",
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

FAMILY = "univnet"
ARCHITECTURE = "vocoder"
MODEL_CLASS = "UnivNetModel"
CHECKPOINT = "dg845/univnet-dev"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {"waveforms": (2, 320)}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {"waveforms": (0.5931911458, 1.22400029, -0.6130924345)}


def build_config() -> UnivNetConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return UnivNetConfig(
        model_in_channels=8,
        model_hidden_channels=6,
        num_mel_bins=18,
        kernel_predictor_hidden_channels=8,
        resblock_stride_sizes=[4, 2, 2],
    )


def build_model(weights: str, size: str, seed: int) -> UnivNetModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(UnivNetModel, weights)
    model = UnivNetModel(UnivNetConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: UnivNetConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_features": normals("input_features", shape=(2, 20, config.num_mel_bins), seed=seed),
        "noise_sequence": normals(
            "noise_sequence", shape=(2, 20, config.model_in_channels), seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
