"""Checks of what several architectures have (attention, padding, decoding)."""

from __future__ import annotations

import torch

from templates import _story as story
from templates._basics import assert_gradients
from templates._compare import assert_agree, first, row_like, row_of, within
from templates._random import ragged_mask
from templates._subject import Subject, generate


def test_attention_parity(subject: Subject) -> None:
    """Each attention implementation gives what eager attention gives in fp64, however masked."""
    variants = {"inputs as they are": subject.inputs}
    if "attention_mask" in subject.inputs:
        mask = torch.ones_like(subject.inputs["attention_mask"])
        variants["mask of ones"] = subject.inputs | {"attention_mask": mask}
        variants["no mask"] = {k: v for k, v in subject.inputs.items() if k != "attention_mask"}
    expected = {name: subject.run(subject.reference, x) for name, x in variants.items()}
    for implementation in story.ATTENTIONS:
        model = subject.build(implementation, subject.dtype).to(subject.device)
        for variant, inputs in variants.items():
            what = f"{implementation} attention, {variant}"
            assert_agree(subject.run(model, inputs), expected[variant], subject.bounds, what)


def test_experts_parity(subject: Subject) -> None:
    """Each implementation of the mixture of experts gives what the plain one gives in fp64."""
    for implementation in story.EXPERTS:
        model = subject.fresh()
        model.set_experts_implementation(implementation)
        outputs = subject.run(model, subject.inputs)
        assert_agree(outputs, subject.expected, subject.bounds, f"{implementation} experts")


def test_batch_invariance(subject: Subject) -> None:
    """Each row alone gives what it gives in the batch."""
    for row in (0, 1):
        alone, batch = subject.run(subject.model, row_of(subject.inputs, row)), subject.outputs
        lists = {name.rpartition(".")[0] for name in batch.keys() - alone.keys()}  # a tensor a row
        expected = {f"{name}.0": batch[f"{name}.{row}"] for name in lists}
        whole = {k: v for k, v in batch.items() if v.ndim and k.rpartition(".")[0] not in lists}
        expected |= {k: row_like(v, alone[k], row) for k, v in whole.items()}
        assert_agree(alone, expected, subject.bounds, f"row {row} alone")


def test_padding_invariance(subject: Subject) -> None:
    """What stands behind a row's end, and how much of it, changes nothing in the row."""
    padded = row_of(subject.inputs, 1)
    mask = padded["attention_mask"] = padded["attention_mask"].clone()  # of each text of the row
    if mask.all():  # where padding gives anything, the inputs have none
        mask[:, -3:] = 0
    length, width = int(mask.sum(1).max()), mask.shape[1]
    expected = subject.run(subject.model, first(padded, length, width))
    outputs = within(subject.run(subject.model, padded), expected)
    assert_agree(outputs, expected, subject.bounds, f"a row padded from {length} to {width}")


def test_single_token(subject: Subject) -> None:
    """A row of one token gives what it gives when it is padded."""
    width = subject.inputs["attention_mask"].shape[1]
    padded = row_of(subject.inputs, 0) | {"attention_mask": ragged_mask((1,), width)}
    short = first(padded, 1, width)
    expected = subject.run(subject.model, short)
    outputs = within(subject.run(subject.model, padded), expected)
    bounds = subject.explained(short, subject.run(subject.reference, short))
    assert_agree(outputs, expected, bounds, f"one token padded to {width}")


def test_causality(subject: Subject) -> None:
    """A later token changes nothing before it, with and without an attention mask."""
    name = "decoder_input_ids" if "decoder_input_ids" in subject.inputs else "input_ids"
    ids = subject.inputs[name].clone()
    ids[:, -4:] = story.build_inputs(subject.model.config, subject.seed + 1)[name][:, -4:]
    for dropped in ("", "attention_mask"):
        inputs = {key: value for key, value in subject.inputs.items() if key != dropped}
        before = {"logits": subject.run(subject.model, inputs)["logits"][:, :-4]}
        after = within(subject.run(subject.model, inputs | {name: ids}), before)
        what = f"all but the last 4 positions, without {dropped or 'any change of inputs'}"
        assert_agree(after, before, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache and without padding on the left."""
    ids = subject.inputs["input_ids"][:, :9]
    pad = getattr(subject.model.config.get_text_config(), "pad_token_id", None)
    padding = torch.full((1, 3), pad or 0)
    padded = torch.cat([ids[:1], torch.cat([padding, ids[1:, :6]], 1)])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    inputs = {"input_ids": padded, "attention_mask": mask}
    bare = {"input_ids": ids[1:, :6], "attention_mask": mask[1:, 3:]}
    cached = generate(subject, inputs, use_cache=True)
    uncached = generate(subject, inputs, use_cache=False)
    alone = generate(subject, bare, use_cache=True)
    assert_agree(uncached, cached, subject.bounds, "without the cache")
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row without its left padding")


def test_gradients(subject: Subject) -> None:
    """Without padding each parameter has a gradient; the slope is the finite difference in fp64.

    A frame of padding may attend to nothing: its softmax is uniform whatever the scores are, but
    has a slope by convention.
    """
    full = subject.variant()
    full.inputs = {
        name: torch.ones_like(value) if name.endswith("mask") else value
        for name, value in subject.inputs.items()
    }
    assert_gradients(full)
