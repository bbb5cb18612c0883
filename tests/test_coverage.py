"""Every folder of the installed transformers is covered, or listed with the reason why not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from generator import GeneratorError, coverage, families, registry
from generator.families import Families

ENTRIES = registry.read()
KNOWN = Families(
    important=["bert", "gone"],
    unsupported={"nougat": "no modeling code"},
    pending={"albert": "nobody has looked"},
)


def test_every_family_has_a_script_or_the_reason_why_not() -> None:
    known = families.read()
    assert not families.new()
    listed = ENTRIES.keys() | known.unsupported.keys() | known.pending.keys()
    assert families.installed() == listed


def test_families_of_a_new_release_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    there = families.installed()
    monkeypatch.setattr(families, "installed", lambda: there | {"zzz_new"})
    assert families.missing()[0] == "zzz_new"
    assert families.new() == ["zzz_new"]


def test_what_is_unsupported_has_no_modeling_code() -> None:
    import transformers

    models = Path(transformers.__file__).parent / "models"
    for family in families.read().unsupported:
        assert not [*(models / family).glob("modeling_*.py")], family


def test_important_families_exist_and_stand_once() -> None:
    important = families.read().important
    assert len(important) == len({*important})
    assert {*important} <= families.installed()


def test_each_family_has_one_state_and_important_ones_come_first() -> None:
    entry = dataclasses.replace(ENTRIES["vit"], coverage="partial", coverage_reason="no video")
    entries = {"bert": ENTRIES["bert"], "vit": entry}
    found = coverage.compute(entries, KNOWN, {"bert", "vit", "nougat", "albert"})
    assert [*found.state.items()] == [
        ("bert", "full"),
        ("albert", "missing"),
        ("nougat", "unsupported"),
        ("vit", "partial"),
    ]
    page = coverage.page(found)
    assert "**2 of 3** families with modeling code" in page
    assert "| vit | partial | no video |" in page
    assert "| albert | missing | nobody has looked |" in page
    assert "| nougat | unsupported | no modeling code |" in page


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"bert", "nougatt", "albert"}, "no family 'nougat' .did you mean 'nougatt'"),
        ({"nougat", "albert"}, "no family 'bert'"),
    ],
)
def test_a_family_that_is_not_installed_is_refused(there: set[str], message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        coverage.compute({"bert": ENTRIES["bert"]}, KNOWN, there)


def test_a_family_is_not_both_covered_and_unsupported() -> None:
    with pytest.raises(GeneratorError, match=r"\[unsupported\] 'nougat' is in the registry"):
        coverage.compute({"nougat": ENTRIES["bert"]}, KNOWN, {"nougat"})


def test_the_numbers_go_between_the_markers(tmp_path: Path) -> None:
    found = coverage.compute({"bert": ENTRIES["bert"]}, KNOWN, {"bert", "nougat", "albert"})
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(GeneratorError, match="must stand there"):
        coverage.render(found, tmp_path)
    readme.write_text(f"before\n{coverage.BEGIN}\nstale numbers\n{coverage.END}\nafter\n")
    text = coverage.render(found, tmp_path)[readme].decode()
    assert coverage.summary(found) in text
    assert "stale" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_published_coverage_is_that_of_the_registry() -> None:
    found = coverage.compute(ENTRIES, families.read(), families.installed())
    for path, data in coverage.render(found, coverage.ROOT).items():
        if path.suffix == ".md":  # the picture depends on the version of its library
            assert path.read_bytes() == data, f"{path.name}: write it by `nox -s coverage`"


def test_the_picture_is_a_picture() -> None:
    found = coverage.compute(ENTRIES, families.read(), families.installed())
    assert coverage.picture(found).startswith(b"\x89PNG")
