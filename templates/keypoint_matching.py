"""Test of SuperGlue: does it run here, and are its results right?

SuperGlueForKeypointMatching of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_superglue.py [--device cuda] [--help]
    pytest test_hf_superglue.py

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
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import set_weights, shifted_pairs
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import SuperGlueConfig, SuperGlueForKeypointMatching, SuperPointConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "SuperGlue": "title",
    "test_hf_superglue.py": "script",
    "SuperGlueConfig": "config_class",
    "SuperGlueForKeypointMatching": "model_class",
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

FAMILY = "superglue"
ARCHITECTURE = "keypoint_matching"
MODEL_CLASS = "SuperGlueForKeypointMatching"
CHECKPOINT = "magic-leap-community/superglue_indoor"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "matches": (2, 2, 6),
    "matching_scores": (2, 2, 6),
    "keypoints": (2, 2, 6, 2),
    "mask": (2, 2, 6),
    "hidden_states.0": (2, 2, 8, 6),
    "hidden_states.1": (2, 2, 12, 6),
    "hidden_states.2": (2, 2, 32, 6),
    "hidden_states.3": (2, 2, 32, 6),
    "hidden_states.4": (2, 2, 32, 6),
    "hidden_states.5": (2, 2, 64, 6),
    "hidden_states.6": (2, 2, 32, 6),
    "hidden_states.7": (2, 2, 64, 6),
    "hidden_states.8": (2, 2, 32, 6),
    "hidden_states.9": (2, 2, 32, 6),
    "attentions.0": (2, 2, 4, 6, 6),
    "attentions.1": (2, 2, 4, 6, 6),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "matches": (2.0, 1.997925116, -3.670365997),
    "matching_scores": (0.1587051715, 0.1084117167, -0.1691560986),
    "keypoints": (0.7579869859, -0.3305555694, 0.1276520274),
    "mask": (1.0, -0.03623148718, 0.4034876046),
    "all_outputs": (0.8033602899, -0.4496936854, 0.1798761454),
}


def build_config() -> SuperGlueConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return SuperGlueConfig(
        hidden_size=32,
        keypoint_encoder_sizes=[8, 12, 32],
        gnn_layers_types=["self", "cross"],
        sinkhorn_iterations=10,
        keypoint_detector_config=SuperPointConfig(
            encoder_hidden_sizes=[8, 12, 16, 20],
            decoder_hidden_size=24,
            descriptor_decoder_dim=32,
            border_removal_distance=16,
            max_keypoints=6,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> SuperGlueForKeypointMatching:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(SuperGlueForKeypointMatching, weights)
    model = SuperGlueForKeypointMatching(SuperGlueConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: SuperGlueConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": shifted_pairs("pixel_values", shape=(2, 3, 96, 64), shift=8, seed=seed),
    }


def test_mutual(subject: Subject) -> None:
    """There are matches; what a keypoint is matched with is matched with it, with one score."""
    matches, scores = subject.outputs["matches"], subject.outputs["matching_scores"]
    assert (matches >= 0).any(), "no keypoint is matched"
    for row in (0, 1):
        for image in (0, 1):
            points = (matches[row, image] >= 0).nonzero().flatten()
            partners = matches[row, image, points]
            back = matches[row, 1 - image, partners]
            wrong = (back != points).sum()
            what = f"of the {len(points)} matches of image {image} of pair {row}"
            assert not wrong, f"{what} {wrong} are not mutual"
            same = scores[row, image, points] == scores[row, 1 - image, partners]
            assert same.all(), f"{what} {(~same).sum()} have two scores"


if __name__ == "__main__":
    sys.exit(main(globals()))
