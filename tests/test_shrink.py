"""Tiny configurations: small, literal, buildable, and with sizes that cannot be mistaken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import transformers

from generator import discover, registry
from generator.shrink import (
    WIDTHS,
    class_of_transformers,
    instantiate,
    scaled,
    shrink,
    special_id,
)

ENTRIES = {entry.config_class: entry for entry in registry.read().values()}
CLASSES = sorted(ENTRIES)


def tiny(name: str) -> dict[str, Any]:
    """The tree of a configuration class, with what overrides say of its family."""
    config: dict[str, Any] = {}
    for override in discover.read_overrides().get(ENTRIES[name].family, []):
        config = discover.merged(config, override.config)
    return shrink(class_of_transformers(name), config)


def tables(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tree
    for value in tree.values():
        if isinstance(value, dict) and "class" in value:
            yield from tables(value)


@pytest.mark.parametrize("name", CLASSES)
def test_a_tiny_configuration_is_literal_and_can_be_built(name: str) -> None:
    tree = ENTRIES[name].config
    assert json.loads(json.dumps(tree)) == tree
    assert type(instantiate(tree)).__name__ == name


@pytest.mark.parametrize("name", CLASSES)
def test_special_tokens_are_not_drawn_at_random(name: str) -> None:
    spec = ENTRIES[name].inputs.get("input_ids", {})
    while "of" in spec:
        spec = spec["of"]
    if spec.get("kind") == "token_ids":
        for table in tables(ENTRIES[name].config):
            for key, value in table.items():
                if key.endswith("token_id") and isinstance(value, int):
                    assert not spec["low"] <= value < spec["high"], f"{table['class']}.{key}"


@pytest.mark.parametrize("name", CLASSES)
def test_sizes_that_may_differ_do(name: str) -> None:
    for table in tables(shrink(class_of_transformers(name))):
        widths = [table[key] for key in ("hidden_size", "d_model", "n_embd") if key in table]
        inner = [table[key] for key in ("intermediate_size", "d_ff", "ffn_dim") if key in table]
        assert not set(widths) & set(inner)
        if {"num_key_value_heads", "num_attention_heads"} <= table.keys():
            assert table["num_key_value_heads"] < table["num_attention_heads"]


def test_parts_of_a_composite_have_widths_of_their_own() -> None:
    tree = shrink(transformers.LlavaConfig)
    assert tree["text_config"]["hidden_size"] == WIDTHS["text"]
    assert tree["vision_config"]["hidden_size"] == WIDTHS["vision"] != WIDTHS["text"]


def test_what_a_composite_gives_its_parts_counts_as_their_default() -> None:
    tree = shrink(transformers.LlavaConfig)
    assert tree["vision_config"]["class"] == "CLIPVisionConfig"
    assert tree["vision_config"]["vocab_size"] == 99  # 32000, given by LlavaConfig


def test_overrides_win_in_every_part() -> None:
    overrides = {"image_seq_length": 16, "text_config": {"hidden_size": 48}}
    tree = shrink(transformers.LlavaConfig, overrides)
    assert tree["image_seq_length"] == 16
    assert tree["text_config"]["hidden_size"] == 48
    assert overrides == {"image_seq_length": 16, "text_config": {"hidden_size": 48}}


def test_a_part_may_be_of_another_class() -> None:
    tree = shrink(transformers.LlavaConfig, {"text_config": {"class": "Qwen3Config"}})
    assert tree["text_config"]["class"] == "Qwen3Config"
    assert instantiate(tree).text_config.model_type == "qwen3"


def test_special_ids_are_low_and_stay_apart() -> None:
    special: dict[int, int] = {}
    given = [special_id(default, special) for default in (50256, 1, 0, 50257, 50256)]
    assert given == [4, 1, 0, 3, 4]


def test_stages_keep_their_ratios() -> None:
    assert scaled([96, 192, 384, 768]) == [8, 16, 32, 64]
    assert scaled([32, 64, 160, 256]) == [8, 16, 40, 64]
    assert scaled([3, 6, 12, 24], 1) == [1, 2, 4, 8]
