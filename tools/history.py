"""All runs: what changed from one to another, and why; and keeping them in order.

`nox -s history` lists the runs and the changes of latency, memory and verdict; it tags runs and
deletes old ones. Each change is told with what else changed in the environment at that run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np

from tools import database, expectations, results, trends
from tools.reports import form
from tools.reports.data import Column, ReportError, Setting, plain, select
from tools.usage import CannotWrite, UsageError, unknown

Measure = Literal["latency", "memory", "verdict"]

ALL_FAMILIES = "(all families)"
RECENT = 3  # runs: what changed in the last ones is new, and fails `--fail-on-regression`
VERDICTS = ("pass", "expected", "unexpected")  # from best to worst
_ENVIRONMENT = ("device_name", "driver", "node", "runner", "threads", "python", "platform")
_NAMES = {"device_name": "hardware", "node": "machine", "runner": "processes", "platform": "system"}
_TAG = re.compile(r"[\w.+-]{1,40}")


@dataclass(frozen=True)
class Series:
    """One cell in all runs that measured it; all lists are as long as `runs`.

    `runs` are positions in `History.runs`; latencies in seconds and memories in bytes, NaN where
    they were not measured.
    """

    family: str
    column: Column
    runs: list[int]
    verdicts: list[str]
    latencies: trends.Values
    memories: trends.Values

    def values(self, measure: Measure) -> trends.Values:
        """The numbers of a `measure` that has such."""
        return self.latencies if measure == "latency" else self.memories


@dataclass(frozen=True)
class Change:
    """That a cell is otherwise since the run `run`, of which the last one before is `before_run`.

    `family` is ALL_FAMILIES where it concerns them together. `before` and `after` are seconds,
    bytes, verdicts, or relative where it is all families. `causes` are what else changed then.
    """

    family: str
    column: Column
    measure: Measure
    kind: Literal["step", "drift", "flip"]
    run: int
    before_run: int
    before: float | str
    after: float | str
    causes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether it is slower, needs more memory or is judged worse."""
        if isinstance(self.before, str) or isinstance(self.after, str):
            return VERDICTS.index(str(self.after)) > VERDICTS.index(str(self.before))
        return self.after > self.before

    @property
    def text(self) -> str:
        """What changed, in words."""
        if isinstance(self.before, str) or isinstance(self.after, str):
            return f"verdict {self.before} → {self.after}"
        share = f"{self.after / self.before - 1:+.1%}"
        what = f"{self.measure} {'drifts' if self.kind == 'drift' else 'is'} {share}"
        if self.family == ALL_FAMILIES:
            return what
        shown = form.duration if self.measure == "latency" else _memory
        return f"{what} ({shown(self.before)} → {shown(self.after)})"


@dataclass(frozen=True)
class Run:
    """One run of the history."""

    run_id: str
    started: str | None
    seconds: float | None
    complete: bool
    interrupted: bool
    partial: bool
    asked: int
    finished: int
    host: str | None
    tags: tuple[str, ...]
    versions: Mapping[str, str]
    devices: tuple[str, ...]
    verdicts: Mapping[str, int]

    @property
    def state(self) -> str:
        """Whether it ended, in a word."""
        if self.complete:
            return "partial" if self.partial else "complete"
        return "interrupted" if self.interrupted else "incomplete"


@dataclass(frozen=True)
class History:
    """All runs, the oldest first, what each cell was in them, and where that changed."""

    runs: list[Run]
    series: list[Series]
    changes: list[Change] = field(default_factory=list)

    @cached_property
    def recent(self) -> list[Change]:
        """What is worse since one of the last runs: the regressions."""
        last: dict[Column, set[int]] = {}
        for series in self.series:
            last.setdefault(series.column, set()).update(series.runs)
        newest = {column: set(sorted(runs)[-RECENT:]) for column, runs in last.items()}
        return [
            change
            for change in self.changes
            if change.worse and change.run in newest[change.column]
        ]


def load(path: Path) -> History:
    """The history in the database at `path`. Errors: ReportError, FileNotFoundError."""
    try:
        with database.connect(path) as connection:
            return read(connection)
    except duckdb.Error as error:
        raise ReportError(
            f"{path}: cannot be read: {plain(str(error), 300)}\n"
            "It is rebuilt from results/ by `python -m tools ingest`"
        ) from error


