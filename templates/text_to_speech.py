"""Test of FastSpeech2ConformerWithHifiGan: does it run here, and are its results right?

FastSpeech2ConformerWithHifiGan of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_fastspeech2_conformer.py [--device cuda] [--help]
    pytest test_hf_fastspeech2_conformer.py

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
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors
from templates._main import main, subject
from templates._random import ragged_mask, set_weights, token_ids
from templates._subject import Subject

try:
    import torch
    from transformers import (
        FastSpeech2ConformerConfig,
        FastSpeech2ConformerHifiGanConfig,
        FastSpeech2ConformerWithHifiGan,
        FastSpeech2ConformerWithHifiGanConfig,
    )
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "test_hf_fastspeech2_conformer.py": "script",
    "FastSpeech2ConformerWithHifiGanConfig": "config_class",
    "FastSpeech2ConformerWithHifiGan": "model_class",
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

FAMILY = "fastspeech2_conformer"
ARCHITECTURE = "text_to_speech"
MODEL_CLASS = "FastSpeech2ConformerWithHifiGan"
CHECKPOINT = "espnet/fastspeech2_conformer_with_hifigan"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ()  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "spectrogram": (2, 12, 16),
    "encoder_last_hidden_state": (2, 12, 48),
    "encoder_hidden_states.0": (2, 12, 48),
    "encoder_hidden_states.1": (2, 12, 48),
    "encoder_hidden_states.2": (2, 12, 48),
    "encoder_attentions.0": (2, 4, 12, 12),
    "encoder_attentions.1": (2, 4, 12, 12),
    "decoder_hidden_states.0": (2, 12, 48),
    "decoder_hidden_states.1": (2, 12, 48),
    "decoder_hidden_states.2": (2, 12, 48),
    "decoder_attentions.0": (2, 4, 12, 12),
    "decoder_attentions.1": (2, 4, 12, 12),
    "duration_outputs": (2, 12),
    "pitch_outputs": (2, 12, 1),
    "energy_outputs": (2, 12, 1),
    "waveform": (2, 96),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "spectrogram": (1.657738498, -1.173728658, -2.684423357),
    "encoder_last_hidden_state": (1.014685309, -1.645408559, 1.719955774),
    "duration_outputs": (1.0, -0.03623148718, 0.4034876046),
    "pitch_outputs": (0.4167092986, -0.4285037185, 0.3743123531),
    "energy_outputs": (0.6537834462, 0.1515167758, 0.6520754491),
    "waveform": (0.4974771031, 0.2073537757, -0.0008092350707),
}


def build_config() -> FastSpeech2ConformerWithHifiGanConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return FastSpeech2ConformerWithHifiGanConfig(
        model_config=FastSpeech2ConformerConfig(
            hidden_size=48,
            num_mel_bins=16,
            encoder_layers=2,
            decoder_layers=2,
            max_source_positions=40,
            encoder_linear_units=40,
            decoder_linear_units=40,
            encoder_num_attention_heads=4,
            decoder_num_attention_heads=4,
            decoder_kernel_size=7,
            speech_decoder_postnet_layers=2,
            speech_decoder_postnet_units=12,
            duration_predictor_channels=10,
            energy_predictor_channels=10,
            pitch_predictor_channels=10,
            pitch_predictor_layers=2,
        ),
        vocoder_config=FastSpeech2ConformerHifiGanConfig(
            model_in_dim=16,
            upsample_initial_channel=32,
            upsample_rates=[4, 2],
            upsample_kernel_sizes=[8, 4],
            resblock_kernel_sizes=[3, 5],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> FastSpeech2ConformerWithHifiGan:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        where = CHECKPOINT if weights == "pretrained" else weights
        return FastSpeech2ConformerWithHifiGan.from_pretrained(where)
    model = FastSpeech2ConformerWithHifiGan(
        FastSpeech2ConformerWithHifiGanConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: FastSpeech2ConformerWithHifiGanConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids("input_ids", shape=(2, 12), low=5, high=78, seed=seed),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
