"""Test of Llava: does it run here, and are its results right?

LlavaForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_llava.py [--device cuda] [--help]
    pytest test_hf_llava.py

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
    test_tying,
)
from templates._checks import (
    test_attention_parity,
    test_batch_invariance,
    test_causality,
    test_padding_invariance,
)
from templates._compare import Tensors, assert_agree, assert_loss, flatten, row_of
from templates._main import main, subject
from templates._parts import test_parts
from templates._random import normals, ragged_mask, set_weights, token_ids, with_placeholders
from templates._subject import Subject, generate, pretrained

try:
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Llava": "title",
    "test_hf_llava.py": "script",
    "LlavaConfig": "config_class",
    "LlavaForConditionalGeneration": "model_class",
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

FAMILY = "llava"
ARCHITECTURE = "vision_language"
MODEL_CLASS = "LlavaForConditionalGeneration"
CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 28, 99),
    "hidden_states.0": (2, 28, 32),
    "hidden_states.1": (2, 28, 32),
    "hidden_states.2": (2, 28, 32),
    "attentions.0": (2, 4, 28, 28),
    "attentions.1": (2, 4, 28, 28),
    "image_hidden_states": (32, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "multimodal_projector_bias": False,
    "text_config.attention_bias": True,
    "text_config.mlp_bias": True,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {
    "model.vision_tower.encoder.layers.1.*": "vision_feature_layer is -2: the last layer is unused",
    "model.vision_tower.post_layernorm.*": "vision_feature_layer is -2: the last layer is unused",
}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.9688670199, 0.1226898891, -0.4264916906),
    "image_hidden_states": (1.101749705, 0.8736060197, -0.09113316306),
    "all_outputs": (0.5501436352, -0.005561990331, 0.9694454107),
    "multimodal_projector_bias": (0.975686507, 0.1553342081, -0.05578581001),
    "text_config.attention_bias": (1.025366151, 0.2027789817, 0.04492691218),
    "text_config.mlp_bias": (0.9806379772, 0.8032881133, 0.2771829914),
}


def build_config() -> LlavaConfig:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return LlavaConfig(
        image_token_index=4,
        image_seq_length=16,
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            vocab_size=99,
        ),
        text_config=LlamaConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=48,
        ),
    )


def build_model(weights: str, size: str, seed: int) -> LlavaForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(LlavaForConditionalGeneration, weights)
    model = LlavaForConditionalGeneration(LlavaConfig() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: LlavaConfig, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": with_placeholders(
            token_ids(
                "input_ids", shape=(2, config.image_seq_length + 12), low=5, high=99, seed=seed
            ),
            token=config.image_token_index,
            starts=(1,),
            count=config.image_seq_length,
        ),
        "attention_mask": ragged_mask(
            lengths=(config.image_seq_length + 12, config.image_seq_length + 9),
            width=config.image_seq_length + 12,
        ),
        "pixel_values": normals(
            "pixel_values",
            shape=(2, 3, config.vision_config.image_size, config.vision_config.image_size),
            seed=seed,
        ),
    }


def build_parts(config: LlavaConfig, seed: int) -> dict[str, tuple[Any, Any, Tensors]]:
    """What else belongs to the model: classes, their configurations and inputs."""
    return {}


def test_cache(subject: Subject) -> None:
    """Reading the image and the text, then decoding with the cache, gives what one pass gives."""
    mask = torch.ones_like(subject.inputs["attention_mask"])
    everything = subject.inputs | {"attention_mask": mask}
    shape = subject.inputs["input_ids"].shape
    whole = subject.run(subject.reference, everything)["logits"]
    expected = {"logits": whole[:, -shape[1] :]}  # some give those of the image, before the text's
    by_token = {name: value for name, value in everything.items() if value.shape[:2] == shape}
    width = shape[1]
    for sizes in ([width - 4, 1, 1, 1, 1], [width - 4, 4]):
        cache, logits, seen = None, [], 0
        inputs = {name: v for name, v in everything.items() if name not in by_token}
        for size in sizes:  # the first piece has the image; behind it no mask is needed
            inputs |= {name: value[:, seen : seen + size] for name, value in by_token.items()}
            if seen:
                del inputs["attention_mask"]
            with torch.no_grad():
                step = subject.call(subject.model, inputs, past_key_values=cache, use_cache=True)
            cache, inputs, seen = step.past_key_values, {}, seen + size
            logits.append(step.logits[:, -size:].cpu().double())
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and for each row alone."""
    mask = torch.ones_like(subject.inputs["attention_mask"])
    inputs = subject.inputs | {"attention_mask": mask}
    cached = generate(subject, inputs, use_cache=True)
    uncached = generate(subject, inputs, use_cache=False)
    assert_agree(uncached, cached, subject.bounds, "without cache")
    alone = generate(subject, row_of(inputs, 1), use_cache=True)
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row alone")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    labels = subject.inputs["input_ids"].clone()
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, -labels.shape[1] : -1], labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), following)
    assert_loss(outputs["loss"], expected, subject.eps)


if __name__ == "__main__":
    sys.exit(main(globals()))
