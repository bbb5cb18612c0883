"""Test of Pix2Struct: does it run here, and are its results right?

Pix2StructForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_pix2struct.py [--device cuda] [--help]
    pytest test_hf_pix2struct.py

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
    test_tying,
)
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_causality,
    test_padding_invariance,
)
from templates._compare import Tensors, flatten
from templates._main import main, subject
from templates._random import placed_patches, ragged_mask, set_weights, token_ids
from templates._seq2seq import test_cache, test_generate, test_loss
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import (
        Pix2StructConfig,
        Pix2StructForConditionalGeneration,
        Pix2StructTextConfig,
        Pix2StructVisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Pix2Struct": "title",
    "test_hf_pix2struct.py": "script",
    "Pix2StructConfig": "config_class",
    "Pix2StructForConditionalGeneration": "model_class",
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

FAMILY = "pix2struct"
ARCHITECTURE = "vision_encoder_decoder"
MODEL_CLASS = "Pix2StructForConditionalGeneration"
CHECKPOINT = "google/pix2struct-base"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 7, 99),
    "decoder_hidden_states.0": (2, 7, 32),
    "decoder_hidden_states.1": (2, 7, 32),
    "decoder_hidden_states.2": (2, 7, 32),
    "decoder_attentions.0": (2, 4, 7, 7),
    "decoder_attentions.1": (2, 4, 7, 7),
    "cross_attentions.0": (2, 4, 7, 12),
    "cross_attentions.1": (2, 4, 7, 12),
    "encoder_last_hidden_state": (2, 12, 32),
    "encoder_hidden_states.0": (2, 12, 32),
    "encoder_hidden_states.1": (2, 12, 32),
    "encoder_hidden_states.2": (2, 12, 32),
    "encoder_attentions.0": (2, 4, 12, 12),
    "encoder_attentions.1": (2, 4, 12, 12),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "text_config.is_decoder": False
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (1.122309353, 1.611644764, -0.181593086),
    "encoder_last_hidden_state": (0.9659323153, -0.1099126307, 0.09011087121),
    "all_outputs": (0.8812747015, 0.9025752588, -1.013224518),
    "text_config.is_decoder": (1.077960203, 0.7717685429, 0.7893214314),
}


def build_config() -> Pix2StructConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Pix2StructConfig(
        text_config=Pix2StructTextConfig(
            vocab_size=99,
            hidden_size=32,
            d_ff=40,
            num_layers=2,
            num_heads=4,
            d_kv=8,
        ),
        vision_config=Pix2StructVisionConfig(
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_embed_hidden_size=48,
            seq_len=16,
            hidden_size=32,
            d_kv=8,
            d_ff=36,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> Pix2StructForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(Pix2StructForConditionalGeneration, weights)
    model = Pix2StructForConditionalGeneration(
        Pix2StructConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: Pix2StructConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "decoder_input_ids": token_ids(
            "decoder_input_ids", shape=(2, 7), low=5, high=99, seed=seed
        ),
        "flattened_patches": placed_patches(
            "flattened_patches",
            grids=((4, 3), (2, 5)),
            values=config.vision_config.patch_embed_hidden_size,
            seed=seed,
        ),
        "attention_mask": ragged_mask(lengths=(12, 10), width=12),
    }


if __name__ == "__main__":
    sys.exit(main(globals()))
