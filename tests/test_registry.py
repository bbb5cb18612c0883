"""The registry refuses what it does not understand, and gives back what was put into it."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator import registry
from generator.registry import RegistryError
from tests.generator_fixtures import write_project


def test_the_registry_of_this_repository_is_as_discover_writes_it() -> None:
    on_disk = {path.name: path.read_text("utf-8") for path in registry.DIRECTORY.glob("*.toml")}
    assert on_disk == registry.dump(registry.load())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    directory, templates = write_project(tmp_path)
    entries = registry.load(directory, templates)
    first = registry.dump(entries)
    registry.write(entries, directory)
    assert registry.load(directory, templates) == entries
    assert registry.dump(registry.read(directory)) == first
    assert entries["roberta"].config["pad_token_id"] is None
    assert entries["roberta"].config["layer_norm_eps"] == math.inf
    assert entries["roberta"].checkpoint is None
    assert [*entries["bert"].inputs] == ["input_ids", "attention_mask"]


PLAIN = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60).filter(lambda text: text != "None")
VALUES = st.recursive(
    PLAIN | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(value=VALUES)
def test_any_value_of_a_configuration_survives(tmp_path: Path, value: Any) -> None:
    bert = registry.read(write_project(tmp_path)[0])["bert"]
    entry = dataclasses.replace(bert, config={"class": "BertConfig", "nested": {"value": value}})
    registry.write({"bert": entry}, tmp_path / "registry")
    assert registry.read(tmp_path / "registry")["bert"].config == entry.config


def test_long_values_are_readable(tmp_path: Path) -> None:
    bert = registry.read(write_project(tmp_path)[0])["bert"]
    vision = {"class": "ViTConfig", **{f"a_long_name_{n}": n for n in range(9)}}
    inputs = {"x": {"kind": "numbers", "shape": [123456789] * 12}, "y": {"kind": "mask"}}
    config = {"class": "C", "vision": vision, "sizes": [123456789] * 12, "tiny": {"a": 1}}
    text = registry.dump({"bert": dataclasses.replace(bert, config=config, inputs=inputs)})
    assert "[bert.config.vision]\nclass" in text["encoder.toml"]
    assert "sizes = [\n    123456789,\n" in text["encoder.toml"]
    assert "tiny = {a = 1}\n" in text["encoder.toml"]
    lines = text["encoder.toml"].splitlines()
    assert lines[lines.index("[bert.inputs]") + 2] == 'y = {kind = "mask"}'  # in the order given


def test_files_of_no_architecture_go_when_the_registry_is_written(tmp_path: Path) -> None:
    directory, _ = write_project(tmp_path)
    moved = dataclasses.replace(registry.read(directory)["bert"], architecture="decoder")
    registry.write({"bert": moved}, directory)
    assert [path.name for path in directory.iterdir()] == ["decoder.toml"]


def test_what_toml_cannot_hold_is_refused(tmp_path: Path) -> None:
    bert = registry.read(write_project(tmp_path)[0])["bert"]
    with pytest.raises(TypeError, match="the registry cannot hold"):
        registry.dump({"bert": dataclasses.replace(bert, config={"class": object()})})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Bert"', '"Bert', "registry/encoder.toml: .*at line 2, column"),
        ("[bert]", "x = 3\n[bert]", r"\[x\] is no table"),
        ("title", "titel", r"\[bert\] has unknown key 'titel' \(did you mean 'title'\?\)"),
        ("parameters = 1000\n", "", r"\[bert\] has no key 'parameters'"),
        ("= 1000", '= "1000"', r"\[bert\] has a 'parameters' of type str, not int"),
        ("= 1000", "= true", r"\[bert\] has a 'parameters' of type bool, not int"),
        (
            "input_ids = [2, 4]",
            "input_ids = [2, 4.0]",
            r"\[bert\] has a 'outputs.input_ids.1' of type float, not int",
        ),
        (
            'checkpoint = "',
            "checkpoint = 3 # ",
            r"\[bert\] has a 'checkpoint' of type int, not str",
        ),
        ('class = "BertConfig"\n', "", r"\[bert.config\] has no 'class'"),
        ("hidden_size", '"hidden-size"', r"\[bert.config\] 'hidden-size' cannot be the name of an"),
        (
            'kind = "mask"',
            'kind = "maks"',
            r"\[bert.inputs\] attention_mask: unknown kind 'maks' .*'mask'",
        ),
        ("width = 4", "widht = 4", r"mask has no parameter 'widht' \(did you mean 'width'\?\)"),
        (", width = 4", "", r"\[bert.inputs\] attention_mask: mask needs 'width'"),
        (
            "token = 5",
            "value = 5",
            r"\[roberta.inputs\] input_ids: placed has no parameter 'value'",
        ),
        (
            'of = {kind = "numbers"',
            'of = {kind = "number"',
            r"of: unknown kind 'number' .*'numbers'",
        ),
        ("of = {", "of = 1 #", r"invalid|Invalid|Unclosed"),
        ("shape = [2, 4]", "shape = [2, 4], name = 3", r"numbers has no parameter 'name'"),
        ("forward =", "foward =", r"\[bert.checks\] has unknown check 'foward' .*'forward'"),
        ('golden = "not', 'goldn = "not', r"\[roberta.not_applicable\] has unknown check 'goldn'"),
        (
            'golden = "not',
            'forward = "not',
            r"\[roberta.not_applicable\] 'forward' is in \[roberta.checks",
        ),
        (
            'loss = "takes labels"\n',
            "",
            r"\[bert.checks\] says nothing of 'loss', which the template has",
        ),
        (
            'forward = "every',
            'tying = "every',
            r"\[bert.checks\] 'tying' cannot be: templates/encoder",
        ),
        (
            "[bert.outputs]",
            "[bert.parts.videos]\nmodel = 'BertModel'\n[bert.outputs]",
            r"\[bert.parts.videos\] has model; it needs 'inputs' and, where it is another model",
        ),
        (
            "[bert.outputs]",
            "[bert.parts.videos.inputs]\nx = {kind = 'maks'}\n[bert.outputs]",
            r"\[bert.parts.videos.inputs\] x: unknown kind 'maks' .*'mask'",
        ),
        (
            "input_ids = [60.0]",
            "input_id = [60.0]",
            r"'input_id' is not in \[bert.outputs\] .*'input_ids'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_likely_fix(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    directory, templates = write_project(tmp_path, toml=(old, new))
    with pytest.raises(RegistryError, match=message) as error:
        registry.load(directory, templates)
    assert str(error.value).startswith("registry/encoder.toml: ")


def test_a_family_stands_in_one_file(tmp_path: Path) -> None:
    directory, templates = write_project(tmp_path)
    (directory / "vision.toml").write_text((directory / "encoder.toml").read_text("utf-8"), "utf-8")
    with pytest.raises(RegistryError, match=r"vision.toml: \[bert\] stands in encoder.toml too"):
        registry.load(directory, templates)


def test_an_architecture_has_a_template(tmp_path: Path) -> None:
    directory, templates = write_project(tmp_path)
    (directory / "encoder.toml").rename(directory / "encodr.toml")
    with pytest.raises(RegistryError, match=r"no template encodr.py \(did you mean 'encoder'\?\)"):
        registry.load(directory, templates)


def test_a_check_has_its_place_among_the_checks(tmp_path: Path) -> None:
    directory, templates = write_project(tmp_path, encoder=("test_loss", "test_lost"))
    with pytest.raises(RegistryError, match=r"templates/encoder.py: test_lost has no place"):
        registry.load(directory, templates)


def test_a_template_has_a_family(tmp_path: Path) -> None:
    _, templates = write_project(tmp_path, encoder=('FAMILY = "bert"\n', ""))
    with pytest.raises(RegistryError, match=re.escape("templates/encoder.py has no FAMILY")):
        registry.template_families(templates)


def test_a_misspelt_family_is_answered_with_the_likely_one(tmp_path: Path) -> None:
    entries = registry.read(write_project(tmp_path)[0])
    assert [*registry.select(entries, [])] == ["bert", "roberta"]
    assert [*registry.select(entries, ["roberta", "roberta"])] == ["roberta"]
    with pytest.raises(
        RegistryError, match=r"no family 'brt' in the registry \(did you mean 'bert'"
    ):
        registry.select(entries, ["brt"])


def test_kinds_of_inputs_are_the_functions_that_give_a_tensor(tmp_path: Path) -> None:
    _, templates = write_project(tmp_path)
    assert registry.input_kinds(templates) == {
        "numbers": {"name": True, "shape": True, "seed": False},
        "placed": {"values": True, "token": True},
        "mask": {"lengths": True, "width": True},
    }
