"""Test of LayoutLMv3: does it run here, and are its results right?

LayoutLMv3ForTokenClassification of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_layoutlmv3.py [--device cuda] [--help]
    pytest test_hf_layoutlmv3.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import math
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
    test_tying,
)
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_padding_invariance,
)
from templates._compare import Tensors, assert_loss
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import LayoutLMv3Config, LayoutLMv3ForTokenClassification
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "LayoutLMv3": "title",
    "test_hf_layoutlmv3.py": "script",
    "LayoutLMv3Config": "config_class",
    "LayoutLMv3ForTokenClassification": "model_class",
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
    "HEADS": "heads",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
}

FAMILY = "layoutlmv3"
ARCHITECTURE = "vision_text"
MODEL_CLASS = "LayoutLMv3ForTokenClassification"
CHECKPOINT = "microsoft/layoutlmv3-base"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 12, 5),
    "hidden_states.0": (2, 29, 32),
    "hidden_states.1": (2, 29, 32),
    "hidden_states.2": (2, 29, 32),
    "attentions.0": (2, 4, 29, 29),
    "attentions.1": (2, 4, 29, 29),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "has_relative_attention_bias": False,
    "has_spatial_attention_bias": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "layoutlmv3.encoder.rel_pos*_bias.weight": (
        "relative positions are looked up without tracking gradients, so that they never learn "
        "and the gradient is no slope"
    )
}  # parameters -> why they have none
HEADS: dict[str, str] = {
    "LayoutLMv3ForSequenceClassification": "class",
    "LayoutLMv3ForQuestionAnswering": "question",
}  # further classes of the family -> what they do
GOLDEN = {
    "logits": (1.34753893, -1.459713689, 1.408817011),
    "all_outputs": (0.5629471394, 0.1827668459, 0.382672183),
    "LayoutLMv3ForSequenceClassification": (0.4279399825, 0.2422873316, 0.2680932573),
    "LayoutLMv3ForQuestionAnswering": (0.7272800316, -0.0174522742, 0.06859181797),
    "has_relative_attention_bias": (1.349399714, -1.471033763, 1.391106269),
    "has_spatial_attention_bias": (1.348381567, -1.463410948, 1.387976592),
}


def build_config() -> LayoutLMv3Config:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return LayoutLMv3Config(
        vocab_size=99,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        patch_size=8,
        hidden_size=32,
        intermediate_size=40,
        num_labels=5,
        coordinate_size=6,
        shape_size=4,
        input_size=32,
        max_2d_position_embeddings=64,
    )


def build_model(weights: str, size: str, seed: int) -> LayoutLMv3ForTokenClassification:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(LayoutLMv3ForTokenClassification, weights)
    model = LayoutLMv3ForTokenClassification(
        LayoutLMv3Config() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: LayoutLMv3Config, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "token_type_ids": token_ids("token_type_ids", shape=(2, 12), low=0, high=2, seed=seed),
        "pixel_values": normals("pixel_values", shape=(2, 3, 32, 32), seed=seed),
        "bbox": token_ids("bbox", shape=(2, 12, 4), low=0, high=64, seed=seed),
    }


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy over the labels that count, those that are not -100."""
    name = next(name for name in subject.outputs if name.endswith(("logits", "score")))
    *shape, classes = subject.outputs[name].shape
    labels = (torch.arange(math.prod(shape)) % classes).reshape(shape)
    labels.view(-1)[2::3] = -100  # ignored
    outputs = subject.run(subject.model, subject.inputs, labels=labels.to(subject.device))
    scores = outputs[name].flatten(0, -2)
    expected = torch.nn.functional.cross_entropy(scores, labels.flatten())
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
