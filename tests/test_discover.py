"""Discovery finds what the registry says, and what a person wrote by hand is checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers

from generator import discover, families, registry
from generator.registry import RegistryError

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("family", ["bert", "mixtral", "llava", "encodec", "dpt"])
def test_the_registry_is_what_discovery_finds(family: str) -> None:
    torch.set_num_threads(1)
    stored = registry.read()[family]
    found = discover.discover(family, discover.read_overrides().get(family, []))
    for name, golden in found.golden.items():
        assert golden == pytest.approx(stored.golden[name], rel=1e-9, abs=1e-9)
    for field in dataclasses.fields(stored):
        if field.name not in ("golden", "discovered_with", "confirmed"):  # by `crosscheck`
            assert getattr(found, field.name) == getattr(stored, field.name), field.name


def test_golden_values_and_switches_are_refreshed_by_themselves() -> None:
    stored = registry.read()["bert"]
    stale = dataclasses.replace(stored, golden={}, switches={"no_such": True})
    found = discover.refresh("bert", stale)
    names = {"logits", "all_outputs", "is_decoder", *stored.heads}
    assert found.golden.keys() == stored.golden.keys() == names
    assert dataclasses.replace(found, golden=stored.golden) == stored


def test_a_misspelt_family_is_answered_with_the_likely_one() -> None:
    with pytest.raises(RegistryError, match=r"no family 'brt'.*'bert'"):
        discover.discover("brt", [])


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert discover.main(["brt", "bert"], tmp_path) == 1
    assert [*registry.read(tmp_path)] == ["bert"]
    assert "1 not discovered: brt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[bert]]\nreason = "x"\nconfg = {}', r"unknown key 'confg'.*'config'"),
        ("[[bert]]\nhead = 'BertModel'", "no key 'reason'"),
        ('[[bert]]\nreason = "x"\nno_gradient = "a"', "'no_gradient' of type str, not list"),
        ('[[bert]]\nreason = "x"\nnot_applicable = ["cahce"]', "no 'cahce'.*'cache'"),
        ("[[bert]\n", "bert.toml: Expected"),
    ],
)
def test_an_override_that_says_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bert.toml").write_text(text)
    with pytest.raises(RegistryError, match=message):
        discover.read_overrides(tmp_path)


def test_every_override_is_of_an_installed_family() -> None:
    assert discover.read_overrides().keys() <= families.installed()
