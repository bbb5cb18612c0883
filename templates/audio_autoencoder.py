"""Test of VibeVoiceAcousticTokenizer: does it run here, and are its results right?

VibeVoiceAcousticTokenizerModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_vibevoice_acoustic_tokenizer.py [--device cuda] [--help]
    pytest test_hf_vibevoice_acoustic_tokenizer.py

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
from templates._compare import Tensors, assert_agree, flatten
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import Subject, placed, pretrained

try:
    import torch
    from transformers import VibeVoiceAcousticTokenizerConfig, VibeVoiceAcousticTokenizerModel
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "VibeVoiceAcousticTokenizer": "title",
    "test_hf_vibevoice_acoustic_tokenizer.py": "script",
    "VibeVoiceAcousticTokenizerConfig": "config_class",
    "VibeVoiceAcousticTokenizerModel": "model_class",
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

FAMILY = "vibevoice_acoustic_tokenizer"
ARCHITECTURE = "audio_autoencoder"
MODEL_CLASS = "VibeVoiceAcousticTokenizerModel"
CHECKPOINT = "microsoft/VibeVoice-1.5B"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {"audio": (2, 1, 3200), "latents": (2, 80, 10)}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {"sample": False}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "audio": (0.6831130361, -0.694019288, 0.5242095084),
    "latents": (0.8963134378, 0.1331821081, 0.6252492389),
}


def build_config() -> VibeVoiceAcousticTokenizerConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return VibeVoiceAcousticTokenizerConfig(
        num_filters=4,
        hidden_size=10,
        downsampling_ratios=[2, 4, 5],
        depths=[1, 2, 1, 1],
    )


def build_model(weights: str, size: str, seed: int) -> VibeVoiceAcousticTokenizerModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(VibeVoiceAcousticTokenizerModel, weights)
    model = VibeVoiceAcousticTokenizerModel(
        VibeVoiceAcousticTokenizerConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: VibeVoiceAcousticTokenizerConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_values": normals("input_values", shape=(2, 1, 3200), seed=seed),
    }


def test_round_trip(subject: Subject) -> None:
    """Encoding into latents and decoding them gives what one call gives."""
    inputs = placed(subject.inputs, subject.model)
    with torch.no_grad():
        encoded = subject.model.encode(**inputs, **OPTIONS)
        decoded = subject.model.decode(encoded.latents)
    found = flatten(dict(decoded) | {"latents": encoded.latents})
    found = {name: value.cpu() for name, value in found.items() if name in subject.outputs}
    assert len(found) == 2, f"sound and latents have the names {[*found]}"
    expected = {name: subject.outputs[name] for name in found}
    assert_agree(found, expected, subject.bounds, "encode, then decode")


if __name__ == "__main__":
    sys.exit(main(globals()))
