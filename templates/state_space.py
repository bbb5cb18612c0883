"""Test of Mamba: does it run here, and are its results right?

MambaForCausalLM of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_mamba.py [--device cuda] [--help]
    pytest test_hf_mamba.py

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
    test_batch_invariance,
    test_causality,
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
    from transformers import MambaConfig, MambaForCausalLM
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Mamba": "title",
    "test_hf_mamba.py": "script",
    "MambaConfig": "config_class",
    "MambaForCausalLM": "model_class",
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
    "CACHE": "constants.cache",
    "GOLDEN": "golden",
    "build_config": "config",
    "build_inputs": "inputs",
}

FAMILY = "mamba"
ARCHITECTURE = "state_space"
MODEL_CLASS = "MambaForCausalLM"
CHECKPOINT = "state-spaces/mamba-2.8b"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True}
OUTPUTS = {
    "logits": (2, 12, 99),
    "hidden_states.0": (2, 12, 32),
    "hidden_states.1": (2, 12, 32),
    "hidden_states.2": (2, 12, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ("logits",)  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "use_bias": True,
    "use_conv_bias": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
CACHE = "cache_params"  # the argument and output that holds the state
GOLDEN = {
    "logits": (1.081561191, -0.3191992744, 0.9575174205),
    "all_outputs": (0.6316504291, -0.05378046111, 0.7467377418),
    "use_bias": (1.088065482, -0.1862584691, 1.641170653),
    "use_conv_bias": (1.10697482, -0.02321211687, 0.7856025342),
}


def build_config() -> MambaConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return MambaConfig(vocab_size=99, hidden_size=32, state_size=6, num_hidden_layers=2)


def build_model(weights: str, size: str, seed: int) -> MambaForCausalLM:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(MambaForCausalLM, weights)
    model = MambaForCausalLM(MambaConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: MambaConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
    }


def test_cache(subject: Subject) -> None:
    """Decoding token by token from the state gives what one pass over all tokens gives in fp64."""
    assert_same_in_pieces(subject, [5, 1, 1, 1, 1, 1, 1, 1])


def test_chunked_prefill(subject: Subject) -> None:
    """A text read in two pieces, then token by token, gives what one pass gives in fp64."""
    assert_same_in_pieces(subject, [4, 4, 1, 1, 1, 1])


def assert_same_in_pieces(subject: Subject, sizes: list[int]) -> None:
    """Pieces of `sizes` tokens, each from the state after the last, give what one pass gives."""
    ids, state, logits = subject.inputs["input_ids"][:1], None, []  # the row without padding
    for piece in ids.split(sizes, dim=1):
        with torch.no_grad():
            options = {CACHE: state, "use_cache": True}
            step = subject.call(subject.model, {"input_ids": piece}, **options)
        state = step[CACHE]
        logits.append(step.logits.cpu().double())
    expected = {"logits": subject.expected["logits"][:1]}
    what = f"decoding in pieces of {sizes}"
    assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


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
