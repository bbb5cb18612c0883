"""Test of Bart: does it run here, and are its results right?

BartForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_bart.py [--device cuda] [--help]
    pytest test_hf_bart.py

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
    test_causality,
    test_padding_invariance,
    test_single_token,
)
from templates._compare import Tensors, flatten
from templates._main import main, subject
from templates._random import ragged_mask, set_weights, token_ids
from templates._seq2seq import test_cache, test_generate, test_loss
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import BartConfig, BartForConditionalGeneration
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Bart": "title",
    "test_hf_bart.py": "script",
    "BartConfig": "config_class",
    "BartForConditionalGeneration": "model_class",
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
}

FAMILY = "bart"
ARCHITECTURE = "encoder_decoder"
MODEL_CLASS = "BartForConditionalGeneration"
CHECKPOINT = "facebook/bart-large"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {  # further classes of the family -> their task
    "BartForCausalLM": "tokens",
    "BartForSequenceClassification": "class",
    "BartForQuestionAnswering": "question",
}
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 99),
    "decoder_hidden_states.0": (2, 7, 32),
    "decoder_hidden_states.1": (2, 7, 32),
    "decoder_hidden_states.2": (2, 7, 32),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 4, 7, 12),
    "cross_attentions.1": (2, 4, 7, 12),
    "encoder_last_hidden_state": (2, 12, 32),
    "encoder_hidden_states.0": (2, 12, 32),
    "encoder_hidden_states.1": (2, 12, 32),
    "encoder_hidden_states.2": (2, 12, 32),
    "encoder_attentions.0": (2, 4, 12, 12),
    "encoder_attentions.1": (2, 4, 12, 12),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "scale_embedding": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "BartForCausalLM.*.encoder_attn*": (
        "a decoder without an encoder's states leaves its cross-attention out"
    )
}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.18125358, 0.1447756792, 0.1163046686),
    "encoder_last_hidden_state": (1.135170622, 0.9122925476, 2.618635322),
    "all_outputs": (0.7491849843, 0.8966074266, 0.4252339809),
    "BartForCausalLM": (1.050206884, 1.039823599, 0.8892561841),
    "BartForSequenceClassification": (1.129928335, -0.8053758489, 1.994221837),
    "BartForQuestionAnswering": (1.131331081, -1.964234636, -0.8769095187),
    "scale_embedding": (1.199424816, 1.187450677, -0.05803264757),
}


def build_config() -> BartConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return BartConfig(
        vocab_size=99,
        max_position_embeddings=48,
        encoder_layers=2,
        encoder_ffn_dim=40,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=40,
        decoder_attention_heads=4,
        d_model=32,
    )


def build_model(weights: str, size: str, seed: int) -> BartForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(BartForConditionalGeneration, weights)
    model = BartForConditionalGeneration(BartConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: BartConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
