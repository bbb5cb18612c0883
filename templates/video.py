"""Test of VideoMAE: does it run here, and are its results right?

VideoMAEForVideoClassification of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_videomae.py [--device cuda] [--help]
    pytest test_hf_videomae.py

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
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "VideoMAE": "title",
    "test_hf_videomae.py": "script",
    "VideoMAEConfig": "config_class",
    "VideoMAEForVideoClassification": "model_class",
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

FAMILY = "videomae"
ARCHITECTURE = "video"
MODEL_CLASS = "VideoMAEForVideoClassification"
CHECKPOINT = "MCG-NJU/videomae-base"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 5),
    "hidden_states.0": (2, 32, 24),
    "hidden_states.1": (2, 32, 24),
    "hidden_states.2": (2, 32, 24),
    "attentions.0": (2, 4, 32, 32),
    "attentions.1": (2, 4, 32, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qv_bias": False,
    "use_mean_pooling": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.085570888, -0.8722915914, -0.3079891691),
    "all_outputs": (0.7020725485, 0.2209851175, -1.190761294),
    "qv_bias": (0.972545206, -0.792304078, -0.1725243559),
    "use_mean_pooling": (1.175660423, -0.7317850025, -0.5192388271),
}


def build_config() -> VideoMAEConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        decoder_num_attention_heads=4,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_intermediate_size=32,
        num_labels=5,
    )


def build_model(weights: str, size: str, seed: int) -> VideoMAEForVideoClassification:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(VideoMAEForVideoClassification, weights)
    model = VideoMAEForVideoClassification(VideoMAEConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: VideoMAEConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values",
            shape=(2, config.num_frames, 3, config.image_size, config.image_size),
            seed=seed,
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
