"""Test of FastSpeech2Conformer: does it run here, and are its results right?

FastSpeech2ConformerWithHifiGan of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_fastspeech2_conformer.py [--device cuda] [--help]
    pytest test_hf_fastspeech2_conformer.py

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
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, assert_loss, flatten, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids
from templates._subject import Subject, pretrained, unless_dead

try:
    import torch
    from transformers import (
        FastSpeech2ConformerConfig,
        FastSpeech2ConformerHifiGanConfig,
        FastSpeech2ConformerWithHifiGan,
        FastSpeech2ConformerWithHifiGanConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "FastSpeech2Conformer": "title",
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
    "SWITCHES": "switches",
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
    "spectrogram": (2, 19, 18),
    "encoder_last_hidden_state": (2, 12, 32),
    "encoder_hidden_states.0": (2, 12, 32),
    "encoder_hidden_states.1": (2, 12, 32),
    "encoder_hidden_states.2": (2, 12, 32),
    "encoder_attentions.0": (2, 4, 12, 12),
    "encoder_attentions.1": (2, 4, 12, 12),
    "decoder_hidden_states.0": (2, 19, 32),
    "decoder_hidden_states.1": (2, 19, 32),
    "decoder_hidden_states.2": (2, 19, 32),
    "decoder_attentions.0": (2, 2, 19, 19),
    "decoder_attentions.1": (2, 2, 19, 19),
    "duration_outputs": (2, 12),
    "pitch_outputs": (2, 12, 1),
    "energy_outputs": (2, 12, 1),
    "waveform": (2, 152),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "model_config.convolution_bias": False,
    "model_config.use_macaron_style_in_conformer": False,
    "vocoder_config.normalize_before": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.duration_predictor.*": "durations are rounded, which passes no gradient"
}  # parameters -> why they have none
GOLDEN = {
    "spectrogram": (1.516082409, 0.7600538386, 0.5401264737),
    "encoder_last_hidden_state": (1.040684265, 1.191125017, -0.7849321066),
    "duration_outputs": (4.430011287, 1.549563538, 1.688948899),
    "pitch_outputs": (0.8046557008, 0.5524336871, -0.1358473495),
    "energy_outputs": (0.342187316, -0.4044549304, 0.01042332838),
    "waveform": (0.6164532787, -0.3098777876, 0.08739317844),
    "all_outputs": (2.219409219, 2.307912356, -0.2882614265),
    "model_config.convolution_bias": (1.34619987, -0.9550141275, 0.3968343325),
    "model_config.use_macaron_style_in_conformer": (1.412006774, 1.66162163, 0.152781255),
    "vocoder_config.normalize_before": (1.281422193, 1.437561167, 0.005555950642),
}


def build_config() -> FastSpeech2ConformerWithHifiGanConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return FastSpeech2ConformerWithHifiGanConfig(
        model_config=FastSpeech2ConformerConfig(
            max_source_positions=40,
            hidden_size=32,
            speaking_speed=0.5,
            num_mel_bins=18,
            encoder_num_attention_heads=4,
            encoder_layers=2,
            encoder_linear_units=40,
            decoder_layers=2,
            decoder_num_attention_heads=2,
            decoder_linear_units=44,
            decoder_kernel_size=7,
            encoder_kernel_size=5,
            speech_decoder_postnet_layers=2,
            speech_decoder_postnet_units=20,
            duration_predictor_channels=62,
            energy_predictor_channels=10,
            pitch_predictor_channels=22,
            pitch_predictor_layers=2,
        ),
        vocoder_config=FastSpeech2ConformerHifiGanConfig(
            model_in_dim=18,
            upsample_initial_channel=16,
            upsample_rates=[4, 2],
            upsample_kernel_sizes=[8, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> FastSpeech2ConformerWithHifiGan:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(FastSpeech2ConformerWithHifiGan, weights)
    config = FastSpeech2ConformerWithHifiGanConfig() if size == "full" else build_config()
    model = FastSpeech2ConformerWithHifiGan(config)
    set_weights(model, seed)
    return model


def build_inputs(config: FastSpeech2ConformerWithHifiGanConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": token_ids(
            "input_ids", shape=(2, 12), low=5, high=config.model_config.vocab_size, seed=seed
        ),
        "attention_mask": ragged_mask(lengths=(12, 9), width=12),
    }


def test_batch_invariance(subject: Subject) -> None:
    """The text that makes the longest sound makes the same sound alone.

    The other sound is filled up in the batch, and the convolutions at its end read what it is
    filled up with. Weights of another seed may give a text no sound at all; alone it then has one.
    """
    unless_dead(subject, lambda model: assert_same_alone(subject, model))


def assert_same_alone(subject: Subject, model: Any) -> None:
    """The text of which `model` makes the longest sound makes the same sound alone."""
    alone = [subject.run(model, row_of(subject.inputs, row)) for row in (0, 1)]
    lengths, batch = [outputs["waveform"].shape[1] for outputs in alone], subject.outputs
    longest = lengths.index(max(lengths))
    assert batch["waveform"].shape[1] == max(lengths), f"{lengths} samples alone"
    expected = row_of({name: batch[name] for name in alone[longest]}, longest)
    assert_agree(alone[longest], expected, subject.bounds, f"row {longest} alone")


def test_padding_invariance(subject: Subject) -> None:
    """A text makes the same sound however much it is padded."""
    padded = row_of(subject.inputs, 1)
    length = int(padded["attention_mask"].sum())
    outputs = subject.run(subject.model, padded)
    bare = subject.run(subject.model, {name: v[:, :length] for name, v in padded.items()})
    sounds = {name: bare[name] for name in ("spectrogram", "waveform")}
    assert_agree(outputs, sounds, subject.bounds, f"a text without its padding, {length} tokens")


def test_loss(subject: Subject) -> None:
    """The loss is that of spectra, before and behind the last convolutions, and the predictors.

    In training durations are logarithms, and the given ones say how long the spectrogram is.
    """
    model, ids = subject.fresh().train(), subject.inputs["input_ids"]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    durations = token_ids("durations", tuple(ids.shape), 1, 4) * subject.inputs["attention_mask"]
    frames = int(durations.sum(1).max())
    spectrogram = normals("spectrogram", (2, frames, model.config.model_config.num_mel_bins))
    seen = torch.arange(frames) < durations.sum(1, keepdim=True)
    spectrogram[~seen] = -100  # no label
    labels = {"spectrogram_labels": spectrogram, "duration_labels": durations}
    labels |= {f"{name}_labels": normals(name, (*ids.shape, 1)) for name in ("pitch", "energy")}
    kept: list[Tensors] = []
    postnet = model.model.speech_decoder_postnet
    postnet.register_forward_hook(lambda *call: kept.append(flatten({"spectrogram": call[-1]})))
    found = subject.run(model, subject.inputs | labels)
    told = subject.inputs["attention_mask"].bool()
    expected = torch.zeros((), dtype=torch.float64)
    for value in kept[0].values():  # before and behind the last convolutions
        expected += (value.cpu().double() - spectrogram)[seen].abs().mean()
    expected += (found["duration_outputs"] - (durations + 1.0).double().log())[told].square().mean()
    for name in ("pitch", "energy"):
        expected += (found[f"{name}_outputs"] - labels[f"{name}_labels"])[told].square().mean()
    assert_loss(found["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
