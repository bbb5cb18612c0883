"""Test of ColPali: does it run here, and are its results right?

ColPaliForRetrieval of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_colpali.py [--device cuda] [--help]
    pytest test_hf_colpali.py

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
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_padding_invariance,
)
from templates._compare import Tensors, note
from templates._main import main, subject
from templates._random import normals, ragged_mask, set_weights, token_ids, with_placeholders
from templates._subject import Subject, pretrained

try:
    from transformers import (
        ColPaliConfig,
        ColPaliForRetrieval,
        GemmaConfig,
        PaliGemmaConfig,
        SiglipVisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "ColPali": "title",
    "test_hf_colpali.py": "script",
    "ColPaliConfig": "config_class",
    "ColPaliForRetrieval": "model_class",
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

FAMILY = "colpali"
ARCHITECTURE = "retrieval"
MODEL_CLASS = "ColPaliForRetrieval"
CHECKPOINT = "vidore/colpali-v1.2"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "embeddings": (2, 28, 20),
    "hidden_states.0": (2, 28, 32),
    "hidden_states.1": (2, 28, 32),
    "hidden_states.2": (2, 28, 32),
    "attentions.0": (2, 4, 28, 28),
    "attentions.1": (2, 4, 28, 28),
    "image_hidden_states": (2, 16, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "vlm_config.text_config.attention_bias": True
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "embeddings": (0.2175348905, 0.1377896932, -0.1909194402),
    "image_hidden_states": (1.221425075, 1.052249262, 0.2329209196),
    "all_outputs": (0.6699564531, 0.2864096005, 0.6903968598),
    "vlm_config.text_config.attention_bias": (0.8586381515, -0.03285261782, 1.657619159),
}


def build_config() -> ColPaliConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return ColPaliConfig(
        embedding_dim=20,
        vlm_config=PaliGemmaConfig(
            image_token_index=4,
            vocab_size=99,
            hidden_size=32,
            projection_dim=32,
            vision_config=SiglipVisionConfig(
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
                vision_use_head=False,
                vocab_size=99,
            ),
            text_config=GemmaConfig(
                vocab_size=99,
                hidden_size=32,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=12,
                max_position_embeddings=48,
                is_encoder_decoder=False,
            ),
        ),
    )


def build_model(weights: str, size: str, seed: int) -> ColPaliForRetrieval:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(ColPaliForRetrieval, weights)
    model = ColPaliForRetrieval(ColPaliConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: ColPaliConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": with_placeholders(
            token_ids("input_ids", shape=(2, 28), low=5, high=99, seed=seed),
            token=config.vlm_config.image_token_index,
            starts=(1,),
            count=16,
        ),
        "attention_mask": ragged_mask(lengths=(28, 25), width=28),
        "pixel_values": normals(
            "pixel_values",
            shape=(
                2,
                3,
                config.vlm_config.vision_config.image_size,
                config.vlm_config.vision_config.image_size,
            ),
            seed=seed,
        ),
    }


def test_unit_length(subject: Subject) -> None:
    """The embedding of each token has unit length, as late interaction needs; padding has zero."""
    mask, bound = subject.inputs["attention_mask"].double(), 16 * subject.eps
    lengths = subject.outputs["embeddings"].norm(dim=-1)
    error = note((lengths - mask).abs().max().item(), bound)
    assert error <= bound, f"the lengths of the embeddings are {lengths.tolist()}"


if __name__ == "__main__":
    sys.exit(main(globals()))
