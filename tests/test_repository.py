"""What the files of this repository say: about its commands, about each other, about packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import nox.project
import pytest
from commands import documents
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import ROOT, Environment


def test_documented_files_exist() -> None:
    for document in documents():
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document}: {link}"


def test_readme_has_room_for_the_summary() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    begin, end = "<!-- matrix:begin (written by `nox -s publish`) -->", "<!-- matrix:end -->"
    assert (text.count(begin), text.count(end)) == (1, 1)
    assert text.index(begin) < text.index(end)


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    assert "make test" in (ROOT / "README.md").read_text("utf-8")
    assert (ROOT / ".ci" / "run").read_text().endswith("exec make test\n")


def project_files() -> Iterator[tuple[str, str]]:
    """Path and text of each text file that git keeps or would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).exists() else b""
        if b"\0" not in data:
            yield name, data.decode("utf-8")


NOT_HERE = {
    "a path of someone's machine": r"(?<![\w.$}~/-])/(?:root|work|tmp|home/\w+|Users/\w+)/",
    "the host of a package registry": r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)",
    "a folder outside of the repository": r"\.\./shared",
    "unfinished work": r"\b(?:TO[D]O|FIX[M]E)\b",  # in brackets, so as not to find itself
}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git clone")
def test_files_name_nothing_of_the_place_where_they_were_written() -> None:
    patterns = {what: re.compile(pattern) for what, pattern in NOT_HERE.items()}
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r} is {what}"
        for name, text in project_files()
        for what, pattern in patterns.items()
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


# What is declared.


def requirements() -> dict[str, Requirement]:
    """What pyproject.toml declares for this Python, by canonical name."""
    declared = map(Requirement, Environment.of(ROOT).requirements)
    return {
        canonicalize_name(each.name): each
        for each in declared
        if each.marker is None or each.marker.evaluate()
    }


def test_constraints_pin_every_requirement_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in pinned
    }
    assert len(versions) == len(pinned), "a package is pinned twice"
    for name, requirement in requirements().items():
        assert name in versions, f"constraints.txt has no line for {name}"
        assert requirement.specifier.contains(versions[name]), f"{name}: {versions[name]}"


def test_every_imported_package_is_declared() -> None:
    files = [ROOT / "noxfile.py"]
    for folder in ("crosscheck", "faults", "generator", "tools", "templates", "tests"):
        files += sorted((ROOT / folder).rglob("*.py"))
    imported: dict[str, Path] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported[node.module.partition(".")[0]] = path
    local = {path.stem for path in (*ROOT.iterdir(), *ROOT.glob("tests/*"))}
    project = nox.project.load_toml(ROOT / "pyproject.toml")
    declared = {
        canonicalize_name(Requirement(each).name)
        for each in (
            *Environment.of(ROOT).requirements,
            *nox.project.dependency_groups(project, "crosscheck"),
        )
    }
    providers = {"whisper": ["openai-whisper"]} | dict(packages_distributions())
    standard = sys.stdlib_module_names
    for module in imported.keys() - standard - local:
        names = {canonicalize_name(name) for name in providers.get(module, [module])}
        assert names & declared, f"{imported[module]}: pyproject.toml does not declare {module}"
