"""Checks of models whose encoder reads and whose decoder writes; part of the story."""

from __future__ import annotations

from typing import Any

import torch

from templates._compare import assert_agree, assert_loss, row_of
from templates._subject import Subject, generate


def test_cache(subject: Subject) -> None:
    """Decoding in pieces with the cache gives what one pass over all tokens gives in fp64."""
    kept: list[Any] = []  # what the encoder gives
    hook = subject.model.get_encoder().register_forward_hook(lambda *call: kept.append(call[-1]))
    subject.run(subject.model, subject.inputs)
    hook.remove()
    read = subject.model.main_input_name  # by the encoder
    inputs = {name: value for name, value in subject.inputs.items() if name != read}
    for sizes in ([3, 1, 1, 1, 1], [4, 3]):
        cache, logits = None, []
        for inputs["decoder_input_ids"] in subject.inputs["decoder_input_ids"].split(sizes, dim=1):
            options = {"past_key_values": cache, "encoder_outputs": kept[0], "use_cache": True}
            with torch.no_grad():
                step = subject.call(subject.model, inputs, **options)
            cache = step.past_key_values
            logits.append(step.logits.cpu().double())
        expected = {"logits": subject.expected["logits"]}
        what = f"decoding in pieces of {sizes}"
        assert_agree({"logits": torch.cat(logits, 1)}, expected, subject.bounds, what)


def test_generate(subject: Subject) -> None:
    """Greedy decoding gives the same logits without the cache, and for each row alone."""
    inputs = {name: v for name, v in subject.inputs.items() if not name.startswith("decoder_")}
    cached = generate(subject, inputs, use_cache=True)
    assert_agree(
        generate(subject, inputs, use_cache=False), cached, subject.bounds, "without cache"
    )
    alone = generate(subject, row_of(inputs, 1), use_cache=True)
    assert_agree(alone, row_of(cached, 1), subject.bounds, "a row alone")


def test_loss(subject: Subject) -> None:
    """The loss is the mean cross-entropy of the labels (-100: none).

    The decoder reads them behind the start token, whether the model shifts them or the caller;
    without one behind the last label, which is the language of multilingual models.
    """
    labels = subject.inputs["decoder_input_ids"].clone()
    labels[:, 3:5] = -100
    outputs = subject.run(subject.model, subject.inputs | {"labels": labels})
    logits = outputs["logits"].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten())
    assert_loss(outputs["loss"], expected, subject.eps)
    labels = subject.inputs["decoder_input_ids"]
    inputs = {key: value for key, value in subject.inputs.items() if key != "decoder_input_ids"}
    by_model = subject.run(subject.model, inputs | {"labels": labels})
    config = subject.model.config
    parts = (config, config.get_text_config(decoder=True))  # some composites leave it to the text's
    starts = [getattr(part, "decoder_start_token_id", None) for part in parts]
    first = next((start for start in starts if start is not None), None)
    start = labels[:, -1:] if first is None else torch.full_like(labels[:, :1], first)
    shifted = torch.cat([start, labels[:, :-1]], 1)
    by_caller = subject.run(subject.model, subject.inputs | {"decoder_input_ids": shifted})
    expected_logits = {"logits": by_caller["logits"]}
    assert_agree(by_model, expected_logits, subject.bounds, "labels shifted by the model")
