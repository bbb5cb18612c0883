"""Test of Eomt: does it run here, and are its results right?

EomtForUniversalSegmentation of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_eomt.py [--device cuda] [--help]
    pytest test_hf_eomt.py

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
    from transformers import EomtConfig, EomtForUniversalSegmentation
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Eomt": "title",
    "test_hf_eomt.py": "script",
    "EomtConfig": "config_class",
    "EomtForUniversalSegmentation": "model_class",
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

FAMILY = "eomt"
ARCHITECTURE = "universal_segmentation"
MODEL_CLASS = "EomtForUniversalSegmentation"
CHECKPOINT = "tue-mps/coco_panoptic_eomt_large_640"
REQUIRES: tuple[str, ...] = ("scipy",)  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "class_queries_logits": (2, 7, 6),
    "masks_queries_logits": (2, 7, 16, 16),
    "last_hidden_state": (2, 28, 24),
    "hidden_states.0": (2, 21, 24),
    "hidden_states.1": (2, 21, 24),
    "hidden_states.2": (2, 21, 24),
    "hidden_states.3": (2, 28, 24),
    "hidden_states.4": (2, 28, 24),
    "attentions.0": (2, 4, 21, 21),
    "attentions.1": (2, 4, 21, 21),
    "attentions.2": (2, 4, 28, 28),
    "attentions.3": (2, 4, 28, 28),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "use_swiglu_ffn": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "class_queries_logits": (1.442156571, 0.33523275, 1.281295612),
    "masks_queries_logits": (2.042045506, 0.6597989457, 3.098661163),
    "last_hidden_state": (1.172184021, -1.238702492, 1.620755913),
    "all_outputs": (0.8065315242, -0.4723779573, -0.5357549463),
    "use_swiglu_ffn": (2.479153768, 1.770242111, 1.553825605),
}


def build_config() -> EomtConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return EomtConfig(
        hidden_size=24,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        num_queries=7,
        num_labels=5,
        num_hidden_layers=4,
        num_blocks=2,
        train_num_points=50,
    )


def build_model(weights: str, size: str, seed: int) -> EomtForUniversalSegmentation:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(EomtForUniversalSegmentation, weights)
    model = EomtForUniversalSegmentation(EomtConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: EomtConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals(
            "pixel_values", shape=(2, 3, config.image_size, config.image_size), seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
