"""Test of Detr: does it run here, and are its results right?

DetrForObjectDetection of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_detr.py [--device cuda] [--help]
    pytest test_hf_detr.py

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
from templates._detection import CLASSES, detect, matched
from templates._main import main, subject
from templates._random import normals, ragged_pixels, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Detr": "title",
    "test_hf_detr.py": "script",
    "DetrConfig": "config_class",
    "DetrForObjectDetection": "model_class",
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

FAMILY = "detr"
ARCHITECTURE = "detection"
MODEL_CLASS = "DetrForObjectDetection"
CHECKPOINT = "facebook/detr-resnet-50"
REQUIRES: tuple[str, ...] = ("scipy",)  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 6),
    "pred_boxes": (2, 7, 4),
    "last_hidden_state": (2, 7, 32),
    "decoder_hidden_states.0": (2, 7, 32),
    "decoder_hidden_states.1": (2, 7, 32),
    "decoder_hidden_states.2": (2, 7, 32),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 4, 7, 6),
    "cross_attentions.1": (2, 4, 7, 6),
    "encoder_last_hidden_state": (2, 6, 32),
    "encoder_hidden_states.0": (2, 6, 32),
    "encoder_hidden_states.1": (2, 6, 32),
    "encoder_hidden_states.2": (2, 6, 32),
    "encoder_attentions.0": (2, 4, 6, 6),
    "encoder_attentions.1": (2, 4, 6, 6),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "auxiliary_loss": True,
    "backbone_config.downsample_in_bottleneck": True,
    "backbone_config.downsample_in_first_stage": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.decoder.layers.0.self_attn.v_proj.weight": "the decoder starts from zeros"
}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.8880401351, -0.01299915949, -0.3212195455),
    "pred_boxes": (0.5917123296, -0.09069956332, 0.4170394939),
    "last_hidden_state": (1.054465481, 0.6674223037, 0.009389034871),
    "encoder_last_hidden_state": (1.065572541, 1.410307374, 1.940395708),
    "all_outputs": (0.8237751741, -0.61623031, 0.05732296579),
    "auxiliary_loss": (1.059963715, -1.222153363, -1.361573174),
    "backbone_config.downsample_in_bottleneck": (1.028810735, -1.296154625, -1.15207233),
    "backbone_config.downsample_in_first_stage": (1.035450448, -0.147778689, -1.026795337),
}


def build_config() -> DetrConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return DetrConfig(
        num_queries=7,
        encoder_layers=2,
        encoder_ffn_dim=40,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=40,
        decoder_attention_heads=4,
        d_model=32,
        num_labels=5,
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            out_features=["stage4"],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> DetrForObjectDetection:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(DetrForObjectDetection, weights)
    model = DetrForObjectDetection(DetrConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: DetrConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "pixel_values": normals("pixel_values", shape=(2, 3, 96, 64), seed=seed),
        "pixel_mask": ragged_pixels(sizes=((96, 64), (64, 32))),
    }


def test_loss(subject: Subject) -> None:
    """The loss is that of the queries which match the objects best, one object in each image."""
    config, outputs = subject.model.config, detect(subject)
    logits, weights = outputs["logits"], (config.class_cost, config.bbox_cost, config.giou_cost)
    queries, distance, _, overlap = matched(outputs["pred_boxes"], -logits.softmax(-1), weights)
    targets = torch.full(logits.shape[:2], config.num_labels)  # the last class is "no object"
    targets[[0, 1], queries] = torch.tensor(CLASSES)
    rare = torch.ones(config.num_labels + 1, dtype=torch.float64)
    rare[-1] = config.eos_coefficient
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, rare)
    expected += config.bbox_loss_coefficient * distance.mean()
    expected += config.giou_loss_coefficient * (1 - overlap).mean()
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
