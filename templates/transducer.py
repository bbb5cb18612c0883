"""Test of NemotronAsrStreaming: does it run here, and are its results right?

NemotronAsrStreamingForRNNT of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_nemotron_asr_streaming.py [--device cuda] [--help]
    pytest test_hf_nemotron_asr_streaming.py

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
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity, test_batch_invariance, test_gradients
from templates._compare import Tensors, assert_agree, assert_loss, first, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids, zeros
from templates._subject import Subject, placed, pretrained

try:
    import torch
    from transformers import (
        NemotronAsrStreamingConfig,
        NemotronAsrStreamingEncoderConfig,
        NemotronAsrStreamingForRNNT,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "NemotronAsrStreaming": "title",
    "test_hf_nemotron_asr_streaming.py": "script",
    "NemotronAsrStreamingConfig": "config_class",
    "NemotronAsrStreamingForRNNT": "model_class",
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

FAMILY = "nemotron_asr_streaming"
ARCHITECTURE = "transducer"
MODEL_CLASS = "NemotronAsrStreamingForRNNT"
CHECKPOINT = "nvidia/nemotron-speech-streaming-en-0.6b"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True}
OUTPUTS = {
    "last_hidden_state": (2, 13, 48),
    "pooler_output": (2, 13, 16),
    "hidden_states.0": (2, 13, 48),
    "hidden_states.1": (2, 13, 48),
    "hidden_states.2": (2, 13, 48),
    "logits": (2, 13, 7, 99),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "encoder_config.attention_bias": False,
    "encoder_config.convolution_bias": False,
    "encoder_config.scale_input": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "last_hidden_state": (1.074561993, 1.29240284, -0.877785511),
    "pooler_output": (0.5600204502, -0.2439631115, 0.106192869),
    "logits": (0.6052698074, 1.102832449, -0.9039903993),
    "all_outputs": (1.54581787, 0.4248392302, 0.3399616178),
    "encoder_config.attention_bias": (0.7050011464, 0.1742658671, -0.5415430285),
    "encoder_config.convolution_bias": (0.7061503731, 0.08515748893, 0.003713538038),
    "encoder_config.scale_input": (0.9254408114, 1.349925483, 0.00268818437),
}


def build_config() -> NemotronAsrStreamingConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return NemotronAsrStreamingConfig(
        vocab_size=99,
        blank_token_id=4,
        decoder_hidden_size=16,
        decoder_start_token_id=4,
        encoder_config=NemotronAsrStreamingEncoderConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=56,
            subsampling_conv_channels=12,
            num_mel_bins=16,
            max_position_embeddings=48,
            default_num_lookahead_tokens=2,
            sliding_window=4,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> NemotronAsrStreamingForRNNT:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(NemotronAsrStreamingForRNNT, weights)
    model = NemotronAsrStreamingForRNNT(
        NemotronAsrStreamingConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: NemotronAsrStreamingConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_features": normals(
            "input_features", shape=(2, 96, config.encoder_config.num_mel_bins), seed=seed
        ),
        "attention_mask": ragged_mask(lengths=(96, 71), width=96),
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
    }


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind a sound's end, and how much of it, changes nothing in its frames."""
    row = row_of(subject.inputs, 1)
    length, width = int(row["attention_mask"].sum()), row["attention_mask"].shape[1]
    expected = {"logits": subject.run(subject.model, first(row, length, width))["logits"]}
    frames = expected["logits"].shape[1]
    outputs = {"logits": subject.outputs["logits"][1:, :frames]}
    assert_agree(outputs, expected, subject.bounds, f"the {frames} frames of a padded sound")


def test_causality(subject: Subject) -> None:
    """A later token changes no score before it, later sound none of an earlier chunk of frames."""
    others = build_inputs(subject.model.config, subject.seed + 1)
    ids, sound = (
        subject.inputs["decoder_input_ids"].clone(),
        subject.inputs["input_features"].clone(),
    )
    ids[:, 4:] = others["decoder_input_ids"][:, 4:]
    after = subject.run(subject.model, subject.inputs | {"decoder_input_ids": ids})["logits"]
    expected = {"logits": subject.outputs["logits"][:, :, :4]}
    assert_agree({"logits": after[:, :, :4]}, expected, subject.bounds, "the first 4 tokens")
    (length, frames), *_ = chunks(subject.model.config.encoder_config)
    sound[:, length:] = others["input_features"][:, length:]
    after = subject.run(subject.model, subject.inputs | {"input_features": sound})["logits"]
    expected = {"logits": subject.outputs["logits"][:, :frames]}
    what = f"the {frames} frames of the first chunk"
    assert_agree({"logits": after[:, :frames]}, expected, subject.bounds, what)