def read(connection: duckdb.DuckDBPyConnection) -> History:
    """The history in an open database."""
    runs = [
        Run(**row | {"tags": tuple(row["tags"]), "versions": json.loads(row["versions"] or "{}")})
        for row in select(connection, "all_runs")
    ]
    series = [
        Series(
            row["family"],
            column_of(row),
            row["runs"],
            row["verdicts"],
            np.array(row["latencies"], dtype=float),
            np.array(row["memories"], dtype=float),
        )
        for row in select(connection, "history")
    ]
    changes = find_changes(series)
    causes = _attribute(connection, changes, runs, series)
    told = [Change(**vars(each) | {"causes": causes.get(n, ())}) for n, each in enumerate(changes)]
    told.sort(key=lambda each: (-each.run, not each.worse, each.family, each.column.order))
    return History(runs, series, told)


def column_of(row: Mapping[str, Any]) -> Column:
    """The column of the matrix that a row of a table belongs to."""
    return Column(row["device"], Setting(row["weights"], row["size"], row["dtype"]))


def find_changes(series: Sequence[Series]) -> list[Change]:
    """What changed in `series`, without its causes."""
    columns: dict[Column, list[Series]] = {}
    for each in series:
        columns.setdefault(each.column, []).append(each)
    found = [change for each in series for change in _flips(each)]
    measures: tuple[Measure, ...] = ("latency", "memory")
    for column, members in columns.items():
        for measure in measures:
            found += _column_changes(column, members, measure)
    return found


def _flips(series: Series) -> list[Change]:
    pairs = zip(series.runs, series.verdicts, strict=True)
    known = [(run, verdict) for run, verdict in pairs if verdict in VERDICTS]
    return [
        Change(series.family, series.column, "verdict", "flip", run, before_run, before, after)
        for (before_run, before), (run, after) in itertools.pairwise(known)
        if before != after
    ]


def _column_changes(column: Column, members: Sequence[Series], measure: Measure) -> list[Change]:
    runs = sorted({run for each in members for run in each.runs})
    places = {run: place for place, run in enumerate(runs)}
    table = np.full((len(members), len(runs)), np.nan)
    for row, each in zip(table, members, strict=True):
        row[[places[run] for run in each.runs]] = each.values(measure)
    table[table <= 0] = np.nan
    common, rest = trends.split(table)
    noises = [trends.noise(row[np.isfinite(row)]) for row in rest]
    known = [each for each in noises if np.isfinite(each)]
    usual = float(np.median(known)) if known else None
    changes = []
    for name, row in zip(
        [ALL_FAMILIES, *(m.family for m in members)], [common, *rest], strict=True
    ):
        here = np.flatnonzero(np.isfinite(row))
        for step in trends.find_steps(row[here], None if name == ALL_FAMILIES else usual):
            at, before_at = runs[here[step.at]], runs[here[step.at - 1]]
            changes.append(
                Change(name, column, measure, step.kind, at, before_at, step.before, step.after)
            )
    return changes


def _attribute(
    connection: duckdb.DuckDBPyConnection,
    changes: Sequence[Change],
    runs: Sequence[Run],
    series: Sequence[Series],
) -> dict[int, tuple[str, ...]]:
    """What else changed with each of `changes`, by its position; nothing where nothing did."""
    witnesses: dict[int, dict[str, str]] = {}
    keys = []
    for number, change in enumerate(changes):
        family = change.family
        if family == ALL_FAMILIES:  # one that ran in both stands for all
            both = {change.run, change.before_run}
            like = (s for s in series if s.column == change.column and both <= set(s.runs))
            family = next((each.family for each in like), "")
        setting = change.column.setting
        cell = {
            "family": family,
            "device": change.column.device,
            **dict(zip(("weights", "size", "dtype"), setting.parts, strict=True)),
        }
        witnesses[number] = cell
        keys += [{"run_id": runs[run].run_id, **cell} for run in (change.before_run, change.run)]
    if not keys:
        return {}
    rows = {
        (row["run_id"], *(row[name] for name in witnesses[0])): row
        for row in select(connection, "environments", {"keys": keys})
    }
    found = {}
    for number, cell in witnesses.items():
        change = changes[number]
        before, after = (
            rows.get((runs[run].run_id, *cell.values())) for run in (change.before_run, change.run)
        )
        if before and after:
            one_script = change.family != ALL_FAMILIES
            found[number] = tuple(differences(before, after, one_script))
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], script: bool) -> list[str]:
    """How the environment of a record is another than `before`, in words; its `script` too."""
    was, now = (json.loads(row["packages"] or "{}") for row in (before, after))
    found = [
        f"{name} {was.get(name) or 'absent'} → {now.get(name) or 'absent'}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    found += [
        f"{_NAMES.get(name, name)} {before[name]} → {after[name]}"
        for name in _ENVIRONMENT
        if before[name] != after[name]
    ]
    if script and before["script_sha256"] != after["script_sha256"]:
        found.append("its script")
    return [plain(each, 200) for each in found]


