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
from templates._compare import Tensors, assert_agree, first, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, placed

try:
    import torch
    from transformers import (
        NemotronAsrStreamingConfig,
        NemotronAsrStreamingEncoderConfig,
        NemotronAsrStreamingForRNNT,
    )
except ImportError as error:
    MISSING: ImportError | None = error
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
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "last_hidden_state": (1.076874132, 1.295133445, -0.8405655554),
    "pooler_output": (0.5594666387, -0.2771717284, -0.02470093943),
    "logits": (0.6052445928, 1.15635376, -0.9250753997),
}


def build_config() -> NemotronAsrStreamingConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return NemotronAsrStreamingConfig(
        vocab_size=99,
        decoder_hidden_size=16,
        blank_token_id=4,
        encoder_config=NemotronAsrStreamingEncoderConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=56,
            subsampling_conv_channels=12,
            num_mel_bins=16,
            max_position_embeddings=48,
            sliding_window=6,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> NemotronAsrStreamingForRNNT:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        where = CHECKPOINT if weights == "pretrained" else weights
        return NemotronAsrStreamingForRNNT.from_pretrained(where)
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
        "attention_mask": ragged_mask(lengths=(96, 70), width=96),
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
    }


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind a sound's end, and how much of it, changes nothing in its frames."""
    mask = subject.inputs["attention_mask"][1:]
    row = first(row_of(subject.inputs, 1), int(mask.sum()), mask.shape[1])
    expected = {"logits": subject.run(subject.model, row)["logits"]}
    frames = expected["logits"].shape[1]
    outputs = {"logits": subject.outputs["logits"][1:, :frames]}
    assert_agree(outputs, expected, subject.bounds, f"the {frames} frames of a padded sound")


def test_causality(subject: Subject) -> None:
    """A later token changes no score, of whatever frame, that stands before it."""
    ids = subject.inputs["decoder_input_ids"].clone()
    kept = ids.shape[1] - 3
    ids[:, kept:] = build_inputs(subject.model.config, subject.seed + 1)["decoder_input_ids"][
        :, kept:
    ]
    after = subject.run(subject.model, subject.inputs | {"decoder_input_ids": ids})["logits"]
    expected = {"logits": subject.outputs["logits"][:, :, :kept]}
    what = f"the scores behind the first {kept} tokens"
    assert_agree({"logits": after[:, :, :kept]}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding of each sound alone gives the tokens that it gives in the batch."""
    sounds = {n: v for n, v in subject.inputs.items() if n != "decoder_input_ids"}
    with torch.no_grad():
        both = subject.model.generate(**placed(sounds, subject.model))
        for row in (0, 1):
            alone = subject.model.generate(**placed(row_of(sounds, row), subject.model))
            tokens, expected = alone.sequences[0].tolist(), both.sequences[row].tolist()
            assert tokens == expected[: len(tokens)], f"row {row}: {tokens} alone, else {expected}"


if __name__ == "__main__":
    sys.exit(main(globals()))
