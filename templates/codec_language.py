"""Test of Csm: does it run here, and are its results right?

CsmForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_csm.py [--device cuda] [--help]
    pytest test_hf_csm.py

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
    test_heads,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
)
from templates._checks import test_attention_parity
from templates._compare import Tensors, assert_agree, row_of
from templates._main import main, subject
from templates._parts import test_parts
from templates._random import (
    normals,
    numbers,
    ragged_mask,
    set_weights,
    token_ids,
    with_placeholders,
)
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import (
        CsmConfig,
        CsmDepthDecoderConfig,
        CsmForConditionalGeneration,
        MimiConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Csm": "title",
    "test_hf_csm.py": "script",
    "CsmConfig": "config_class",
    "CsmForConditionalGeneration": "model_class",
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
    "build_parts": "parts",
}

FAMILY = "csm"
ARCHITECTURE = "codec_language"
MODEL_CLASS = "CsmForConditionalGeneration"
CHECKPOINT = "sesame/csm-1b"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 20, 99),
    "hidden_states.0": (2, 20, 32),
    "hidden_states.1": (2, 20, 32),
    "hidden_states.2": (2, 20, 32),
    "attentions.0": (2, 4, 20, 20),
    "attentions.1": (2, 4, 20, 20),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "attention_bias": True,
    "codec_config.attention_bias": True,
    "codec_config.use_causal_conv": False,
    "codec_config.use_conv_shortcut": True,
    "mlp_bias": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "depth_decoder.*": "the depth decoder is read for labels only, the codec without gradient",
    "codec_model.*": "the depth decoder is read for labels only, the codec without gradient",
}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.080566877, -1.240917265, 1.106373816),
    "all_outputs": (0.4915519302, 0.2090869395, -0.05803661685),
    "speaking": (0.6393228748, 1.682647163, -0.61179023),
    "attention_bias": (1.082111887, -1.919678055, 0.2133754532),
    "codec_config.attention_bias": (1.079382599, -1.030432673, 0.5084136034),
    "codec_config.use_causal_conv": (1.090659215, -1.862068502, 1.001856899),
    "codec_config.use_conv_shortcut": (1.060369505, -1.109069042, -1.781042297),
    "mlp_bias": (1.03629289, -0.707067203, 0.5501214449),
}


def build_config() -> CsmConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return CsmConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        pad_token_id=4,
        codebook_pad_token_id=3,
        bos_token_id=2,
        audio_token_id=4,
        audio_eos_token_id=1,
        num_codebooks=3,
        text_vocab_size=99,
        codec_config=MimiConfig(
            hidden_size=32,
            codebook_size=32,
            num_hidden_layers=2,
            intermediate_size=40,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
            sliding_window=6,
            upsampling_ratios=[5, 4],
            upsample_groups=32,
            num_quantizers=3,
            codebook_dim=12,
            vector_quantization_hidden_dimension=12,
            num_filters=4,
        ),
        depth_decoder_config=CsmDepthDecoderConfig(
            vocab_size=99,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_codebooks=3,
            hidden_size=24,
            backbone_hidden_size=32,
            max_position_embeddings=4,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> CsmForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(CsmForConditionalGeneration, weights)
    model = CsmForConditionalGeneration(CsmConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: CsmConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "attention_mask": ragged_mask(lengths=(20, 16), width=20),
        "input_ids": with_placeholders(
            token_ids("input_ids", shape=(2, 20), low=5, high=99, seed=seed),
            token=config.audio_token_id,
            count=(10, 7),
        ),
        "input_values": normals("input_values", shape=(2, 1, 400), seed=seed),
        "input_values_cutoffs": numbers(values=((400,), (280,))),
    }


def build_parts(config: CsmConfig, seed: int) -> dict[str, tuple[Any, Any, Tensors]]:
    """What else belongs to the model: classes, their configurations and inputs."""
    return {
        "speaking": (
            CsmForConditionalGeneration,
            config,
            {
                "input_ids": with_placeholders(
                    token_ids("input_ids", shape=(2, 20), low=5, high=99, seed=seed),
                    token=config.audio_token_id,
                    count=(10, 7),
                ),
                "attention_mask": ragged_mask(lengths=(20, 16), width=20),
                "input_values": normals("input_values", shape=(2, 1, 400), seed=seed),
                "input_values_cutoffs": numbers(values=((400,), (280,))),
                "labels": with_placeholders(
                    token_ids("labels", shape=(2, 20), low=5, high=99, seed=seed),
                    token=config.audio_token_id,
                    count=(10, 7),
                ),
            },
        ),
    }


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone gives the scores that it gives in the batch."""
    for row in (0, 1):
        alone = subject.run(subject.model, row_of(subject.inputs, row))
        expected = row_of({"logits": subject.outputs["logits"]}, row)
        assert_agree(alone, expected, subject.bounds, f"row {row} alone")


if __name__ == "__main__":
    sys.exit(main(globals()))