def _memory(value: float) -> str:
    return form.memory(int(value))


# The command.


def main(options: argparse.Namespace) -> int:
    """`python -m tools history`: 0; 1 with `--fail-on-regression` where something got worse."""
    if options.tag or options.prune is not None:
        known = expectations.load(options.expectations, options.scripts)
        if options.tag:
            tag(options.results, options.tag, options.run)
        if options.prune is not None:
            for name in prune(options.results, options.database, options.prune):
                print(f"deleted {options.results / name}")
        database.ingest(options.results, options.database, known)
    if not options.database.is_file():
        raise ReportError(f"{options.database}: there is no database: run `nox -s matrix` first")
    history = load(options.database)
    _print_runs(history)
    _print_changes(history)
    if options.fail_on_regression and history.recent:
        print(f"{len(history.recent)} regressions in the last {RECENT} runs:")
        for change in history.recent:
            print(f"  {change.family} on {change.column.label}: {change.text}")
        return 1
    return 0


def _print_runs(history: History) -> None:
    for run in history.runs:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in run.verdicts.items())
        tags = f" [{', '.join(map(plain, run.tags))}]" if run.tags else ""
        devices = ", ".join(map(plain, run.devices))
        print(
            f"{run.run_id}  {run.state}, {run.finished}/{run.asked} on {devices}: {verdicts}{tags}"
        )
    print(f"{len(history.runs)} runs, {len(history.series)} cells, {len(history.changes)} changes")


def _print_changes(history: History) -> None:
    for change in history.changes:
        mark = "worse " if change.worse else "better"
        cell = f"{plain(change.family)} on {plain(change.column.label)}"
        print(f"{mark}  {history.runs[change.run].run_id}  {cell}: {change.text}")
        why = "; ".join(change.causes) or "nothing else that the records know of"
        print(f"        changed with it: {why}")


def tag(folder: Path, name: str, run_id: str | None) -> None:
    """Add the tag `name` to the run `run_id` of the results `folder`, or to the last one.

    Errors: UsageError where there is no such run or that is no name.
    """
    if not _TAG.fullmatch(name):
        raise UsageError(f"--tag {name!r}: use up to 40 letters, digits, and any of . _ + -")
    known = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    if not known:
        raise UsageError(f"{folder} has no run to tag: run `nox -s matrix` first")
    chosen = run_id or known[-1]
    if chosen not in known:
        raise UsageError(f"--run: {unknown('run', chosen, known)} in {folder}")
    tags = dict.fromkeys([*results.read_tags(folder / chosen), name])
    try:
        results.replace(folder / chosen / "tags.txt", "".join(f"{t}\n" for t in tags).encode())
    except OSError as error:
        raise CannotWrite(f"{folder / chosen}: cannot be tagged ({error})") from error
    print(f"{chosen} is tagged {', '.join(tags)}")


def prune(folder: Path, path: Path, keep: int) -> list[str]:
    """Delete all runs in the results `folder` but the `keep` newest; returns their names.

    Runs with a tag stay, as do those that still decide a cell in the database at `path`, and those
    that somebody works on. Errors: FileNotFoundError where there is no database.
    """
    with database.connect(path) as connection:
        deciding = {
            row[0] for row in connection.execute("SELECT DISTINCT run_id FROM cells").fetchall()
        }
    names = sorted(each.parent.name for each in folder.glob("*/manifest.json"))
    deleted = []
    for name in names[: max(0, len(names) - keep)]:
        if name in deciding or results.read_tags(folder / name):
            continue
        try:
            with results.Lock(folder / name):
                shutil.rmtree(folder / name)
        except BlockingIOError:
            continue
        deleted.append(name)
    return deleted
