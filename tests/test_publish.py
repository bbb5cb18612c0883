"""Publishing: what is written where, that it is stable, and when it is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.matrix_factory import EXPECTED, Results, checks, full_results
from tools.__main__ import main
from tools.dashboard.page import Dashboard
from tools.database import ingest
from tools.publish import BEGIN, END, publish
from tools.reports.data import Matrix, ReportError

OUTPUTS = {"README.md", "changes.md", "devices.md", "heatmap.png", "matrix.csv", "matrix.json"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Dashboard:
    return full_results(tmp_path_factory.mktemp("full")).dashboard(*EXPECTED)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    return tmp_path


def publish_in(root: Path, shown: Dashboard) -> list[Path]:
    return publish(shown, root, root / "fixed_tests")


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_all_formats_and_one_page_a_column_are_written(root: Path, shown: Dashboard) -> None:
    changed = publish_in(root, shown)
    reports = root / "compatibility_reports"
    assert {path.name for path in reports.iterdir()} == OUTPUTS | {"cpu.md", "cuda.md"}
    page = root / "dashboard" / "index.html"
    assert set(changed) == {*reports.iterdir(), root / "README.md", page}


def test_publishing_again_changes_no_byte(root: Path, shown: Dashboard) -> None:
    publish_in(root, shown)
    before = contents(root)
    assert publish_in(root, shown) == []
    assert contents(root) == before


def test_rebuilding_the_database_changes_no_byte(root: Path) -> None:
    made = full_results(root / "made")
    publish_in(root, made.dashboard(*EXPECTED))
    assert publish_in(root, made.dashboard(*EXPECTED)) == []


def test_the_readme_keeps_what_is_outside_of_its_markers(root: Path, shown: Dashboard) -> None:
    publish_in(root, shown)
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert "old" not in text
    assert "(compatibility_reports/heatmap.png)" in text
    assert "Incomplete runs" in text


@pytest.mark.parametrize(
    ("readme", "problem"),
    [
        (f"{END}\n", f"the marker {BEGIN} is missing"),
        (f"{BEGIN}\n", f"the marker {END} is missing"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n", f"the marker {BEGIN} appears 2 times"),
        (f"{END}\n{BEGIN}\n", f"the marker {END} stands before {BEGIN}"),
    ],
)
def test_wrong_markers_are_an_error_and_nothing_is_touched(
    root: Path, shown: Dashboard, readme: str, problem: str
) -> None:
    (root / "README.md").write_text(readme)
    with pytest.raises(ReportError) as error:
        publish_in(root, shown)
    assert str(error.value).startswith(f"{root / 'README.md'}: {problem}")
    assert contents(root) == {"README.md": readme.encode()}


def test_a_missing_readme_is_an_error(tmp_path: Path, shown: Dashboard) -> None:
    with pytest.raises(ReportError, match=r"README\.md: cannot be read"):
        publish_in(tmp_path, shown)
    assert contents(tmp_path) == {}


def test_pages_of_columns_that_are_gone_are_removed_and_others_are_kept(
    root: Path, shown: Dashboard
) -> None:
    publish_in(root, shown)
    notes = root / "compatibility_reports" / "notes.md"
    notes.write_text("mine")
    matrix = shown.matrix
    only_cpu = Matrix(
        {key: cell for key, cell in matrix.cells.items() if key[1].device == "cpu"}, matrix.runs
    )
    changed = publish_in(root, replace(shown, matrix=only_cpu))
    assert root / "compatibility_reports" / "cuda.md" in changed
    names = {path.name for path in notes.parent.iterdir()}
    assert names == OUTPUTS | {"cpu.md", "notes.md"}


def test_a_page_that_is_not_ours_is_not_overwritten(root: Path, shown: Dashboard) -> None:
    page = root / "compatibility_reports" / "cpu.md"
    page.parent.mkdir()
    page.write_text("mine")
    with pytest.raises(ReportError, match=r"cpu\.md: is not a published report"):
        publish_in(root, shown)
    assert page.read_text() == "mine"
    assert "old" in (root / "README.md").read_text()


def test_a_failed_write_leaves_the_old_file(
    root: Path, shown: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        publish_in(root, shown)
    assert list((root / "compatibility_reports").iterdir()) == []


def command(root: Path, database: Path) -> list[str]:
    scripts = str(root / "fixed_tests")
    paths = ["--database", str(database), "--output", str(root), "--scripts", scripts]
    return ["publish", *paths, "--device", "cpu"]


def test_the_command_publishes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = full_results(root / "made")
    ingest(made.folder, made.database)
    assert main(command(root, made.database)) == 1
    assert "1 cells are mocks (llava on cpu)" in capsys.readouterr().err
    made.run("20991231T000000Z-abcdef", {"llava": checks()})  # where torch is installed
    ingest(made.folder, made.database)
    assert main(command(root, made.database)) == 0
    assert "13 cells on cpu, cuda; 10 files changed" in capsys.readouterr().out
    assert main(command(root, made.database)) == 0
    assert "; 0 files changed" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["missing", "no cells", "empty file", "foreign"])
def test_without_cells_the_command_says_what_to_run(
    root: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    made = Results(root / "made")
    if state == "no cells":
        ingest(made.folder, made.database)
    elif state != "missing":
        made.database.write_bytes(b"" if state == "empty file" else b"not a database" * 1000)
    before = contents(root)
    assert main(command(root, made.database)) == 1
    told = capsys.readouterr().err
    assert str(made.database) in told
    assert "`nox -s matrix`" in told or "`python -m tools ingest`" in told
    assert contents(root) == before


def test_a_setting_has_its_own_page(root: Path) -> None:
    made = Results(root / "made")
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()})
    made.run("20261123T190000Z-bbbbbb", {"bert": checks()}, size="full", dtype="bfloat16")
    shown = made.dashboard()
    matrix = shown.matrix
    assert [column.label for column in matrix.columns] == ["cpu", "cpu · full · bfloat16"]
    publish_in(root, shown)
    page = (root / "compatibility_reports" / "cpu-full-bfloat16.md").read_text(encoding="utf-8")
    assert "# cpu · full · bfloat16" in page
