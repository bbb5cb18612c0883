"""Test of RTDetr: does it run here, and are its results right?

RTDetrForObjectDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_rt_detr.py [--device cuda] [--help]
    pytest test_hf_rt_detr.py

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
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "RTDetr": "title",
    "test_hf_rt_detr.py": "script",
    "RTDetrConfig": "config_class",
    "RTDetrForObjectDetection": "model_class",
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

FAMILY = "rt_detr"
ARCHITECTURE = "varifocal_detection"
MODEL_CLASS = "RTDetrForObjectDetection"
CHECKPOINT = "PekingU/rtdetr_r50vd"
REQUIRES: tuple[str, ...] = ("scipy",)  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 5),
    "pred_boxes": (2, 7, 4),
    "last_hidden_state": (2, 7, 32),
    "intermediate_hidden_states": (2, 2, 7, 32),
    "intermediate_logits": (2, 2, 7, 5),
    "intermediate_reference_points": (2, 2, 7, 4),
    "decoder_hidden_states.0": (2, 7, 32),
    "decoder_hidden_states.1": (2, 7, 32),
    "decoder_hidden_states.2": (2, 7, 32),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 7, 4, 3, 4),
    "cross_attentions.1": (2, 7, 4, 3, 4),
    "encoder_last_hidden_state.0": (2, 24, 12, 8),
    "encoder_last_hidden_state.1": (2, 24, 6, 4),
    "encoder_last_hidden_state.2": (2, 24, 3, 2),
    "encoder_hidden_states.0": (2, 24, 3, 2),
    "encoder_hidden_states.1": (2, 24, 3, 2),
    "encoder_attentions.0": (2, 4, 6, 6),
    "init_reference_points": (2, 7, 4),
    "enc_topk_logits": (2, 7, 5),
    "enc_topk_bboxes": (2, 7, 4),
    "enc_outputs_class": (2, 126, 5),
    "enc_outputs_coord_logits": (2, 126, 4),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "backbone_config.downsample_in_bottleneck": True,
    "normalize_before": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {
    "pixel_mask": "the backbone makes masks of pixel_mask, which nothing reads"
}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.denoising_class_embed.weight": (
        "embeds noisy objects, which are added while training only"
    )
}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.814245776, -0.4852956863, -1.092082797),
    "pred_boxes": (0.1892866491, -0.1237916273, 0.02745188245),
    "last_hidden_state": (1.012386195, 0.3707900071, -0.3872934815),
    "intermediate_hidden_states": (1.073007731, -0.3374591242, 0.2258281164),
    "intermediate_logits": (1.710820457, -0.1492577281, -0.74118832),
    "intermediate_reference_points": (0.2093713709, 0.03036119251, -0.1242307046),
    "encoder_last_hidden_state.0": (0.3605984008, 0.5144071311, -0.04338511817),
    "encoder_last_hidden_state.1": (0.2604656022, -0.07883081173, -0.2251663836),
    "encoder_last_hidden_state.2": (0.3798593628, 0.07801860749, -0.08415008804),
    "init_reference_points": (2.900819903, -0.806009987, -1.701504004),
    "enc_topk_logits": (1.584667679, -1.417086644, -0.2336067937),
    "enc_topk_bboxes": (0.2769124035, -0.123484338, 0.08568840631),
    "enc_outputs_class": (1.763173771, -0.9176041614, 2.612932302),
    "enc_outputs_coord_logits": (2.499450253, -2.637543561, -0.7188415804),
    "all_outputs": (0.6507051907, -0.1088132376, 0.9278537986),
    "backbone_config.downsample_in_bottleneck": (1.158728288, -1.636300292, 1.276898657),
    "normalize_before": (1.159329436, -1.626013445, 1.333682007),
}


def build_config() -> RTDetrConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return RTDetrConfig(
        encoder_ffn_dim=40,
        encoder_attention_heads=4,
        d_model=32,
        num_queries=7,
        decoder_ffn_dim=40,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_labels=5,
        encoder_in_channels=[16, 32, 64],
        encoder_hidden_dim=24,
        decoder_in_channels=[24, 24, 24],
        auxiliary_loss=False,
        backbone_config=RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            out_indices=[2, 3, 4],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> RTDetrForObjectDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(RTDetrForObjectDetection, weights)
    model = RTDetrForObjectDetection(RTDetrConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: RTDetrConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 96, 64), seed=seed),
        "pixel_mask": ragged_pixels(sizes=((96, 64), (64, 32))),
    }


def test_loss(subject: Subject) -> None:
    """The loss wants of the query that matches an object best a score as high as they overlap."""
    config, outputs = subject.model.config, detect(subject)
    logits = outputs["logits"]
    weights = (config.matcher_class_cost, config.matcher_bbox_cost, config.matcher_giou_cost)
    queries, distance, plain, overlap = matched(outputs["pred_boxes"], focal_cost(logits), weights)
    targets, others = torch.zeros_like(logits), torch.ones_like(logits)
    targets[[0, 1], queries, CLASSES] = plain
    others[[0, 1], queries, CLASSES] = 0
    share = config.focal_loss_alpha * logits.sigmoid() ** config.focal_loss_gamma * others + targets
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = config.weight_loss_vfl * entropy(logits, targets, share, reduction="sum") / 2
    expected += config.weight_loss_bbox * distance.mean()
    expected += config.weight_loss_giou * (1 - overlap).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
