"""Test of AudioFlamingo3: does it run here, and are its results right?

AudioFlamingo3ForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_audioflamingo3.py [--device cuda] [--help]
    pytest test_hf_audioflamingo3.py

Exit code: 0 all checks pass, 1 one does not, 2 wrong usage, 3 mock (torch or transformers is not
installed: nothing was tested), 4 the device is not there. A check that is skipped says why.
"""

from __future__ import annotations

import sys

from templates._basics import (
    assert_sensitive,
    test_determinism,
    test_device_parity,
    test_dtype_bf16,
    test_forward,
    test_golden,
    test_gradients,
    test_isolation,
    test_placement,
    test_save_load,
    test_tying,
)
from templates._checks import test_attention_parity, test_causality, test_padding_invariance
from templates._compare import Tensors, assert_agree, assert_loss, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids, with_placeholders
from templates._subject import Subject, generate, pretrained

try:
    import torch
    from transformers import (
        AudioFlamingo3Config,
        AudioFlamingo3EncoderConfig,
        AudioFlamingo3ForConditionalGeneration,
        Qwen2Config,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "AudioFlamingo3": "title",
    "test_hf_audioflamingo3.py": "script",
    "AudioFlamingo3Config": "config_class",
    "AudioFlamingo3ForConditionalGeneration": "model_class",
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

FAMILY = "audioflamingo3"
ARCHITECTURE = "audio_language"
MODEL_CLASS = "AudioFlamingo3ForConditionalGeneration"
CHECKPOINT = "nvidia/audio-flamingo-3-hf"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 33, 99),
    "hidden_states.0": (2, 33, 32),
    "hidden_states.1": (2, 33, 32),
    "hidden_states.2": (2, 33, 32),
    "attentions.0": (2, 4, 33, 33),
    "attentions.1": (2, 4, 33, 33),
    "audio_hidden_states": (33, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "projector_bias": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.028407676, -0.2283577047, -2.782790733),
    "audio_hidden_states": (0.6128430213, 0.3690556005, 0.1245528566),
    "all_outputs": (0.4783455695, 0.5180700474, -0.08075976225),
    "projector_bias": (0.9754476798, -0.02952139235, -2.093718967),
}


def build_config() -> AudioFlamingo3Config:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return AudioFlamingo3Config(
        audio_token_id=4,
        audio_config=AudioFlamingo3EncoderConfig(
            num_mel_bins=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=56,
            hidden_size=48,
            max_source_positions=40,
        ),
        text_config=Qwen2Config(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            sliding_window=6,
            max_window_layers=1,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> AudioFlamingo3ForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(AudioFlamingo3ForConditionalGeneration, weights)
    model = AudioFlamingo3ForConditionalGeneration(
        AudioFlamingo3Config() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: AudioFlamingo3Config, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": with_placeholders(
            token_ids("input_ids", shape=(2, 33), low=5, high=99, seed=seed),
            token=config.audio_token_id,
            count=(20, 13),
        ),
        "attention_mask": ragged_mask(lengths=(33, 22), width=33),
        "input_features": normals(
            "input_features",
            shape=(
                2,
                config.audio_config.num_mel_bins,
                config.audio_config.max_source_positions * 2,
            ),
            seed=seed,
        ),
        "input_features_mask": ragged_mask(lengths=(80, 54), width=80),
    }


def test_sensitivity(subject: Subject) -> None:
    """Each input changes the output: else every other check would pass on nothing.

    The mask of a sound cannot change alone: it says how many placeholders the text must have.
    """
    masks = {n for n in subject.inputs if n.endswith("mask") and n != "attention_mask"}
    assert_sensitive(subject, [name for name in subject.inputs if name not in masks])


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone gives what it gives in the batch, though its text has fewer placeholders."""
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        expected = row_of({"logits": subject.outputs["logits"]}, row)
        assert_agree(alone, expected, subject.bounds, f"row {row} alone")


def test_cache(subject: Subject) -> None:
    """Reading the sound and the text, then decoding with the cache, gives what one pass gives."""
    ids, mask = subject.inputs["input_ids"], subject.inputs["attention_mask"]
    width, text = ids.shape[1], ("input_ids", "attention_mask")
    for sizes in ([width - 4, 1, 1, 1, 1], [width - 4, 4]):
        cache, logits, seen = None, [], 0
        inputs = {name: v for name, v in subject.inputs.items() if name not in text}
        for piece in ids.split(sizes, dim=1):  # the first has the sound
            seen += piece.shape[1]
            inputs |= {"input_ids": piece, "attention_mask": mask[:, :seen]}
            with torch.no_grad():
                step = subject.call(subject.model, inputs, past_key_values=cache, use_cache=True)
            cache, inputs = step.past_key_values, {}
            logits.append(step.logits.cpu().double())
        real = mask.bool()  # what stands behind a row's end is no answer
        expected = {"logits": subject.expected["logits"][real]}
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)[real]}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and for each row alone."""
    mask = torch.ones_like(subject.inputs["attention_mask"])
    inputs = subject.inputs | {"attention_mask": mask}
    cached = generate(subject, inputs, use_cache=True)
    assert_agree(
        generate(subject, inputs, use_cache=False), cached, subject.bounds, "without cache"
    )
    alone = generate(subject, row_of(inputs, 1), use_cache=True)
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row alone")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    labels = subject.inputs["input_ids"].clone()
    labels[:, ::3] = -100
    labels[subject.inputs["attention_mask"] == 0] = -100
    labels[labels >= subject.outputs["logits"].shape[-1]] = -100  # placeholders that are no tokens
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, following)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
