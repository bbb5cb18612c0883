"""Test of Segformer: does it run here, and are its results right?

SegformerForSemanticSegmentation of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_segformer.py [--device cuda] [--help]
    pytest test_hf_segformer.py

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
from templates._random import normals, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Segformer": "title",
    "test_hf_segformer.py": "script",
    "SegformerConfig": "config_class",
    "SegformerForSemanticSegmentation": "model_class",
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

FAMILY = "segformer"
ARCHITECTURE = "segmentation"
MODEL_CLASS = "SegformerForSemanticSegmentation"
CHECKPOINT = "ByteDance-Seed/Seed-OSS-36B-Instruct"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 5, 24, 16),
    "hidden_states.0": (2, 8, 24, 16),
    "hidden_states.1": (2, 16, 12, 8),
    "hidden_states.2": (2, 40, 6, 4),
    "hidden_states.3": (2, 64, 3, 2),
    "attentions.0": (2, 1, 384, 6),
    "attentions.1": (2, 1, 384, 6),
    "attentions.2": (2, 2, 96, 6),
    "attentions.3": (2, 2, 96, 6),
    "attentions.4": (2, 5, 24, 6),
    "attentions.5": (2, 5, 24, 6),
    "attentions.6": (2, 8, 6, 6),
    "attentions.7": (2, 8, 6, 6),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.8016606502, -0.5692966513, -0.2414672637),
    "all_outputs": (0.6752785753, 0.4834356914, -0.5340136079),
    "SegformerForImageClassification": (0.8864255545, -0.3592144919, -0.5754309082),
}


def build_config() -> SegformerConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return SegformerConfig(hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=16, num_labels=5)


def build_model(weights: str, size: str, seed: int) -> SegformerForSemanticSegmentation:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(SegformerForSemanticSegmentation, weights)
    model = SegformerForSemanticSegmentation(
        SegformerConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: SegformerConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {"pixel_values": normals("pixel_values", shape=(2, 3, 96, 64), seed=seed)}


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of the pixels, the logits scaled up (label 255: none)."""
    pixels = subject.inputs["pixel_values"]
    labels = token_ids("labels", shape=(2, *pixels.shape[2:]), low=0, high=5)
    labels[:, :7] = 255
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    scale_up = torch.nn.Upsample(labels.shape[1:], mode="bilinear", align_corners=False)
    logits = scale_up(outputs["logits"])
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
