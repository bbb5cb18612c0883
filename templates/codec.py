"""Test of Encodec: does it run here, and are its results right?

EncodecModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_encodec.py [--device cuda] [--help]
    pytest test_hf_encodec.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

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
from templates._compare import Tensors, assert_agree, flatten, row_of
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import Subject, placed, pretrained, unless_dead

try:
    import torch
    from transformers import EncodecConfig, EncodecModel
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Encodec": "title",
    "test_hf_encodec.py": "script",
    "EncodecConfig": "config_class",
    "EncodecModel": "model_class",
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

FAMILY = "encodec"
ARCHITECTURE = "codec"
MODEL_CLASS = "EncodecModel"
CHECKPOINT = "facebook/encodec_24khz"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {"audio_codes": (1, 2, 4, 10), "audio_values": (2, 1, 3200)}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "normalize": True,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "encoder.*": "the quantizer's argmin passes no gradient"
}  # parameters -> why they have none
GOLDEN = {
    "audio_codes": (14.3618418, 17.60680587, -6.676215883),
    "audio_values": (0.3047994965, 0.3845933522, -0.2040835229),
    "normalize": (1.644876756, 2.110943703, -0.8654861868),
    "use_causal_conv": (1.50993083, 0.8452146668, -1.356827829),
    "use_conv_shortcut": (2.486464057, 0.5418326796, 1.978141254),
}


def build_config() -> EncodecConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return EncodecConfig(
        hidden_size=48,
        num_filters=4,
        codebook_size=32,
    )


def build_model(weights: str, size: str, seed: int) -> EncodecModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(EncodecModel, weights)
    model = EncodecModel(EncodecConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: EncodecConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_values": normals("input_values", shape=(2, config.audio_channels, 3200), seed=seed),
    }


def row_of_codec(tensors: Tensors, row: int) -> Tensors:
    """Row `row` of a batch of two; codes may have the chunks of a long sound before the batch."""
    batched = {name: value for name, value in tensors.items() if value.ndim > 1}  # no losses
    return {n: v[row : row + 1] if len(v) == 2 else v[:, row : row + 1] for n, v in batched.items()}


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone gives the sound and the codes that it gives in the batch."""
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        expected = row_of_codec(subject.outputs, row)
        assert_agree(alone, expected, subject.bounds, f"row {row} alone")


def test_round_trip(subject: Subject) -> None:
    """Encoding and then decoding gives what one call gives; the codes are those of a codebook."""
    unless_dead(subject, lambda model: assert_round_trip(subject, model))


def assert_round_trip(subject: Subject, model: Any) -> None:
    """What `model` encodes it decodes to what one call of the model under test gives."""
    takes = inspect.signature(model.decode).parameters
    with torch.no_grad():
        encoded = model.encode(**placed(subject.inputs, model))
        decoded = model.decode(**{n: v for n, v in encoded.items() if n in takes})
    length, codes = subject.outputs["audio_values"].shape[-1], encoded.audio_codes
    found = {"audio_values": decoded.audio_values[..., :length], "audio_codes": codes}
    found = {name: value.cpu() for name, value in flatten(found).items()}
    expected = {name: subject.outputs[name] for name in found}
    assert_agree(found, expected, subject.bounds, "encode, then decode")
    config, used = subject.model.config, sorted(set(codes.flatten().tolist()))
    size = getattr(config, "codebook_size", None) or math.prod(config.quantization_levels)
    assert len(used) > 2, f"all sounds have the codes {used}"
    assert used[0] >= 0, f"the code {used[0]} is negative"
    assert used[-1] < size, f"no codebook has the code {used[-1]}"


if __name__ == "__main__":
    sys.exit(main(globals()))
