"""Test of TimeSeriesTransformer: does it run here, and are its results right?

TimeSeriesTransformerForPrediction of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_time_series_transformer.py [--device cuda] [--help]
    pytest test_hf_time_series_transformer.py

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
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import normals, observed_mask, set_weights, token_ids
from templates._subject import Subject, placed, pretrained

try:
    import torch
    from transformers import TimeSeriesTransformerConfig, TimeSeriesTransformerForPrediction
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "TimeSeriesTransformer": "title",
    "test_hf_time_series_transformer.py": "script",
    "TimeSeriesTransformerConfig": "config_class",
    "TimeSeriesTransformerForPrediction": "model_class",
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

FAMILY = "time_series_transformer"
ARCHITECTURE = "probabilistic_time_series"
MODEL_CLASS = "TimeSeriesTransformerForPrediction"
CHECKPOINT = "huggingface/time-series-transformer-tourism-monthly"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "loss": (),
    "params.0": (2, 6),
    "params.1": (2, 6),
    "params.2": (2, 6),
    "decoder_hidden_states.0": (2, 6, 32),
    "decoder_hidden_states.1": (2, 6, 32),
    "decoder_hidden_states.2": (2, 6, 32),
    "decoder_attentions.0": (2, 2, 6, 6),
    "decoder_attentions.1": (2, 2, 6, 6),
    "cross_attentions.0": (2, 2, 6, 24),
    "cross_attentions.1": (2, 2, 6, 24),
    "encoder_last_hidden_state": (2, 24, 32),
    "encoder_hidden_states.0": (2, 24, 32),
    "encoder_hidden_states.1": (2, 24, 32),
    "encoder_hidden_states.2": (2, 24, 32),
    "encoder_attentions.0": (2, 2, 24, 24),
    "encoder_attentions.1": (2, 2, 24, 24),
    "loc": (2, 1),
    "scale": (2, 1),
    "static_features": (2, 9),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "loss": (2.260313382, 2.38114947, -0.3216284027),
    "params.0": (3.422702415, 1.222589488, -1.622941743),
    "params.1": (1.208022906, 0.6830666724, -0.5065134804),
    "params.2": (0.5970168648, 0.0892576526, -0.2657688357),
    "encoder_last_hidden_state": (1.086519949, 0.1782363385, 1.171929668),
    "loc": (0.02732982889, -0.02705778751, 0.01058123579),
    "scale": (1.017646078, 0.7382588177, 0.09547039938),
    "static_features": (0.5270527121, -0.7475579466, -0.2287941248),
    "all_outputs": (0.7581884432, 0.2706663674, -0.06573023464),
}


def build_config() -> TimeSeriesTransformerConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return TimeSeriesTransformerConfig(
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        d_model=32,
        prediction_length=6,
        scaling="std",
        context_length=24,
        lags_sequence=[1, 2, 5],
        num_time_features=3,
        num_static_categorical_features=1,
        cardinality=[4],
        embedding_dimension=[5],
        num_static_real_features=2,
        encoder_layers=2,
        decoder_layers=2,
    )


def build_model(weights: str, size: str, seed: int) -> TimeSeriesTransformerForPrediction:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(TimeSeriesTransformerForPrediction, weights)
    model = TimeSeriesTransformerForPrediction(
        TimeSeriesTransformerConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: TimeSeriesTransformerConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "past_values": normals("past_values", shape=(2, 29), seed=seed),
        "past_time_features": normals(
            "past_time_features", shape=(2, 29, config.num_time_features), seed=seed
        ),
        "past_observed_mask": observed_mask(lengths=(29, 26), width=29),
        "static_categorical_features": token_ids(
            "static_categorical_features",
            shape=(2, config.num_static_categorical_features),
            low=0,
            high=4,
            seed=seed,
        ),
        "static_real_features": normals(
            "static_real_features", shape=(2, config.num_static_real_features), seed=seed
        ),
        "future_values": normals("future_values", shape=(2, config.prediction_length), seed=seed),
        "future_time_features": normals(
            "future_time_features",
            shape=(2, config.prediction_length, config.num_time_features),
            seed=seed,
        ),
    }


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone has the parameters of the distribution that it has in the batch."""
    tensors = {name: value for name, value in subject.outputs.items() if name != "loss"}
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        assert_agree(alone, row_of(tensors, row), subject.bounds, f"row {row} alone")


def test_generate(subject: Subject) -> None:
    """Futures drawn from the distributions are as many and as long as asked for, and vary."""
    known = {name: v for name, v in subject.inputs.items() if name != "future_values"}
    with torch.no_grad():
        torch.manual_seed(subject.seed)
        drawn = subject.model.generate(**placed(known, subject.model)).sequences
    config, future = subject.model.config, subject.inputs["future_values"]
    expected = (len(future), config.num_parallel_samples, *future.shape[1:])
    assert drawn.shape == expected, f"the futures have the shape {tuple(drawn.shape)}"
    assert torch.isfinite(drawn).all(), "a future has NaN or infinite values"
    assert (drawn.std(1) > 0).all(), "all futures of a row are the same"


def test_loss(subject: Subject) -> None:
    """The loss is the mean negative log-likelihood of the future under Student's t."""
    degrees, loc, scale = (subject.outputs[f"params.{k}"] for k in range(3))
    center = subject.outputs["loc"] + loc * subject.outputs["scale"]
    student = torch.distributions.StudentT(degrees, center, scale * subject.outputs["scale"])
    expected = -student.log_prob(subject.inputs["future_values"].double()).mean()
    assert_loss(subject.outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
