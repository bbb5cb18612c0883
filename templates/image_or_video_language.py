"""Test of Molmo2: does it run here, and are its results right?

Molmo2ForConditionalGeneration of transformers, tiny, with reproducible random weights,
is compared with itself in fp64 and with what must hold between its own runs. Offline.

    python test_hf_molmo2.py [--device cuda] [--help]
    pytest test_hf_molmo2.py

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
    test_heads,
    test_isolation,
    test_placement,
    test_save_load,
    test_sensitivity,
    test_tying,
)
from templates._checks import test_attention_parity, test_causality
from templates._compare import (
    Tensors,
    assert_agree,
    assert_loss,
    rms,
    row_like,
    row_of,
    within,
)
from templates._main import main, subject
from templates._random import (
    normals,
    numbers,
    pooled_patches,
    ragged_mask,
    set_weights,
    token_ids,
    with_placeholders,
    zeros,
)
from templates._subject import Subject, generate, pretrained

try:
    import torch
    from transformers import (
        Molmo2AdapterConfig,
        Molmo2Config,
        Molmo2ForConditionalGeneration,
        Molmo2TextConfig,
        Molmo2VisionConfig,
    )
except Exception as error:  # a stub raises what it likes
    MISSING: Exception | None = error
else:
    MISSING = None

SLOTS = {  # text of this template -> field of the registry that replaces it
    "Molmo2": "title",
    "test_hf_molmo2.py": "script",
    "Molmo2Config": "config_class",
    "Molmo2ForConditionalGeneration": "model_class",
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

FAMILY = "molmo2"
ARCHITECTURE = "image_or_video_language"
MODEL_CLASS = "Molmo2ForConditionalGeneration"
CHECKPOINT = "allenai/Molmo2-8B"
REQUIRES: tuple[str, ...] = ()  # packages that some check needs
SEED = 0  # of weights and inputs: the first with which no output is dead
ATTENTIONS = ("sdpa", "eager")  # the first is what users get by default
EXPERTS: tuple[str, ...] = ()
HEADS: dict[str, str] = {}  # further classes of the family -> their task
ALL_OUTPUTS: dict[str, bool] = {"output_hidden_states": True, "output_attentions": True}
OUTPUTS = {
    "logits": (2, 24, 99),
    "hidden_states.0": (2, 24, 32),
    "hidden_states.1": (2, 24, 32),
    "hidden_states.2": (2, 24, 32),
    "attentions.0": (2, 4, 24, 24),
    "attentions.1": (2, 4, 24, 24),
    "image_hidden_states": (24, 32),
}
FP32_OUTPUTS: tuple[str, ...] = ()  # outputs that a bf16 model gives in fp32
SWITCHES: dict[str, bool] = {
    "adapter_config.attention_bias": False,
    "adapter_config.mlp_bias": True,
    "text_config.attention_bias": True,
    "text_config.norm_after": True,
    "vision_config.attention_bias": False,
}  # switches of the configuration that matter -> thrown
OPTIONS: dict[str, object] = {}  # arguments of every call
INSENSITIVE: dict[str, str] = {
    "image_num_crops": "forward does not read it: the windows say which patches are a row's"
}  # inputs that change no output -> why
NO_GRADIENT: dict[str, str] = {}  # parameters -> why they have none
GOLDEN = {
    "logits": (0.9526866284, -0.719750029, 1.680316698),
    "image_hidden_states": (2.61604366, -0.02365131188, 0.3779304176),
    "all_outputs": (0.9737917645, 1.284241428, -0.5384825992),
    "adapter_config.attention_bias": (1.289434076, -1.113076388, 1.383131628),
    "adapter_config.mlp_bias": (1.398111232, -0.8349024538, 1.493281505),
    "text_config.attention_bias": (1.347270901, -0.4049688762, 1.612677336),
    "text_config.norm_after": (1.329547222, -0.053196527, 1.027019993),
    "vision_config.attention_bias": (1.134662069, -1.505853271, 1.124988604),
}


def build_config() -> Molmo2Config:
    """A tiny configuration; sizes that may differ do differ, so that a swap shows."""
    return Molmo2Config(
        image_start_token_id=4,
        low_res_image_start_token_id=3,
        image_end_token_id=2,
        frame_start_token_id=1,
        frame_end_token_id=0,
        image_patch_id=101,
        text_config=Molmo2TextConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            vocab_size=99,
            num_hidden_layers=2,
            intermediate_size=40,
            max_position_embeddings=48,
            additional_vocab_size=7,
            rope_scaling_layers=[1],
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        ),
        vision_config=Molmo2VisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            patch_size=8,
            image_size=[32, 24],
        ),
        adapter_config=Molmo2AdapterConfig(
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            text_hidden_size=32,
            hidden_size=24,
            intermediate_size=36,
            vision_feature_layer=[1, 0],
        ),
    )


def build_model(weights: str, size: str, seed: int) -> Molmo2ForConditionalGeneration:
    """The model in fp32 on the CPU, with random weights or those of a checkpoint."""
    if weights != "random":
        return pretrained(Molmo2ForConditionalGeneration, weights)
    model = Molmo2ForConditionalGeneration(Molmo2Config() if size == "full" else build_config())
    set_weights(model, seed)
    return model


def build_inputs(config: Molmo2Config, seed: int) -> Tensors:
    """A batch of two rows."""
    return {
        "input_ids": with_placeholders(
            token_ids("input_ids", shape=(2, 24), low=5, high=99, seed=seed),
            starts=(1,),
            count=12,
            token=config.image_patch_id,
        ),
        "attention_mask": ragged_mask(lengths=(24, 21), width=24),
        "mm_token_type_ids": with_placeholders(
            zeros(shape=(2, 24)), starts=(1,), count=12, token=1
        ),
        "pixel_values": normals(
            "pixel_values",
            shape=(
                6,
                config.vision_config.num_position_embeddings,
                config.vision_config.num_channels * config.vision_config.patch_size**2,
            ),
            seed=seed,
        ),
        "image_token_pooling": pooled_patches(grids=((4, 3), (8, 3), (4, 3), (8, 3)), window=2),
        "image_grids": numbers(values=((2, 2, 4, 2), (2, 2, 4, 2))),
        "image_num_crops": numbers(values=(3, 3)),
    }


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
    single = generate(subject, alone(inputs, 1), use_cache=True)
    assert_agree(single, row_of(cached, 1), subject.bounds, "a row alone")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of each next token (label -100: none)."""
    ids = subject.inputs["input_ids"]
    labels = ids.masked_fill(ids >= subject.outputs["logits"].shape[-1], -100)  # have no logits
    labels[:, ::3] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits, following = outputs["logits"][:, -labels.shape[1] : -1], labels[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), following)
    assert_loss(outputs["loss"], expected, subject.eps)


