"""Test of VitPose: does it run here, and are its results right?

VitPoseForPoseEstimation of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_vitpose.py [--device cuda] [--help]
    pytest test_hf_vitpose.py

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
from templates._random import normals, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "VitPose": "title",
    "test_hf_vitpose.py": "script",
    "VitPoseConfig": "config_class",
    "VitPoseForPoseEstimation": "model_class",
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

FAMILY = "vitpose"
ARCHITECTURE = "pose_estimation"
MODEL_CLASS = "VitPoseForPoseEstimation"
CHECKPOINT = "usyd-community/vitpose-base-simple"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True}
OUTPUTS = {
    "heatmaps": (2, 2, 16, 24),
    "hidden_states.0": (2, 24, 24),
    "hidden_states.1": (2, 24, 24),
    "hidden_states.2": (2, 24, 24),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "backbone_config.qkv_bias": False,
    "use_simple_decoder": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "heatmaps": (0.4484780914, -0.100605702, 0.2492826682),
    "all_outputs": (1.439834523, -0.1965496277, -0.1791468644),
    "backbone_config.qkv_bias": (0.4707484501, 0.01466170541, 0.1227273255),
    "use_simple_decoder": (0.8809345065, 0.4380973993, -0.494744852),
}


def build_config() -> VitPoseConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return VitPoseConfig(
        backbone_config=VitPoseBackboneConfig(
            hidden_size=24,
            num_attention_heads=4,
            image_size=[32, 48],
            patch_size=[8, 8],
            out_indices=[2],
            num_hidden_layers=2,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> VitPoseForPoseEstimation:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(VitPoseForPoseEstimation, weights)
    model = VitPoseForPoseEstimation(VitPoseConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: VitPoseConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 32, 48), seed=seed),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
