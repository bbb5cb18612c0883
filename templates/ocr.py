"""Test of PPOCRV5MobileRec: does it run here, and are its results right?

PPOCRV5MobileRecForTextRecognition of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_pp_ocrv5_mobile_rec.py [--device cuda] [--help]
    pytest test_hf_pp_ocrv5_mobile_rec.py

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
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
)
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import normals, set_weights
from templates._subject import pretrained

try:
    from transformers import (
        PPLCNetV3Config,
        PPOCRV5MobileRecConfig,
        PPOCRV5MobileRecForTextRecognition,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "PPOCRV5MobileRec": "title",
    "test_hf_pp_ocrv5_mobile_rec.py": "script",
    "PPOCRV5MobileRecConfig": "config_class",
    "PPOCRV5MobileRecForTextRecognition": "model_class",
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

FAMILY = "pp_ocrv5_mobile_rec"
ARCHITECTURE = "ocr"
MODEL_CLASS = "PPOCRV5MobileRecForTextRecognition"
CHECKPOINT = "PaddlePaddle/PP-OCRv5_mobile_rec_safetensors"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 10  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True}
OUTPUTS = {
    "last_hidden_state": (2, 3, 29),
    "hidden_states.0": (2, 16, 48, 96),
    "hidden_states.1": (2, 16, 48, 96),
    "hidden_states.2": (2, 16, 24, 48),
    "hidden_states.3": (2, 32, 12, 24),
    "hidden_states.4": (2, 64, 6, 12),
    "hidden_states.5": (2, 128, 3, 6),
    "head_hidden_states.0": (2, 3, 24),
    "head_hidden_states.1": (2, 3, 24),
    "head_hidden_states.2": (2, 3, 24),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "qkv_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.backbone.encoder.blocks.*.layers.0.depthwise_convolution.act.lab.*": (
        "the affine layer of an activation is passed by where the convolution halves the image"
    )
}  # parameters -> why they have none
GOLDEN = {
    "last_hidden_state": (0.04184747897, -0.002286304287, 0.02419208491),
    "all_outputs": (1.396715187, -0.3415553559, 1.889261111),
    "qkv_bias": (0.04194132819, -0.002666616399, 0.02402148431),
}


def build_config() -> PPOCRV5MobileRecConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return PPOCRV5MobileRecConfig(
        hidden_size=24,
        num_attention_heads=4,
        head_out_channels=29,
        backbone_config=PPLCNetV3Config(
            divisor=16,
            out_features=["stage2", "stage3", "stage4", "stage5"],
            out_indices=[2, 3, 4, 5],
            scale=0.25,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> PPOCRV5MobileRecForTextRecognition:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(PPOCRV5MobileRecForTextRecognition, weights)
    model = PPOCRV5MobileRecForTextRecognition(
        PPOCRV5MobileRecConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: PPOCRV5MobileRecConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 96, 192), seed=seed),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
