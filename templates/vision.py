"""Test of ViT: does it run here, and are its results right?

ViTForImageClassification of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_vit.py [--device cuda] [--help]
    pytest test_hf_vit.py

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
    test_heads,
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
    from transformers import ViTConfig, ViTForImageClassification
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "ViT": "title",
    "test_hf_vit.py": "script",
    "ViTConfig": "config_class",
    "ViTForImageClassification": "model_class",
    "FAMILY": "family",
    "MODEL_CLASS": "model_class",
    "CHECKPOINT": "checkpoint",
    "REQUIRES": "requires",
    "SEED": "seed",
    "ATTENTIONS": "attentions",
    "EXPERTS": "experts",
    "HEADS": "heads",
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

FAMILY = "vit"
ARCHITECTURE = "vision"
MODEL_CLASS = "ViTForImageClassification"
CHECKPOINT = "google/vit-base-patch16-224"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 5),
    "hidden_states.0": (2, 17, 24),
    "hidden_states.1": (2, 17, 24),
    "hidden_states.2": (2, 17, 24),
    "attentions.0": (2, 4, 17, 17),
    "attentions.1": (2, 4, 17, 17),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.792260802, 1.601565481, -0.6489079893),
    "all_outputs": (0.8409818388, 1.145194889, -0.03800540376),
    "qkv_bias": (0.9226396233, 1.581016597, -0.5248515611),
}


def build_config() -> ViTConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )


def build_model(weights: str, size: str, seed: int) -> ViTForImageClassification:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(ViTForImageClassification, weights)
    model = ViTForImageClassification(ViTConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: ViTConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        )
    }


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of the classes."""
    labels = torch.tensor([3, 1])
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    expected = torch.nn.functional.cross_entropy(outputs["logits"], labels)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
