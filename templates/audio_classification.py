"""Test of AST: does it run here, and are its results right?

ASTForAudioClassification of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_audio_spectrogram_transformer.py [--device cuda] [--help]
    pytest test_hf_audio_spectrogram_transformer.py

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
    from transformers import ASTConfig, ASTForAudioClassification
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "AST": "title",
    "test_hf_audio_spectrogram_transformer.py": "script",
    "ASTConfig": "config_class",
    "ASTForAudioClassification": "model_class",
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

FAMILY = "audio_spectrogram_transformer"
ARCHITECTURE = "audio_classification"
MODEL_CLASS = "ASTForAudioClassification"
CHECKPOINT = "MIT/ast-finetuned-audioset-10-10-0.4593"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 5),
    "hidden_states.0": (2, 20, 24),
    "hidden_states.1": (2, 20, 24),
    "hidden_states.2": (2, 20, 24),
    "attentions.0": (2, 4, 20, 20),
    "attentions.1": (2, 4, 20, 20),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.9418233381, 0.5580035711, 0.602286808),
    "all_outputs": (0.7212567839, 0.2408062885, -0.143065184),
    "qkv_bias": (1.071294848, 0.7943574077, 0.9952450421),
}


def build_config() -> ASTConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return ASTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        num_labels=5,
        max_length=40,
        num_mel_bins=24,
        patch_size=8,
        frequency_stride=6,
        time_stride=6,
    )


def build_model(weights: str, size: str, seed: int) -> ASTForAudioClassification:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(ASTForAudioClassification, weights)
    model = ASTForAudioClassification(ASTConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: ASTConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_values": normals(
            "input_values", shape=(2, config.max_length, config.num_mel_bins), seed=seed
        ),
    }


def test_loss(subject: Subject) -> None:
    """The loss is the cross-entropy of the labels."""
    labels = torch.tensor([1, 3])
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    expected = torch.nn.functional.cross_entropy(outputs["logits"], labels)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
