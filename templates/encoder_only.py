"""Test of Bert: does it run here, and are its results right?

BertForMaskedLM of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_bert.py [--device cuda] [--help]
    pytest test_hf_bert.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys
from typing import Any

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
    test_single_token,
)
from templates._compare import Tensors, assert_loss, flatten
from templates._main import main, subject
from templates._parts import test_parts
from templates._random import ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import BertConfig, BertForMaskedLM
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Bert": "title",
    "test_hf_bert.py": "script",
    "BertConfig": "config_class",
    "BertForMaskedLM": "model_class",
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
    "build_parts": "parts",
}

FAMILY = "bert"
ARCHITECTURE = "encoder_only"
MODEL_CLASS = "BertForMaskedLM"
CHECKPOINT = "google-bert/bert-base-uncased"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {  # further classes of the family -> their task
    "BertLMHeadModel": "next_token",
    "BertForSequenceClassification": "class",
    "BertForTokenClassification": "tokens",
    "BertForQuestionAnswering": "question",
    "BertForMultipleChoice": "choice",
    "BertForNextSentencePrediction": "class",
}
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 12, 99),
    "hidden_states.0": (2, 12, 32),
    "hidden_states.1": (2, 12, 32),
    "hidden_states.2": (2, 12, 32),
    "attentions.0": (2, 4, 12, 12),
    "attentions.1": (2, 4, 12, 12),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "is_decoder": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.146605087, 0.02135847056, -0.2285536471),
    "all_outputs": (0.7659049778, -0.2427486889, 0.01512928085),
    "BertLMHeadModel": (1.146605087, 0.02135847056, -0.2285536471),
    "BertForSequenceClassification": (0.8347621985, -0.1471489039, 0.112286921),
    "BertForTokenClassification": (1.218061298, 0.2144088634, -0.6334129806),
    "BertForQuestionAnswering": (1.12434306, 0.8876990896, 0.9920870786),
    "BertForMultipleChoice": (1.304904342, -2.017239662, 1.374666),
    "BertForNextSentencePrediction": (0.8636182039, 0.906783229, -0.5797904889),
    "is_decoder": (1.098713902, 0.1818302424, 0.577039498),
}


def build_config() -> BertConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=48,
    )


def build_model(weights: str, size: str, seed: int) -> BertForMaskedLM:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(BertForMaskedLM, weights)
    model = BertForMaskedLM(BertConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: BertConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "token_type_ids": token_ids("token_type_ids", shape=(2, 12), low=0, high=2, seed=seed),
    }


def build_parts(config: BertConfig, seed: int) -> dict[str, tuple[Any, Any, Tensors]]:
    """What else belongs to the model: classes, their configurations and inputs."""
    return {}


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of the labelled positions (label -100: none)."""
    labels = subject.inputs["input_ids"] % subject.outputs["logits"].shape[-1]
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits = outputs["logits"].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten())
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
