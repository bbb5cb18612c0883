"""Publish: render what the database says to reports, the dashboard's page and the README.

Everything is rendered before anything is written, and each file is replaced whole. The same data
gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tools import hub, prices
from tools.benchmark import report as benchmarks
from tools.dashboard import page as dashboard
from tools.dashboard.page import Dashboard
from tools.reports import advice, form
from tools.reports.data import Matrix, ReportError, load_matrix
from tools.reports.heatmap import render_heatmap
from tools.reports.markdown import (
    MARKER,
    render_changes,
    render_column,
    render_matrix,
    render_summary,
)
from tools.reports.section import Section, update
from tools.reports.tables import render_csv, render_json

REPORTS, PAGE = "compatibility_reports", "dashboard/index.html"
BENCHMARKS = "benchmark_reports"
SUFFIXES = (".md", ".html")  # of what says that it is ours
SUMMARY = Section("matrix", "publish")
BEGIN, END = SUMMARY.begin, SUMMARY.end


def main(options: argparse.Namespace) -> int:
    """`python -m tools publish`: 0 when all is published. Errors: ReportError, UsageError.

    The reports of benchmarks are left as they are where nothing has been measured. With `--hub` it
    is model cards that get figures, and no report.
    """
    if options.hub:
        return hub.main(options)
    reports = options.output / BENCHMARKS
    records = benchmarks.load(options.benchmarks)
    matrix = replace(
        load_matrix(options.database),
        confirmed=confirmed(options.output),
        benchmarks=records or benchmarks.published(reports),
    )
    _refuse_mocks(matrix)
    shown = dashboard.load(options.database, matrix, options.scripts, options.prices)
    try:
        changed = publish(shown, options.output, options.scripts)
        if records:
            listed = prices.read(options.prices)
            texts = benchmarks.render(records, _relative(options.scripts, reports), listed)
            changed += replace_all(reports, {reports / name: text for name, text in texts.items()})
    except OSError as error:
        raise ReportError(f"{options.output}: cannot be written ({error})") from error
    columns = ", ".join(column.label for column in matrix.columns)
    print(f"{options.output / PAGE}, {options.output / REPORTS}")
    print(f"{len(matrix.cells)} cells on {columns}; {len(changed)} files changed")
    return 0


def confirmed(root: Path) -> dict[str, dict[str, str]]:
    """What `crosscheck` has found: family -> independent implementations and their versions."""
    path = root / "docs" / "crosscheck.json"
    found: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _refuse_mocks(matrix: Matrix) -> None:
    """Errors: ReportError where a cell has nothing but what a stand-in said."""
    mocks = [cell for cell in matrix.cells.values() if cell.outcome.key == "mock"]
    if mocks:
        names = ", ".join(f"{cell.family} on {cell.column.device}" for cell in mocks[:3])
        families = ",".join(sorted({cell.family for cell in mocks}))
        raise ReportError(
            f"{len(mocks)} cells are mocks ({names}{', …' if len(mocks) > 3 else ''}): a stand-in "
            f"is no verdict, so nothing is published; where torch and transformers are, run "
            f"`python -m tools matrix --family {form.shorten(families, 200)}`"
        )


def publish(shown: Dashboard, output: Path, scripts: Path) -> list[Path]:
    """Write reports and dashboard into the folder `output`, and the summary into its README.md.

    Their links lead to the folder `scripts`. Pages of columns that are gone are removed. Returns
    the files that changed. Errors: ReportError, and then nothing was touched.
    """
    readme, reports, page = output / "README.md", output / REPORTS, output / PAGE
    summary = render_summary(shown.matrix, REPORTS, PAGE)
    files = {page: dashboard.render(shown, _relative(scripts, page.parent)).encode("utf-8")}
    for name, data in render(shown, _relative(scripts, reports)).items():
        files[reports / name] = data
    text = SUMMARY.put(summary, readme)  # which refuses a README without a place for it
    changed = replace_all(reports, files)
    return [*changed, *([readme] if update(readme, text) else [])]


def replace_all(folder: Path, files: Mapping[Path, bytes]) -> list[Path]:
    """Write these `files`, and leave no other report of ours in `folder`; returns what changed.

    Errors: ReportError for a file that is not ours, and then nothing was touched.
    """
    for path in files:
        if path.suffix in SUFFIXES and path.exists() and not _is_ours(path):
            raise ReportError(
                f"{path}: is not a published report, so it is not overwritten: move it"
            )
    written = [path for path in folder.rglob("*") if path.suffix in SUFFIXES]
    stale = [path for path in written if path not in files and _is_ours(path)]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    changed = [path for path, data in files.items() if update(path, data)]
    for path in stale:
        path.unlink()
    return changed + stale


def render(shown: Dashboard, scripts: str) -> dict[str, bytes]:
    """All reports by file name; `scripts` is the path to the scripts in their links."""
    matrix = shown.matrix
    texts = {
        "README.md": render_matrix(matrix, scripts, f"../{PAGE}"),
        "changes.md": render_changes(shown.history),
        advice.NAME: advice.render_advice(matrix),
        "matrix.csv": render_csv(matrix),
        "matrix.json": render_json(matrix),
    }
    for column in matrix.columns:
        name = f"{column.slug}.md"
        if name.casefold() in (known.casefold() for known in texts):
            raise ReportError(f"{name}: two pages would have this name: rename a device")
        texts[name] = render_column(matrix, column, scripts, f"../{PAGE}")
    files = {name: text.encode("utf-8") for name, text in texts.items()}
    return files | {"heatmap.png": render_heatmap(matrix)}


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARKER in file.read(200)
