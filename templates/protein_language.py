"""Test of Evolla: does it run here, and are its results right?

EvollaForProteinText2Text of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_evolla.py [--device cuda] [--help]
    pytest test_hf_evolla.py

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
from templates._checks import test_attention_parity, test_batch_invariance, test_causality
from templates._compare import Tensors, assert_agree, assert_loss, row_of, within
from templates._main import main, subject
from templates._random import ragged_mask, set_weights, token_ids
from templates._subject import Subject, generate, pretrained

try:
    import torch
    from transformers import EvollaConfig, EvollaForProteinText2Text
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Evolla": "title",
    "test_hf_evolla.py": "script",
    "EvollaConfig": "config_class",
    "EvollaForProteinText2Text": "model_class",
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

FAMILY = "evolla"
ARCHITECTURE = "protein_language"
MODEL_CLASS = "EvollaForProteinText2Text"
CHECKPOINT = "westlake-repl/Evolla-10B-hf"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 12, 99),
    "hidden_states.0": (2, 12, 32),
    "hidden_states.1": (2, 12, 32),
    "hidden_states.2": (2, 12, 32),
    "hidden_states.3": (2, 12, 32),
    "hidden_states.4": (2, 12, 32),
    "attentions.0": (2, 4, 12, 12),
    "attentions.1": (2, 4, 12, 12),
    "attentions.2": (2, 4, 12, 12),
    "attentions.3": (2, 4, 12, 12),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "aligner_enable_bias": False,
    "attention_bias": True,
    "mlp_bias": True,
    "protein_encoder_config.emb_layer_norm_before": True,
    "protein_encoder_config.token_dropout": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.9567744265, 1.986993502, -1.446618626),
    "all_outputs": (0.8473464463, -0.0216871286, -0.2998481766),
    "aligner_enable_bias": (0.9607295157, 1.918458617, -1.504265637),
    "attention_bias": (0.936568483, 1.454227306, -2.004987638),
    "mlp_bias": (1.009916007, 1.390648409, -1.163138559),
    "protein_encoder_config.emb_layer_norm_before": (0.9536660277, 2.173128365, -1.532707691),
    "protein_encoder_config.token_dropout": (0.9564774181, 1.990669065, -1.449795031),
}


def build_config() -> EvollaConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return EvollaConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        bos_token_id=4,
        eos_token_id=3,
        num_hidden_layers=4,
        aligner_num_add_layers=2,
        aligner_ffn_mult=2,
        resampler_depth=2,
        resampler_dim_head=6,
        resampler_heads=2,
        resampler_num_latents=7,
        resampler_ff_mult=2,
        protein_encoder_config={
            "vocab_size": 46,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 28,
            "max_position_embeddings": 48,
        },
    )


def build_model(weights: str, size: str, seed: int) -> EvollaForProteinText2Text:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(EvollaForProteinText2Text, weights)
    model = EvollaForProteinText2Text(EvollaConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: EvollaConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=99, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
        "protein_input_ids": token_ids(
            "protein_input_ids", low=5, high=46, shape=(2, 15), seed=seed
        ),
        "protein_attention_mask": ragged_mask(lengths=(15, 11), width=15),
    }


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind the end of a text or of a protein changes nothing."""
    padded = row_of(subject.inputs, 1)
    cut = {}
    for name, value in padded.items():
        mask = padded["protein_attention_mask" if "protein" in name else "attention_mask"]
        cut[name] = value[:, : int(mask.sum())]
    expected = subject.run(subject.model, cut)
    outputs = within(subject.run(subject.model, padded), expected)
    assert_agree(outputs, expected, subject.bounds, "a padded text about a padded protein")


def test_cache(subject: Subject) -> None:
    """Reading the text in pieces with the cache, the protein with each, gives what one pass gives.

    So `generate` does it, which gives no mask where nothing is padded.
    """
    whole = {name: v for name, v in subject.inputs.items() if name != "attention_mask"}
    expected = subject.run(subject.reference, whole)
    for sizes in ([8, 1, 1, 1, 1], [8, 4]):
        cache, logits = None, []
        for piece in whole["input_ids"].split(sizes, dim=1):
            options = {"past_key_values": cache, "use_cache": True}
            with torch.no_grad():
                step = subject.call(subject.model, whole | {"input_ids": piece}, **options)
            cache = step.past_key_values
            logits.append(step.logits.cpu().double())
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and without padding on the left."""
    inputs, bounds = dict(subject.inputs), subject.bounds
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["attention_mask"])
    inputs["attention_mask"] = mask
    cached = generate(subject, inputs, use_cache=True)
    assert_agree(generate(subject, inputs, use_cache=False), cached, bounds, "without the cache")
    bare = row_of(inputs, 1)
    alone = generate(subject, bare, use_cache=True)
    assert_agree(alone, row_of(cached, 1), bounds, "a row alone")
    padding = torch.zeros_like(ids[:, :3])
    padded = {"input_ids": torch.cat([padding, ids], 1)[1:]}
    padded["attention_mask"] = torch.cat([padding, mask], 1)[1:]
    for use_cache in (False, True):
        found = generate(subject, bare | padded, use_cache=use_cache)
        assert_agree(found, alone, bounds, f"padded on the left, use_cache {use_cache}")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    labels = subject.inputs["input_ids"].clone()
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, :-1], labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), following)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
