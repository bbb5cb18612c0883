"""Test of SuperPoint: does it run here, and are its results right?

SuperPointForKeypointDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_superpoint.py [--device cuda] [--help]
    pytest test_hf_superpoint.py

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
from templates._compare import Tensors, note
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import SuperPointConfig, SuperPointForKeypointDetection
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "SuperPoint": "title",
    "test_hf_superpoint.py": "script",
    "SuperPointConfig": "config_class",
    "SuperPointForKeypointDetection": "model_class",
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

FAMILY = "superpoint"
ARCHITECTURE = "keypoint_detection"
MODEL_CLASS = "SuperPointForKeypointDetection"
CHECKPOINT = "magic-leap-community/superpoint"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True}
OUTPUTS = {
    "keypoints": (2, 6, 2),
    "scores": (2, 6),
    "descriptors": (2, 6, 28),
    "mask": (2, 6),
    "hidden_states.0": (2, 8, 48, 32),
    "hidden_states.1": (2, 12, 24, 16),
    "hidden_states.2": (2, 16, 12, 8),
    "hidden_states.3": (2, 20, 12, 8),
}
FP32_OUTPUTS: tuple[str, ...] = (
    "keypoints",
    "scores",
    "descriptors",
)  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "keypoints": (0.6519230145, -0.3404039324, 0.3205957803),
    "scores": (0.04101280003, 0.01293394645, -0.02130535293),
    "descriptors": (0.1889822365, 0.283413499, 0.02474988081),
    "mask": (1.0, 0.328002903, -0.4623031765),
    "all_outputs": (0.7171297629, -0.938343862, 0.7558951559),
}


def build_config() -> SuperPointConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return SuperPointConfig(
        num_labels=5,
        encoder_hidden_sizes=[8, 12, 16, 20],
        decoder_hidden_size=24,
        descriptor_decoder_dim=28,
        max_keypoints=6,
        border_removal_distance=16,
    )


def build_model(weights: str, size: str, seed: int) -> SuperPointForKeypointDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(SuperPointForKeypointDetection, weights)
    model = SuperPointForKeypointDetection(SuperPointConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: SuperPointConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 96, 64), seed=seed),
    }


def test_unit_length(subject: Subject) -> None:
    """Each keypoint lies in its image, and its descriptor has length one."""
    found = subject.outputs["mask"] == 1
    places, descriptors = subject.outputs["keypoints"], subject.outputs["descriptors"]
    assert ((places >= 0) & (places < 1)).all(), "a keypoint lies outside of its image"
    lengths = descriptors[found].norm(dim=-1)
    bound = 100 * subject.eps
    error = note((lengths - 1).abs().max().item(), bound)
    assert error <= bound, f"a descriptor's length differs from 1 by {error:.1e}"


if __name__ == "__main__":
    sys.exit(main(globals()))
