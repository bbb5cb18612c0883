"""Test of Llama: does it run here, and are its results right?

LlamaForCausalLM of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_llama.py [--device cuda] [--help]
    pytest test_hf_llama.py

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
    test_experts_parity,
    test_generate,
    test_padding_invariance,
    test_single_token,
)
from templates._compare import Tensors, assert_agree, assert_loss, flatten
from templates._main import main, subject
from templates._random import ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Llama": "title",
    "test_hf_llama.py": "script",
    "LlamaConfig": "config_class",
    "LlamaForCausalLM": "model_class",
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

FAMILY = "llama"
ARCHITECTURE = "decoder_only"
MODEL_CLASS = "LlamaForCausalLM"
CHECKPOINT = "meta-llama/Llama-2-7b-hf"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {  # further classes of the family -> their task
    "LlamaForSequenceClassification": "class",
    "LlamaForTokenClassification": "tokens",
    "LlamaForQuestionAnswering": "question",
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
    "attention_bias": True,
    "mlp_bias": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.025404838, 0.7297328871, -1.074646717),
    "all_outputs": (0.6329558581, 0.009408734925, -0.5617266461),
    "LlamaForSequenceClassification": (1.475594765, -1.63135231, 1.321169067),
    "LlamaForTokenClassification": (1.074893248, 1.473298531, -0.6464734074),
    "LlamaForQuestionAnswering": (1.424591013, -0.5760000554, -1.599482854),
    "attention_bias": (0.9429688281, 1.212168285, -1.683782563),
    "mlp_bias": (1.007277554, 0.7864768906, -1.448950097),
}


def build_config() -> LlamaConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
    )


def build_model(weights: str, size: str, seed: int) -> LlamaForCausalLM:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(LlamaForCausalLM, weights)
    model = LlamaForCausalLM(LlamaConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: LlamaConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
    }


def test_cache(subject: Subject) -> None:
    """Decoding token by token with the cache gives what one pass over all tokens gives in fp64."""
    assert_same_in_pieces(subject, [5, 1, 1, 1, 1, 1, 1, 1])


def test_chunked_prefill(subject: Subject) -> None:
    """A text read in two pieces, then token by token, gives what one pass gives in fp64."""
    assert_same_in_pieces(subject, [4, 4, 1, 1, 1, 1])


def assert_same_in_pieces(subject: Subject, sizes: list[int]) -> None:
    """Pieces of `sizes` tokens, one after the other with the cache, give what one pass gives."""
    ids, mask = subject.inputs["input_ids"], subject.inputs["attention_mask"]
    cache, logits, seen = None, [], 0
    for piece in ids.split(sizes, dim=1):
        seen += piece.shape[1]
        inputs = {"input_ids": piece, "attention_mask": mask[:, :seen]}
        with torch.no_grad():
            step = subject.call(subject.model, inputs, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        logits.append(step.logits.cpu().double())
    real = mask.bool()  # what stands behind a row's end is no answer
    expected = {"logits": subject.expected["logits"][real]}
    what = f"decoding in pieces of {sizes}"
    assert_agree({"logits": torch.cat(logits, 1)[real]}, expected, subject.bounds, what)


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    labels = subject.inputs["input_ids"].clone()
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, following)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
