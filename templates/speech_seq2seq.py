"""Test of Whisper: does it run here, and are its results right?

WhisperForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_whisper.py [--device cuda] [--help]
    pytest test_hf_whisper.py

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
    test_tying,
)
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_causality,
    test_gradients,
)
from templates._compare import Tensors, flatten
from templates._main import main, subject
from templates._random import normals, set_weights, token_ids
from templates._seq2seq import test_cache, test_generate, test_loss
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Whisper": "title",
    "test_hf_whisper.py": "script",
    "WhisperConfig": "config_class",
    "WhisperForConditionalGeneration": "model_class",
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

FAMILY = "whisper"
ARCHITECTURE = "speech_seq2seq"
MODEL_CLASS = "WhisperForConditionalGeneration"
CHECKPOINT = "openai/whisper-tiny"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 99),
    "decoder_hidden_states.0": (2, 7, 48),
    "decoder_hidden_states.1": (2, 7, 48),
    "decoder_hidden_states.2": (2, 7, 48),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 4, 7, 40),
    "cross_attentions.1": (2, 4, 7, 40),
    "encoder_last_hidden_state": (2, 40, 48),
    "encoder_hidden_states.0": (2, 40, 48),
    "encoder_hidden_states.1": (2, 40, 48),
    "encoder_hidden_states.2": (2, 40, 48),
    "encoder_attentions.0": (2, 4, 40, 40),
    "encoder_attentions.1": (2, 4, 40, 40),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "WhisperForCausalLM.*.encoder_attn*": (
        "a decoder without an encoder's states leaves its cross-attention out"
    )
}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.149001848, -0.546112604, -0.5577038059),
    "encoder_last_hidden_state": (1.167475329, -1.039189816, -1.218408703),
    "all_outputs": (0.6620854126, 0.6947942964, -0.6306415335),
    "WhisperForCausalLM": (1.034497026, -0.47501656, -0.5422995555),
    "WhisperForAudioClassification": (1.284788975, 1.39755894, 0.409964939),
}


def build_config() -> WhisperConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return WhisperConfig(
        vocab_size=99,
        num_mel_bins=16,
        encoder_layers=2,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=56,
        encoder_ffn_dim=56,
        decoder_start_token_id=4,
        d_model=48,
        max_source_positions=40,
        max_target_positions=48,
        pad_token_id=3,
        bos_token_id=3,
        eos_token_id=3,
        begin_suppress_tokens=[],
        classifier_proj_size=12,
    )


def build_model(weights: str, size: str, seed: int) -> WhisperForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(WhisperForConditionalGeneration, weights)
    model = WhisperForConditionalGeneration(WhisperConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: WhisperConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_features": normals(
            "input_features",
            shape=(2, config.num_mel_bins, config.max_source_positions * 2),
            seed=seed,
        ),
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
