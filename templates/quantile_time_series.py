"""Test of TimesFm: does it run here, and are its results right?

TimesFmModelForPrediction of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_timesfm.py [--device cuda] [--help]
    pytest test_hf_timesfm.py

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
    from transformers import TimesFmConfig, TimesFmModelForPrediction
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "TimesFm": "title",
    "test_hf_timesfm.py": "script",
    "TimesFmConfig": "config_class",
    "TimesFmModelForPrediction": "model_class",
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

FAMILY = "timesfm"
ARCHITECTURE = "quantile_time_series"
MODEL_CLASS = "TimesFmModelForPrediction"
CHECKPOINT = "google/timesfm-2.0-500m-pytorch"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "last_hidden_state": (2, 5, 32),
    "hidden_states.0": (2, 5, 32),
    "hidden_states.1": (2, 5, 32),
    "hidden_states.2": (2, 5, 32),
    "attentions.0": (2, 4, 5, 5),
    "attentions.1": (2, 4, 5, 5),
    "mean_predictions": (2, 6),
    "full_predictions": (2, 6, 10),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "use_positional_embedding": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "last_hidden_state": (1.989744497, -1.22686858, 0.8314701102),
    "mean_predictions": (1.263434948, -0.09624971575, 1.276036378),
    "full_predictions": (1.923605448, -1.63102177, -0.8122911674),
    "all_outputs": (1.419092073, 1.987371335, -0.8052731459),
    "use_positional_embedding": (2.194204624, -1.780152344, 1.571994703),
}


def build_config() -> TimesFmConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return TimesFmConfig(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=40,
        head_dim=12,
        num_attention_heads=4,
        patch_length=8,
        context_length=40,
        horizon_length=6,
    )


def build_model(weights: str, size: str, seed: int) -> TimesFmModelForPrediction:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(TimesFmModelForPrediction, weights)
    model = TimesFmModelForPrediction(TimesFmConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: TimesFmConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "past_values": normals("past_values", shape=(2, config.context_length), seed=seed),
    }


def test_loss(subject: Subject) -> None:
    """The loss is the square error of the mean, and what each quantile's own slope makes of its.

    The past is standardized, so that it is the same whether the model measures in its scale.
    """
    past = subject.inputs["past_values"].double()
    past = (past - past.mean(1, keepdim=True)) / past.std(1, keepdim=True)
    config, inputs = subject.model.config, subject.inputs | {"past_values": past.float()}
    future = normals("future", (2, config.horizon_length))
    outputs = subject.run(subject.model, inputs | {"future_values": future})
    losses = [
        torch.max(q * error, (q - 1) * error).mean()
        for q, predicted in zip(
            config.quantiles, outputs["full_predictions"].unbind(-1)[1:], strict=True
        )
        for error in [future - predicted]
    ]
    expected = (outputs["mean_predictions"] - future).square().mean() + torch.stack(losses).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
