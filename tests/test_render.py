"""Many scripts are rendered from a cache or by several processes, and are the same either way."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator import registry, render
from generator.registry import Entry, RegistryError
from tests.generator_fixtures import scripts, write_project


@dataclasses.dataclass
class Project:
    """A registry, its templates, a cache, and how many scripts were made since last asked."""

    entries: dict[str, Entry]
    templates: Path
    cache: Path
    made: list[str] = dataclasses.field(default_factory=list)

    def render(self, *families: str) -> dict[str, str]:
        """What `render` gives; `made` are the families that it did not take from the cache."""
        self.made.clear()
        return render.render(self.entries, families, self.templates, self.cache)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    directory, templates = write_project(tmp_path)
    project = Project(registry.load(directory, templates), templates, tmp_path / "cache")
    make = render._script

    def counted(templates: Path, pair: tuple[Entry, Entry]) -> str:
        project.made.append(pair[0].family)
        return make(templates, pair)

    monkeypatch.setattr(render, "_script", counted)
    yield project
    render._templates.cache_clear()


def test_all_scripts_are_rendered_or_those_asked_for(project: Project, tmp_path: Path) -> None:
    expected = {f"test_hf_{f}.py": text for f, text in scripts(tmp_path / "again").items()}
    assert project.render("roberta") == {"test_hf_roberta.py": expected["test_hf_roberta.py"]}
    assert project.render() == expected
    assert project.made == ["bert"]


def test_what_has_not_changed_is_not_made_again(project: Project) -> None:
    first = project.render()
    assert project.made == ["bert", "roberta"]
    assert project.render() == first
    assert not project.made


def test_what_has_changed_is_made_again(project: Project) -> None:
    project.render()
    renamed = dataclasses.replace(project.entries["roberta"], title="Roberta")
    project.entries["roberta"] = renamed
    assert "Test of Roberta" in project.render()["test_hf_roberta.py"]
    assert project.made == ["roberta"]
    template = project.templates / "encoder.py"
    template.write_text(template.read_text("utf-8").replace("Two rows", "Rows"), "utf-8")
    render._templates.cache_clear()  # it is that of one process, in which templates do not change
    assert "Rows for" in project.render()["test_hf_roberta.py"]
    assert project.made == ["bert", "roberta"]


@pytest.mark.parametrize("damage", [b"", b"no digest", b"\xff\xfe", b"0" * 64 + b"\nprint()\n"])
def test_a_damaged_cache_has_no_effect(project: Project, damage: bytes) -> None:
    first = project.render()
    for path in project.cache.iterdir():
        path.write_bytes(damage)
    assert project.render() == first
    assert project.made == ["bert", "roberta"]
    assert project.render() == first
    assert not project.made


def test_the_cache_holds_what_is_needed_and_no_more(project: Project) -> None:
    project.render()
    project.entries["bert"] = dataclasses.replace(project.entries["bert"], title="BERT")
    project.render()
    assert len([*project.cache.iterdir()]) == len(project.entries)


def test_several_processes_make_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = project.render()
    monkeypatch.undo()
    monkeypatch.setattr(render, "WORTH", 2)
    cache = project.cache.with_name("other")
    assert render.render(project.entries, (), project.templates, cache) == alone


def test_the_template_s_own_family_is_in_the_registry(project: Project) -> None:
    del project.entries["bert"]
    with pytest.raises(RegistryError, match=r"registry/encoder.toml has no \[bert\], for which"):
        project.render()


def test_where_nothing_has_changed_nothing_heavy_is_imported() -> None:
    render.render(registry.load(), ["bert"])
    code = """if True:
        import sys
        from generator.__main__ import main
        main(["check", "bert"])
        assert not {"black", "libcst", "torch", "transformers"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=registry.DIRECTORY.parents[1])
