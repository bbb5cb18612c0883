"""Test of DeformableDetr: does it run here, and are its results right?

DeformableDetrForObjectDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_deformable_detr.py [--device cuda] [--help]
    pytest test_hf_deformable_detr.py

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
from templates._detection import CLASSES, detect, focal_cost, matched
from templates._main import main, subject
from templates._random import normals, ragged_pixels, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "DeformableDetr": "title",
    "test_hf_deformable_detr.py": "script",
    "DeformableDetrConfig": "config_class",
    "DeformableDetrForObjectDetection": "model_class",
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

FAMILY = "deformable_detr"
ARCHITECTURE = "focal_detection"
MODEL_CLASS = "DeformableDetrForObjectDetection"
CHECKPOINT = "SenseTime/deformable-detr"
REQUIRES: tuple[str, ...] = ("scipy",)  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 5),
    "pred_boxes": (2, 7, 4),
    "last_hidden_state": (2, 7, 64),
    "decoder_hidden_states.0": (2, 7, 64),
    "decoder_hidden_states.1": (2, 7, 64),
    "decoder_hidden_states.2": (2, 7, 64),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 7, 4, 4, 4),
    "cross_attentions.1": (2, 7, 4, 4, 4),
    "encoder_last_hidden_state": (2, 128, 64),
    "encoder_hidden_states.0": (2, 128, 64),
    "encoder_hidden_states.1": (2, 128, 64),
    "encoder_hidden_states.2": (2, 128, 64),
    "encoder_attentions.0": (2, 128, 4, 4, 4),
    "encoder_attentions.1": (2, 128, 4, 4, 4),
    "init_reference_points": (2, 7, 2),
    "intermediate_hidden_states": (2, 2, 7, 64),
    "intermediate_reference_points": (2, 2, 7, 2),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "backbone_config.downsample_in_bottleneck": True,
    "backbone_config.downsample_in_first_stage": True,
    "with_box_refine": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.6447779692, -0.1825725898, 0.1837438469),
    "pred_boxes": (0.6167616524, 9.189620712e-05, 0.382558595),
    "last_hidden_state": (1.101190251, -0.2170801433, -0.6025253904),
    "encoder_last_hidden_state": (1.1159245, 1.401228193, -0.5384304089),
    "init_reference_points": (0.5306667341, -0.1391435382, 0.2935223811),
    "intermediate_hidden_states": (1.063410352, 0.9324039724, -1.082929814),
    "intermediate_reference_points": (0.5306667341, -0.009725953225, 0.3810699612),
    "all_outputs": (0.8412218779, -0.3285474343, -0.4042555819),
    "backbone_config.downsample_in_bottleneck": (1.107947595, -2.13177281, -0.277663537),
    "backbone_config.downsample_in_first_stage": (1.115590878, -0.2385895678, 0.2793982793),
    "with_box_refine": (1.100074347, -2.652852082, -0.223770583),
}


def build_config() -> DeformableDetrConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return DeformableDetrConfig(
        num_queries=7,
        max_position_embeddings=48,
        encoder_layers=2,
        encoder_ffn_dim=40,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=40,
        decoder_attention_heads=4,
        num_labels=5,
        d_model=64,
        position_embedding_type="learned",
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            out_features=["stage2", "stage3", "stage4"],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> DeformableDetrForObjectDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(DeformableDetrForObjectDetection, weights)
    model = DeformableDetrForObjectDetection(
        DeformableDetrConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: DeformableDetrConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 96, 64), seed=seed),
        "pixel_mask": ragged_pixels(sizes=((96, 64), (64, 32))),
    }


def test_loss(subject: Subject) -> None:
    """The loss is the focal one of the queries which match the objects best, one in each image."""
    config, outputs = subject.model.config, detect(subject)
    logits, weights = outputs["logits"], (config.class_cost, config.bbox_cost, config.giou_cost)
    queries, distance, _, overlap = matched(outputs["pred_boxes"], focal_cost(logits), weights)
    targets = torch.zeros_like(logits)
    targets[[0, 1], queries, CLASSES] = 1
    missed = (logits.sigmoid() - targets).abs()  # 1 - the chance of what is right
    share = config.focal_alpha * targets + (1 - config.focal_alpha) * (1 - targets)
    expected = -(share * missed**2 * (1 - missed).log()).sum() / 2
    expected += config.bbox_loss_coefficient * distance.mean()
    expected += config.giou_loss_coefficient * (1 - overlap).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
