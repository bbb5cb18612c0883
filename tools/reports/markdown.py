"""The reports as Markdown that GitHub renders: the matrix, one page a column, the README summary.

What isn't ours goes through `text`, `code` or `block`, so that no string can become markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from tools import trends
from tools.history import History
from tools.reports import form
from tools.reports.data import OUTCOMES, Cell, Check, Column, Matrix, Recommendation

MARKER = "<!-- Written by `nox -s publish` from the results; do not edit. -->"
MAX_OPEN_CHECKS = 400  # on one page: GitHub does not render files above about 500 kB
_LINE_LIMIT = 300  # characters of foreign text in one line
_BLOCK_LIMIT = 1000

OTHER_FORMATS = """\
| file | what it is |
| --- | --- |
| [index.html]({page}) | the dashboard: all of it to filter, sort and open, and its history |
| [devices.md](devices.md) | which device to use, and what stops models on it |
| [changes.md](changes.md) | what changed between runs, and what changed with it |
| [heatmap.png](heatmap.png) | the matrix as a picture |
| [matrix.csv](matrix.csv) | one line a cell, for spreadsheets |
| [matrix.json](matrix.json) | everything, described by `tools/schemas/matrix.schema.json` |
"""

FOLDED = "<details><summary>By architecture</summary>", "</details>"

_CHANGES_NOTE = """\
Levels of latency and memory that changed and held for {segment} runs, and verdicts that \
flipped, the newest first. What all families of a device have in common in a run is told apart: \
it says more about the machine than about a model. What changed in the environment at the same \
run stands beside a change; that is a hint, no proof."""

_MATRIX_NOTE = """\
A family links to its script; a cell to the script where everything passes, else to what is known \
about it. ☑: an [independent implementation](../docs/crosscheck.md) with the same weights gives \
the same in fp64."""


def text(value: str, limit: int = _LINE_LIMIT) -> str:
    """`value` as one bounded line that is safe in a paragraph, a link or a table cell."""
    line = form.one_line(value, limit)
    escaped = re.sub(r"([\\`*_{}\[\]<>#!|~$&])", r"\\\1", line)
    return re.sub(r"(?i)(www)\.|:(?=//)", lambda m: f"{m[1]}\\." if m[1] else "\\:", escaped)


def code(value: str) -> str:
    """`value` as a code span where that is safe, else as text."""
    return text(value) if re.search(r"[`|<\\\n]", value) or not value else f"`{value.strip()}`"


def block(value: str, language: str = "text") -> str:
    """`value` as a fenced block that its own backticks cannot close."""
    body = form.shorten(value, _BLOCK_LIMIT)
    runs = [len(run) for run in re.findall(r"`+", body)]
    fence = "`" * max(3, max(runs, default=0) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table of cells that are Markdown already; the last `numbers` columns go to the right."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rules, *rows))


def render_matrix(matrix: Matrix, scripts: str, page: str) -> str:
    """`README.md` of the reports; with relative paths of the scripts' folder and the dashboard."""
    parts = [
        MARKER,
        "# Compatibility of transformers' model families",
        _overview(matrix),
        incomplete_warning(matrix),
        "![Heat map of families and checks](heatmap.png)",
        OTHER_FORMATS.format(page=page),
        "## Counts",
        _counts(matrix),
        "## Legend",
        _legend(),
        "## Devices",
        _device_facts(matrix),
        "## Recommended device",
        _recommendation_note(matrix),
        "## Matrix",
        _MATRIX_NOTE,
    ]
    for architecture in matrix.architectures:
        parts += [f"### {text(architecture)}", _architecture_table(matrix, architecture, scripts)]
    parts += ["## Runs", _runs(matrix)]
    return _page(parts)


def render_column(matrix: Matrix, column: Column, scripts: str, page: str) -> str:
    """The page of one column: its facts, what does not pass and why, and what was measured."""
    cells = matrix.column_cells(column)
    listed = [cell for cell in cells if _told(cell)]
    listed.sort(key=lambda cell: cell.outcome.key == "expected")  # news first
    parts = [
        MARKER,
        f"# {text(column.label)}",
        f"[All devices](README.md) · {_sentence(matrix, column)}",
        incomplete_warning(matrix),
        "## Hardware and software",
        _column_facts(matrix, column),
        "## What does not pass",
        *(_open_checks(listed, scripts, page) or ["Nothing."]),
        "## Skipped checks",
        _skipped(cells),
        "## Not measured",
        _unmeasured(matrix, column),
        "## Measurements",
        "Script: seconds from start to end. Latency: median of the repeated calls.",
        _measurements(cells, scripts),
    ]
    return _page(parts)


def render_changes(history: History) -> str:
    """`changes.md`: what changed between runs."""
    rows = [
        [
            text(change.family),
            text(change.column.label),
            f"{'**worse**' if change.worse else 'better'}: {text(change.text)}",
            code(history.runs[change.run].run_id),
            text("; ".join(change.causes)) or "nothing else that the records know of",
        ]
        for change in history.changes[:MAX_OPEN_CHECKS]
    ]
    left = len(history.changes) - len(rows)
    parts = [
        MARKER,
        "# What changed between runs",
        _CHANGES_NOTE.format(segment=trends.SEGMENT),
        (
            table(["family", "device", "change", "since run", "changed with it"], rows)
            if rows
            else f"Nothing, in {len(history.runs)} runs."
        ),
        f"{left} older changes are left out here: `nox -s history` lists them all." if left else "",
    ]
    return _page(parts)


