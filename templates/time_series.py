"""Test of PatchTST: does it run here, and are its results right?

PatchTSTForPrediction of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_patchtst.py [--device cuda] [--help]
    pytest test_hf_patchtst.py

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
from templates._compare import Tensors, assert_loss
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import PatchTSTConfig, PatchTSTForPrediction
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "PatchTST": "title",
    "test_hf_patchtst.py": "script",
    "PatchTSTConfig": "config_class",
    "PatchTSTForPrediction": "model_class",
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

FAMILY = "patchtst"
ARCHITECTURE = "time_series"
MODEL_CLASS = "PatchTSTForPrediction"
CHECKPOINT = "ibm-granite/granite-timeseries-patchtst"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "prediction_outputs": (2, 6, 1),
    "hidden_states.0": (2, 1, 32, 32),
    "hidden_states.1": (2, 1, 32, 32),
    "attentions.0": (2, 4, 32, 32),
    "attentions.1": (2, 4, 32, 32),
    "loc": (2, 1, 1),
    "scale": (2, 1, 1),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "bias": False,
    "channel_attention": True,
    "pre_norm": False,
    "share_embedding": False,
    "use_cls_token": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "prediction_outputs": (1.480300098, -2.067850433, 0.4702076354),
    "loc": (0.02377847146, 0.01457556283, -0.01034370548),
    "scale": (1.015781896, 0.6765091146, 0.1250230689),
    "all_outputs": (0.4731940513, -0.562382872, 0.2120866624),
    "bias": (1.059356757, -1.51023549, 1.156705815),
    "channel_attention": (1.875047933, 0.7070445686, -1.102713878),
    "pre_norm": (0.8705880522, -0.5382739489, 0.8315000547),
    "share_embedding": (1.501749441, -2.722012877, 1.803237847),
    "use_cls_token": (1.379279083, -1.78363417, 0.5371271882),
}


def build_config() -> PatchTSTConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return PatchTSTConfig(num_hidden_layers=2, d_model=32, ffn_dim=40, prediction_length=6)


def build_model(weights: str, size: str, seed: int) -> PatchTSTForPrediction:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(PatchTSTForPrediction, weights)
    model = PatchTSTForPrediction(PatchTSTConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: PatchTSTConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "past_values": normals(
            "past_values", shape=(2, config.context_length, config.num_input_channels), seed=seed
        )
    }


def test_loss(subject: Subject) -> None:
    """The loss is the mean square error of the predicted future."""
    config = subject.model.config
    future = normals("future", (2, config.prediction_length, config.num_input_channels))
    outputs = subject.run(subject.model, subject.inputs | {"future_values": future})
    expected = (outputs["prediction_outputs"] - future).square().mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
