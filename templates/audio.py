"""Test of Wav2Vec2: does it run here, and are its results right?

Wav2Vec2ForCTC of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_wav2vec2.py [--device cuda] [--help]
    pytest test_hf_wav2vec2.py

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
    test_heads,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity, test_batch_invariance, test_gradients
from templates._compare import Tensors, assert_agree, assert_loss, first, row_of
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Wav2Vec2": "title",
    "test_hf_wav2vec2.py": "script",
    "Wav2Vec2Config": "config_class",
    "Wav2Vec2ForCTC": "model_class",
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

FAMILY = "wav2vec2"
ARCHITECTURE = "audio"
MODEL_CLASS = "Wav2Vec2ForCTC"
CHECKPOINT = "facebook/wav2vec2-base-960h"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {
    "Wav2Vec2ForSequenceClassification": "class",
    "Wav2Vec2ForAudioFrameClassification": "frames",
}
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 9, 32),
    "hidden_states.0": (2, 9, 32),
    "hidden_states.1": (2, 9, 32),
    "hidden_states.2": (2, 9, 32),
    "attentions.0": (2, 4, 9, 9),
    "attentions.1": (2, 4, 9, 9),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "add_adapter": True,
    "conv_bias": True,
    "do_stable_layer_norm": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "wav2vec2.masked_spec_embed": "time steps are masked in training only"
}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.309899769, -0.8123573411, 0.481741444),
    "all_outputs": (1.150335446, -0.3968190442, -1.704739426),
    "Wav2Vec2ForSequenceClassification": (0.3498241106, 0.1009466886, -0.0004150814043),
    "Wav2Vec2ForAudioFrameClassification": (1.061874388, 0.4379951465, 0.04467044426),
    "add_adapter": (0.3727939928, -0.4187859787, -0.2796556868),
    "conv_bias": (1.302820577, 0.320474794, -0.1456722186),
    "do_stable_layer_norm": (1.368205735, -0.8217322731, 0.1731701307),
}


def build_config() -> Wav2Vec2Config:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        conv_dim=[16, 16, 16, 16, 16, 16, 16],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=12,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def build_model(weights: str, size: str, seed: int) -> Wav2Vec2ForCTC:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(Wav2Vec2ForCTC, weights)
    model = Wav2Vec2ForCTC(Wav2Vec2Config() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: Wav2Vec2Config, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_values": normals("input_values", shape=(2, 3200), seed=seed),
        "attention_mask": ragged_mask(lengths=(3200, 2400), width=3200),
    }


def sound_without_padding(subject: Subject) -> Tensors:
    """The second sound as long as its mask says."""
    mask = subject.inputs["attention_mask"][1:]
    return first(row_of(subject.inputs, 1), int(mask.sum()), mask.shape[1])


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind a sound's end, and how much of it, changes nothing in its frames."""
    expected = subject.run(subject.model, sound_without_padding(subject))
    frames = expected["logits"].shape[1]
    outputs = {"logits": subject.outputs["logits"][1:, :frames]}
    assert_agree(outputs, expected, subject.bounds, f"the {frames} frames of a padded sound")


def test_loss(subject: Subject) -> None:
    """The loss is the connectionist temporal classification of the labels (-100: none).

    A padded sound counts as many frames as it has without its padding.
    """
    labels = torch.tensor([[7, 11, 13], [8, 9, -100]])
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    alone = subject.run(subject.model, sound_without_padding(subject))
    frames = torch.tensor([outputs["logits"].shape[1], alone["logits"].shape[1]])
    scores, config = outputs["logits"].log_softmax(-1).transpose(0, 1), subject.model.config
    flat, counts = labels[labels >= 0], (labels >= 0).sum(1)
    options = {"blank": config.pad_token_id, "reduction": config.ctc_loss_reduction}
    expected = torch.nn.functional.ctc_loss(scores, flat, frames, counts, **options)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