def render_summary(matrix: Matrix, reports: str, page: str) -> str:
    """The text between the markers of the repository's README, with paths of reports and page."""
    header = ["architecture", *(_column_link(column, f"{reports}/") for column in matrix.columns)]
    rows = [
        [text(architecture), *(_tally(matrix.counts(c, families)) for c in matrix.columns)]
        for architecture, families in matrix.architectures.items()
    ]
    links = {
        "Every family and device": f"{reports}/README.md",
        "the dashboard": page,
        "what changed": f"{reports}/changes.md",
        "CSV": f"{reports}/matrix.csv",
        "JSON": f"{reports}/matrix.json",
    }
    total = ["**all**", *(_tally(matrix.counts(column)) for column in matrix.columns)]
    parts = [
        _overview(matrix),
        incomplete_warning(matrix),
        f"[![Heat map of families and checks]({reports}/heatmap.png)]({reports}/heatmap.png)",
        " · ".join(f"{o.symbol} {o.word}" for o in OUTCOMES.values()),
        " · ".join(f"[{name}]({path})" for name, path in links.items()),
        FOLDED[0],
        table(header, [*rows, total]),
        FOLDED[1],
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def incomplete_warning(matrix: Matrix) -> str:
    """A loud note for each run that did not end; empty where all did."""
    lines = [
        f"> - {code(run.run_id)} finished {run.finished} of {run.asked} scripts; "
        f"{run.cells} cells here come from it; {text(run.advice, 500)}"
        for run in matrix.runs
        if not run.complete
    ]
    if not lines:
        return ""
    return "\n".join(["> [!WARNING]", "> **Incomplete runs: this matrix is not whole.**", *lines])


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _overview(matrix: Matrix) -> str:
    sentences = [
        f"**{text(column.label)}**: {_sentence(matrix, column)}" for column in matrix.columns
    ]
    return "  \n".join(sentences)


def _sentence(matrix: Matrix, column: Column) -> str:
    counts = matrix.counts(column)
    total = len(matrix.families)
    rest = ", ".join(
        f"{counts[key]} {outcome.word}"
        for key, outcome in OUTCOMES.items()
        if counts[key] and key != "pass"
    )
    sentence = f"{counts['pass']} of {total} families pass every check"
    return f"{sentence} ({rest})." if rest else f"{sentence}."


def _tally(counts: dict[str, int]) -> str:
    return " ".join(f"{OUTCOMES[key].symbol} {n}" for key, n in counts.items() if n)


def _counts(matrix: Matrix) -> str:
    counts = [matrix.counts(column) for column in matrix.columns]
    rows = [
        [f"{outcome.symbol} {outcome.word}", *(str(found[key]) for found in counts)]
        for key, outcome in OUTCOMES.items()
    ]
    rows.append(["all families", *(str(len(matrix.families)) for _ in counts)])
    return table(["outcome", *map(_column_link, matrix.columns)], rows, numbers=len(counts))


def _legend() -> str:
    rows = [[f"{o.symbol} {o.word}", o.letter, o.meaning] for o in OUTCOMES.values()]
    return table(["cell", "in the heat map", "meaning"], rows) + (
        "\nThe score of a cell is the number of passing checks of all its checks. "
        "Mock results are counted, never judged."
    )


def _column_link(column: Column, folder: str = "") -> str:
    return f"[{text(column.label)}]({folder}{column.slug}.md)"


def _device_facts(matrix: Matrix) -> str:
    names = ["hardware", "kind", "driver", "torch", "transformers", "Python", "system"]
    facts = [form.column_facts(matrix, column) for column in matrix.columns]
    rows = [[name, *(text(column.get(name, form.NOTHING)) for column in facts)] for name in names]
    return table(["", *map(_column_link, matrix.columns)], rows)


def _column_facts(matrix: Matrix, column: Column) -> str:
    facts = form.column_facts(matrix, column)
    if not facts:
        return "No script left a record here, so nothing is known about the hardware."
    facts |= asdict(column.setting)
    return table(["fact", "value"], ([text(name), text(value)] for name, value in facts.items()))


def _recommendation_note(matrix: Matrix) -> str:
    if not matrix.compared_settings:
        devices = ", ".join(text(column.label) for column in matrix.columns)
        return (
            f"n/a: only {devices} was measured, so there is nothing to compare. "
            "Measure another with `nox -s matrix publish -- --device DEVICE`."
        )
    note = (
        "The last columns of the matrix name the device with the lowest median latency among "
        "those on which no check of the family fails, on hardware, without a stand-in."
    )
    if any(setting.size == "tiny" for setting in matrix.compared_settings):
        note += (
            " With the tiny configurations this mostly compares the overhead of a call: measure "
            "`--size full` before you decide for a model of real size."
        )
    return note


def _recommendation(found: Recommendation) -> str:
    if found.device is None:
        return f"n/a: {text(found.reason)}"
    return f"{text(found.device)}, {form.duration(found.latency_median)} ({text(found.reason)})"


def _architecture_table(matrix: Matrix, architecture: str, scripts: str) -> str:
    settings = matrix.compared_settings
    header = [
        "family",
        *map(_column_link, matrix.columns),
        *(f"recommended ({text(setting.label)})" for setting in settings),
    ]
    rows = []
    for family in matrix.architectures[architecture]:
        script = f"{scripts}/{form.path(family.script_name)}"
        row = [f"[{text(family.name)}]({script})" + " ☑" * bool(matrix.confirmed.get(family.name))]
        for column in matrix.columns:
            cell = matrix.cells.get((family.name, column))
            if cell is None:
                row.append(f"{OUTCOMES['not_run'].symbol} {OUTCOMES['not_run'].word}")
                continue
            page = f"{column.slug}.md"
            if cell.outcome.key == "pass":
                target = script
            elif not cell.measured:
                target = f"{page}#not-measured"
            else:
                target = f"{page}#{form.path(cell.family) if _told(cell) else 'skipped-checks'}"
            row.append(f"[{text(cell.text)}]({target})")
        row += [_recommendation(matrix.recommend(family, setting)) for setting in settings]
        rows.append(row)
    return table(header, rows)


def _runs(matrix: Matrix) -> str:
    rows = [
        [
            code(run.run_id),
            text(run.started or "n/a"),
            "complete" if run.complete else "**⚠ incomplete**",
            f"{run.finished}/{run.asked}",
            str(run.cells),
        ]
        for run in matrix.runs
    ]
    return table(["run", "started", "state", "finished", "cells from it"], rows)


def _open_checks(cells: Sequence[Cell], scripts: str, page: str) -> list[str]:
    parts = []
    left = MAX_OPEN_CHECKS
    for index, cell in enumerate(cells):
        if left <= 0:
            parts.append(
                f"**{len(cells) - index} more families are left out here: "
                f"[the dashboard]({page}#view=matrix) has them all.**"
            )
            break
        link = f"[{text(cell.script_name)}]({scripts}/{form.path(cell.script_name)})"
        parts += [f"### {text(cell.family)}", f"{text(cell.text)} · {link}"]
        for check in _told(cell):
            parts += _open_check(cell, check)
            left -= 1
    return parts


def _told(cell: Cell) -> list[Check]:
    """The checks that are told one by one."""
    return [check for check in cell.open_checks if not check.not_applicable]


def _open_check(cell: Cell, check: Check) -> list[str]:
    outcome = check.outcome
    head = f"{outcome.symbol} **{text(check.name)}**: {outcome.word}"
    if outcome.key == "expected":
        head += f" {text(check.status)}"
    if measured := form.measured(check):
        head += f", {text(measured)}"
    parts = [head]
    if check.reason:
        parts.append(block(check.reason))
    if check.expectation_reason:
        cause = f" (cause: {text(check.expectation_cause)})" if check.expectation_cause else ""
        parts.append(f"Expectation{cause}: {text(check.expectation_reason)}")
        if check.expectation_where:
            parts[-1] += f" · where: {text(check.expectation_where)}"
    return [*parts, block(cell.command(check), "sh")]


def _skipped(cells: Sequence[Cell]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for check in cell.open_checks:
            if check.not_applicable:
                groups.setdefault((check.name, check.reason or ""), []).append(cell.family)
    return _grouped(["check", "reason"], groups) if groups else "None."


def _unmeasured(matrix: Matrix, column: Column) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for family in matrix.families:
        cell = matrix.cells.get((family.name, column))
        if cell is None or not cell.measured:
            outcome = matrix.outcome(family, column)
            reason = (cell.first_reason if cell else None) or outcome.meaning
            label = f"{outcome.symbol} {outcome.word}"
            groups.setdefault((label, reason), []).append(family.name)
    return _grouped(["outcome", "reason"], groups) if groups else "Every family was measured."


def _grouped(header: Sequence[str], groups: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """The families of each group; the number says how many where not all are named."""
    rows = [
        [*map(text, group), str(len(families)), text(", ".join(families), 2000)]
        for group, families in sorted(groups.items())[:MAX_OPEN_CHECKS]
    ]
    return table([*header, "count", "families"], rows)


def _measurements(cells: Sequence[Cell], scripts: str) -> str:
    rows = [
        [
            f"[{text(cell.family)}]({scripts}/{form.path(cell.script_name)})",
            text(cell.architecture or form.NOTHING),
            form.seconds(cell.seconds),
            form.duration(cell.latency_median),
            form.memory(cell.peak_memory_bytes),
            form.count(cell.parameters),
        ]
        for cell in cells
        if cell.measured
    ]
    if not rows:
        return "No family was measured."
    header = ["family", "architecture", "script", "median latency", "peak memory", "parameters"]
    return table(header, rows, numbers=4)
