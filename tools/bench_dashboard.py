"""How the dashboard does with a long history, and how well changes in it are found.

The history is made from the real cells of the published matrix, repeated on several devices for
many nights with what varies between nights. Then it is looked at as users do: in a real Chromium,
through the callbacks of the app, by the queries of the database.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import duckdb
import numpy as np

from tools import database, trends
from tools.dashboard import page
from tools.database import SQL
from tools.reports import form, markdown
from tools.reports.data import load_matrix, select
from tools.reports.section import Section, update
from tools.usage import UsageError, command

FAMILIES, RUNS = 523, 200
DEVICES = {
    "cpu": 1.0, "cuda": 0.6, "mps": 0.9, "openvino": 0.5, "webgpu": 4.0, "webnn": 2.0, "xpu": 0.8
}  # fmt: skip
SECTION = Section("dashboard", "bench_dashboard")
CHECKS = 15  # of a family that has none listed

# Of the study of changes.
SERIES, NIGHTS = 300, 200
NOISES = (0.01, 0.02, 0.025)
STEPS = (0.05, 0.10, 0.20)
PLACES = 20  # nights with a change
HERE = 10  # families that change at each of them
DRIFT = 0.2  # over the last DRIFT_NIGHTS
DRIFT_NIGHTS = 60
OUTLIERS = 0.01  # of all values, half as much again

_NOTE = """\
The history is replayed from the cells of `compatibility_reports/matrix.json`: {families} \
families, {devices} devices, {runs} nights. Ninety-five of a hundred calls take no longer than \
what stands here."""

_CHANGES = """\
{series} series of {nights} nights with the given noise; in each night the machine itself is some \
percent slower or quicker, and {outliers:.0%} of the values are half as much again. *Found* is a \
change that is told, at most {within} runs off, as soon as its third run is there; a drift is \
{drift:.0%} slower over {drift_nights} nights. A false alarm is a series without a change in which \
one is told after all nights; beside it those in which one was told in some night as new. A flip \
of a verdict is no estimate: all are found, none is false."""


@dataclass(frozen=True)
class Timed:
    """What was measured: its name, the seconds of each time, and what was asked (seconds)."""

    name: str
    seconds: Sequence[float]
    bound: float | None = None

    @property
    def p95(self) -> float:
        """What 95 of 100 do not exceed."""
        if len(self.seconds) < 2:
            return self.seconds[0]
        return quantiles(self.seconds, n=20, method="inclusive")[-1]


def main(options: argparse.Namespace) -> int:
    """`python -m tools bench_dashboard`: 0. Errors: UsageError, ReportError."""
    document = options.output / "docs" / "dashboard.md"
    SECTION.put("", document)  # an error there is to be told before the work, not after it
    source = options.output / "compatibility_reports" / "matrix.json"
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        path = Path(folder) / "replayed.duckdb"
        replay(path, cells(source, FAMILIES), DEVICES, RUNS)
        parts = [
            f"`{command('bench_dashboard', options, ())}`",
            _scale(path, options.scripts, Path(folder)),
            _NOTE.format(families=FAMILIES, devices=len(DEVICES), runs=RUNS),
        ]
    parts += [study()]
    text = "\n\n".join(part.strip() for part in parts)
    print(f"\n{text}\n")
    update(document, SECTION.put(text, document))
    print(f"{document} says so")
    return 0


def cells(source: Path, number: int) -> list[dict[str, Any]]:
    """So many real cells of the published matrix, some twice if need be. Errors: UsageError."""
    try:
        families = json.loads(source.read_text(encoding="utf-8"))["families"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{source}: cannot be read ({error}): run `nox -s publish` first"
        ) from error
    found = []
    for family in families:
        cell = next(iter(family["cells"].values()), None)
        if cell and cell["latency_median"]:
            names = [check["name"] for check in cell["open_checks"]] + cell["passing_checks"]
            found.append(
                {
                    "family": family["family"],
                    "architecture": family["architecture"],
                    "model_class": family["model_class"],
                    "script": family["script"],
                    "checkpoint": cell["checkpoint"],
                    "verdict": cell["verdict"],
                    "status": cell["status"],
                    "latency": cell["latency_median"],
                    "memory": cell["peak_memory_bytes"] or 2**28,
                    "parameters": cell["parameters"],
                    "seconds": cell["seconds"],
                    "names": names,
                }
            )
    if not found:
        raise UsageError(f"{source}: no cell has a latency: run `nox -s matrix publish` first")
    again = [
        found[index % len(found)] | {"family": f"{found[index % len(found)]['family']}_{index}"}
        for index in range(len(found), number)
    ]
    return [*found[:number], *again]


def replay(
    path: Path, real: Sequence[Mapping[str, Any]], devices: Mapping[str, float], runs: int
) -> None:
    """Make a database at `path` in which the `real` cells ran on `devices` in so many `runs`."""
    listed = [{"device": name, "slower": slower} for name, slower in devices.items()]
    parameters = {"cells": list(real), "devices": listed, "runs": runs}
    with duckdb.connect(path) as connection:
        for name in ("status", *database.TABLES):
            connection.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))
        for statement in duckdb.extract_statements((SQL / "replay.sql").read_text("utf-8")):
            given = {key: parameters[key] for key in statement.named_parameters}
            connection.execute(statement, given)
        for name in database.DERIVED:
            connection.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _scale(path: Path, scripts: Path, folder: Path) -> str:
    """The table of sizes and times."""
    matrix = load_matrix(path)
    begin = time.perf_counter()
    shown = page.load(path, matrix, scripts, None)
    html = page.render(shown, "../fixed_tests")
    rendered = time.perf_counter() - begin
    file = folder / "index.html"
    file.write_text(html, encoding="utf-8")
    rows = [["size of the page", f"{file.stat().st_size / 1e6:.1f} MB", "15 MB"]]
    for each in [*_opening(file), *_callbacks(path, folder), *_queries(path)]:
        bound = "" if each.bound is None else f"{each.bound * 1000:.0f} ms"
        rows.append([each.name, f"{each.p95 * 1000:.0f} ms", bound])
    rows.append(["making the page (estimates and changes included)", f"{rendered:.1f} s", ""])
    return markdown.table(["", "measured", "asked"], rows, 2)


def _opening(file: Path) -> list[Timed]:
    """How long Chromium takes until the first view and the figures of each view stand there."""
    executable = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if executable is None:
        return []
    from playwright.sync_api import sync_playwright

    first, later = [], []
    views = {"matrix": "#heat tr", "history": "svg.main-svg", "performance": "svg.main-svg"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for _ in range(5):
            tab = browser.new_page()
            first.append(_timed(partial(_open, tab, file)))
            later += [_timed(partial(_look, tab, view, sign)) for view, sign in views.items()]
            tab.close()
        browser.close()
    return [
        Timed("opening the page, until it can be used", first, 3.0),
        Timed("another view of it", later),
    ]


def _open(tab: Any, file: Path) -> None:
    tab.goto(file.as_uri())
    tab.wait_for_selector("[data-ready]")


def _look(tab: Any, view: str, sign: str) -> None:
    tab.evaluate(f"location.hash = 'view={view}'")
    tab.wait_for_selector(f"main:has(h2) {sign}")


def _callbacks(path: Path, folder: Path) -> list[Timed]:
    """How long the callbacks of the app take, asked as its pages ask."""
    from tools.dashboard import app

    answers = app.Answers(app.Sources(folder / "results", path, folder))
    return [
        Timed(f"callbacks: {name}", [_timed(work) for _ in range(20)], 0.5)
        for name, work in app.questions(answers).items()
    ]


def _queries(path: Path) -> list[Timed]:
    """How long the queries of the database take that a user waits for."""
    with database.connect(path) as connection:
        last = connection.execute("SELECT max(run_id) FROM runs").fetchall()[0][0]
        first = connection.execute("SELECT min(run_id) FROM runs").fetchall()[0][0]
        some = {
            "family": "bert",
            "device": "cpu",
            "weights": "random",
            "size": "tiny",
            "dtype": "float32",
        }
        asked: dict[str, dict[str, Any]] = {
            "published_cells": {},
            "all_runs": {},
            "series": some,
            "timeline": {"run_id": last},
            "compared": {"before": first, "after": last},
        }
        return [
            Timed(
                f"query: {name}.sql",
                [_timed(partial(select, connection, name, given)) for _ in range(20)],
                0.2,
            )
            for name, given in asked.items()
        ]


# The study of changes.


def study(series: int = SERIES, noises: Sequence[float] = NOISES) -> str:
    """The table of what is found and of false alarms."""
    header = [
        "noise",
        *(f"{step:.0%} step" for step in STEPS),
        "drift",
        "false alarms per 1,000",
        "ever",
    ]
    rows = []
    for number, noise in enumerate(noises):
        random = np.random.default_rng(number)
        found = [found_share(random, series, noise, step) for step in STEPS]
        end, ever = false_alarms(random, series, noise)
        drift = drift_share(random, series, noise)
        alarms = [f"{share * 1000:.1f}" for share in (end, ever)]
        rows.append([f"{noise:.1%}", *(f"{share:.1%}" for share in [*found, drift]), *alarms])
    note = _CHANGES.format(
        series=form.count(series),
        nights=NIGHTS,
        outliers=OUTLIERS,
        within=trends.SEGMENT,
        drift=DRIFT,
        drift_nights=DRIFT_NIGHTS,
    )
    return f"{markdown.table(header, rows, len(header))}\n{note}"


def _quiet(random: np.random.Generator, series: int, noise: float) -> trends.Values:
    """Values without a change, shape (series, NIGHTS)."""
    level = random.normal(-5, 1, (series, 1))
    machine = random.normal(0, 0.05, NIGHTS)
    off = np.where(random.random((series, NIGHTS)) < OUTLIERS, np.log(1.5), 0)
    return np.asarray(np.exp(level + machine + random.normal(0, noise, (series, NIGHTS)) + off))


def _steps(table: trends.Values, rows: Sequence[int] | None = None) -> list[list[trends.Step]]:
    _, rest = trends.split(table)
    usual = float(np.median([trends.noise(row) for row in rest]))
    return [
        trends.find_steps(rest[row], usual) for row in (range(len(rest)) if rows is None else rows)
    ]


def found_share(random: np.random.Generator, series: int, noise: float, step: float) -> float:
    """The share of steps that is told when three runs have it, in the right place."""
    found = 0
    for at in random.integers(20, NIGHTS - trends.SEGMENT, PLACES):
        table = _quiet(random, series, noise)[:, : at + trends.SEGMENT]
        rows = random.choice(series, HERE, replace=False)
        table[rows, at:] *= 1 + step
        for told in _steps(table, rows.tolist()):
            found += any(abs(each.at - at) <= trends.SEGMENT and each.ratio > 1 for each in told)
    return found / (PLACES * HERE)


def drift_share(random: np.random.Generator, series: int, noise: float) -> float:
    """The share of slow drifts that is told in the end, as a drift or as steps."""
    table = _quiet(random, series, noise)
    rows = random.choice(series, PLACES * HERE // 2, replace=False)
    table[rows, -DRIFT_NIGHTS:] *= np.exp(np.linspace(0, np.log1p(DRIFT), DRIFT_NIGHTS))
    told = _steps(table, rows.tolist())
    begin = NIGHTS - DRIFT_NIGHTS - trends.SEGMENT
    return sum(any(s.at >= begin and s.ratio > 1 for s in each) for each in told) / len(rows)


def false_alarms(random: np.random.Generator, series: int, noise: float) -> tuple[float, float]:
    """The share of unchanged series with a change in the end, and with a new one in some night."""
    table = _quiet(random, series, noise)
    end = sum(bool(each) for each in _steps(table)) / series
    ever: set[int] = set()
    for nights in range(trends.FEWEST, NIGHTS + 1, trends.SEGMENT):
        for row, told in enumerate(_steps(table[:, :nights])):
            if any(each.at >= nights - trends.SEGMENT for each in told):
                ever.add(row)
    return end, len(ever) / series
