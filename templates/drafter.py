"""Test of MuseGlimmerAssistant: does it run here, and are its results right?

MuseGlimmerAssistantModel of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_muse_glimmer_assistant.py [--device cuda] [--help]
    pytest test_hf_muse_glimmer_assistant.py

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
from templates._checks import test_attention_parity, test_batch_invariance
from templates._compare import Tensors, assert_agree
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, with_placeholders
from templates._subject import Subject, pretrained

try:
    import torch
    from transformers import MuseGlimmerAssistantConfig, MuseGlimmerAssistantModel
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "MuseGlimmerAssistant": "title",
    "test_hf_muse_glimmer_assistant.py": "script",
    "MuseGlimmerAssistantConfig": "config_class",
    "MuseGlimmerAssistantModel": "model_class",
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

CONTEXT = 11  # tokens that the target has read
FAMILY = "muse_glimmer_assistant"
ARCHITECTURE = "drafter"
MODEL_CLASS = "MuseGlimmerAssistantModel"
CHECKPOINT = "meta-models/Muse-Glimmer-30B-assistant"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {}
OUTPUTS = {"last_hidden_state": (2, 4, 32)}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {"last_hidden_state": (1.009578707, 1.543035518, 0.04350948508)}


def build_config() -> MuseGlimmerAssistantConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return MuseGlimmerAssistantConfig(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=48,
        sliding_window=6,
        bos_token_id=4,
        eos_token_id=3,
        pad_token_id=2,
        mask_token_id=1,
        block_size=4,
        target_layer_ids=[0, 2],
    )


def build_model(weights: str, size: str, seed: int) -> MuseGlimmerAssistantModel:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(MuseGlimmerAssistantModel, weights)
    model = MuseGlimmerAssistantModel(
        MuseGlimmerAssistantConfig() if size == "full" else build_config()
    )
    set_weights(model, seed)
    return model


def build_inputs(config: MuseGlimmerAssistantConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "attention_mask": with_placeholders(
            ragged_mask(lengths=(11, 8), width=15), token=1, starts=(11,), count=4
        ),
        "noise_embeds": normals(
            "noise_embeds", shape=(2, config.block_size, config.hidden_size), seed=seed
        ),
        "context_hidden_states": normals(
            "context_hidden_states", shape=(2, 11, 2 * config.hidden_size), seed=seed
        ),
    }


def test_hidden_context(subject: Subject) -> None:
    """What the mask hides of the states of the target changes nothing."""
    hidden = subject.inputs["attention_mask"][:, :CONTEXT] == 0
    others, inputs = build_inputs(subject.model.config, subject.seed + 1), {**subject.inputs}
    for name, value in subject.inputs.items():
        if value.is_floating_point() and CONTEXT in value.shape:
            axis = value.shape.index(CONTEXT)
            places = hidden.reshape(2, *[1] * (axis - 1), CONTEXT, *[1] * (value.ndim - axis - 1))
            inputs[name] = torch.where(places, others[name], value)
    outputs = subject.run(subject.model, inputs)
    assert_agree(outputs, subject.outputs, subject.bounds, "other states behind the mask")


if __name__ == "__main__":
    sys.exit(main(globals()))
