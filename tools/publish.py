"""Publish: render what the database says to `compatibility_reports/` and into the README.

Everything is rendered before anything is written, and each file is replaced whole. The same data
gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tools.reports.data import Matrix, ReportError, load_matrix
from tools.reports.heatmap import render_heatmap
from tools.reports.markdown import MARKER, render_column, render_matrix, render_summary
from tools.reports.page import render_page
from tools.reports.section import Section, update
from tools.reports.tables import render_csv, render_json

SUMMARY = Section("matrix", "publish")
BEGIN, END = SUMMARY.begin, SUMMARY.end


def main(options: argparse.Namespace) -> int:
    """`python -m tools publish`: 0 when all is published. Errors: ReportError."""
    reports = options.output / "compatibility_reports"
    matrix = load_matrix(options.database)
    try:
        changed = publish(matrix, reports, options.output / "README.md", options.scripts)
    except OSError as error:
        raise ReportError(f"{reports}: cannot be written ({error})") from error
    cells, columns = len(matrix.cells), ", ".join(column.label for column in matrix.columns)
    print(f"{reports}: {cells} cells on {columns}; {len(changed)} files changed")
    return 0


def publish(matrix: Matrix, reports: Path, readme: Path, scripts: Path) -> list[Path]:
    """Write the folder `reports`, with links to the folder `scripts`, and the summary in `readme`.

    Pages of columns that are gone are removed. Returns the files that changed. Errors: ReportError,
    and then nothing was touched.
    """
    summary = render_summary(matrix, _relative(reports, readme.parent))
    files = {readme: SUMMARY.put(summary, readme)}
    for name, data in render(matrix, _relative(scripts, reports)).items():
        path = reports / name
        files[path] = data
        if path.suffix in (".md", ".html") and path.exists() and not _is_ours(path):
            raise ReportError(
                f"{path}: is not a published report, so it is not overwritten: move it"
            )
    stale = [path for path in reports.glob("*.md") if path not in files and _is_ours(path)]
    reports.mkdir(parents=True, exist_ok=True)
    changed = [path for path, data in files.items() if update(path, data)]
    for path in stale:
        path.unlink()
    return changed + stale


def render(matrix: Matrix, scripts: str) -> dict[str, bytes]:
    """All reports by file name; `scripts` is the path to the scripts in their links."""
    texts = {
        "README.md": render_matrix(matrix, scripts),
        "matrix.html": render_page(matrix, scripts),
        "matrix.csv": render_csv(matrix),
        "matrix.json": render_json(matrix),
    }
    for column in matrix.columns:
        name = f"{column.slug}.md"
        if name.casefold() in (known.casefold() for known in texts):
            raise ReportError(f"{name}: two pages would have this name: rename a device")
        texts[name] = render_column(matrix, column, scripts)
    files = {name: text.encode("utf-8") for name, text in texts.items()}
    return files | {"heatmap.png": render_heatmap(matrix)}


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARKER in file.read(200)