def chunks(config: Any) -> list[tuple[int, int]]:
    """Spectra and frames of the chunks in which sound is heard: of the first, of two more.

    Frames of a chunk see each other and those of some chunks before it.
    """
    frames, factor = config.default_num_lookahead_tokens + 1, config.subsampling_factor
    return [(1 + factor * (frames - 1), frames), *[(factor * frames, frames)] * 2]


def test_cache(subject: Subject) -> None:
    """Tokens read one by one, each behind the state that the ones before left, score the same."""
    inputs, state, logits = dict(subject.inputs), None, []
    for inputs["decoder_input_ids"] in subject.inputs["decoder_input_ids"].split(1, dim=1):
        with torch.no_grad():
            step = subject.call(subject.model, inputs, decoder_cache=state, use_decoder_cache=True)
        state = step.decoder_cache
        logits.append(step.logits.cpu().double())
    expected = {"logits": subject.expected["logits"]}
    assert_agree({"logits": torch.stack(logits, 2)}, expected, subject.bounds, "one by one")


def test_chunked_prefill(subject: Subject) -> None:
    """Sound heard in chunks, each behind the caches of those before, has the frames of one pass."""
    inputs = {n: v for n, v in subject.inputs.items() if n != "attention_mask"}
    lengths = [length for length, _ in chunks(subject.model.config.encoder_config)]
    heard = inputs["input_features"][:, : sum(lengths)]
    expected = subject.run(subject.reference, inputs | {"input_features": heard})
    step, found = None, []
    for part in heard.split(lengths, 1):
        caches = {"use_cache": True}
        if step is not None:
            caches |= {
                "past_key_values": step.encoder_past_key_values,
                "padding_cache": step.padding_cache,
            }
        with torch.no_grad():
            step = subject.call(subject.model, inputs | {"input_features": part}, **caches)
        found.append(step.logits.cpu().double())
    outputs, expected = {"logits": torch.cat(found, 1)}, {"logits": expected["logits"]}
    assert_agree(outputs, expected, subject.bounds, f"sound in chunks of {lengths}")


def test_generate(subject: Subject) -> None:
    """Greedy decoding of each sound alone gives the tokens that it gives in the batch."""
    sounds = {n: v for n, v in subject.inputs.items() if n != "decoder_input_ids"}
    enough = {"max_new_tokens": 100}
    with torch.no_grad():
        both = subject.model.generate(**placed(sounds, subject.model), **enough).sequences
        for row in (0, 1):
            sound = placed(row_of(sounds, row), subject.model)
            alone = subject.model.generate(**sound, **enough).sequences
            tokens, expected = alone[0].tolist(), both[row].tolist()
            if subject.seed == SEED:  # with another a row may repeat one token
                assert len(set(tokens)) > 2, f"row {row} has the tokens {tokens}"
            assert tokens == expected[: len(tokens)], f"row {row}: {tokens} alone, else {expected}"


def test_loss(subject: Subject) -> None:
    """The loss is the negative log-likelihood of the tokens over all their alignments, per token.

    Frame by frame some tokens are said, then the blank moves on to the next frame.
    """
    labels, blank = subject.inputs["decoder_input_ids"], subject.model.config.blank_token_id
    ids = torch.cat([torch.full_like(labels[:, :1], blank), labels], 1)
    inputs = subject.inputs | {"decoder_input_ids": ids, "labels": labels}
    outputs = subject.run(subject.model, inputs)
    lengths = subject.model._get_subsampling_output_length(inputs["attention_mask"].sum(1))
    losses = []
    for row, said, length in zip(outputs["logits"].log_softmax(-1), labels, lengths, strict=True):
        likelihood = torch.full((len(ids[0]),), -torch.inf, dtype=torch.float64)
        likelihood[0] = 0  # of having said so many tokens
        for frame in row[:length]:
            path = torch.cat([torch.zeros(1), frame[:-1].gather(1, said[:, None])[:, 0].cumsum(0)])
            likelihood = path + (likelihood - path).logcumsumexp(0) + frame[:, blank]
        losses.append(-likelihood[-1])
    assert_loss(outputs["loss"], torch.stack(losses).sum() / labels.numel(), subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