def test_video(subject: Subject) -> None:
    """A video gives in fp64 what its frames give as crops of an image, and here as much."""
    video = {name: value for name, value in subject.inputs.items() if "image" not in name}
    video["pixel_values_videos"] = video.pop("pixel_values")
    video["video_token_pooling"] = subject.inputs["image_token_pooling"]
    video["video_grids"] = torch.tensor([[3, 2, 2], [3, 2, 2]])  # frames, rows and columns of each
    exact = {name: 1e-9 * rms(value) for name, value in subject.expected.items()}
    assert_agree(subject.run(subject.reference, video), subject.expected, exact, "frames in fp64")
    assert_agree(subject.run(subject.model, video), subject.expected, subject.bounds, "frames")


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone gives what it gives in the batch."""
    for row in (0, 1):
        outputs = subject.run(subject.model, alone(subject.inputs, row))
        expected = {k: row_like(v, outputs[k], row) for k, v in subject.outputs.items()}
        assert_agree(outputs, expected, subject.bounds, f"row {row} alone")


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind a row's end changes nothing in the row."""
    padded = alone(subject.inputs, 1)
    length, width = int(padded["attention_mask"].sum()), padded["attention_mask"].shape[1]
    cut = {k: v[:, :length] if v.shape == (1, width) else v for k, v in padded.items()}
    expected = subject.run(subject.model, cut)
    outputs = within(subject.run(subject.model, padded), expected)
    assert_agree(outputs, expected, subject.bounds, f"a row padded from {length} to {width}")


def alone(inputs: Tensors, row: int) -> Tensors:
    """Row `row` as a batch of one, whose windows count the patches of its own crops."""
    found = row_of(inputs, row)
    windows, before = found["image_token_pooling"], row * found["pixel_values"].shape[:2].numel()
    return found | {"image_token_pooling": torch.where(windows < 0, windows, windows - before)}


if __name__ == "__main__":
    sys.exit(main(globals()))
