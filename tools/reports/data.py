"""The current cells of the database as plain values, ready to be rendered in any format.

Strings that came out of a model, a driver or a terminal are made harmless and bounded here, once
(`plain`); the formats only add their own escaping.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from tools.database import connect
from tools.usage import UsageError

SQL = Path(__file__).parent.parent / "sql"
TEXT_LIMIT = 2000  # characters of any string that reaches a report

_TERMINAL_CODE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
)


class ReportError(UsageError):
    """The reports cannot be published; the message says why and what to do next."""

    exit_code = 1


@dataclass(frozen=True)
class Outcome:
    """How a check or a cell is shown: the same in each format.

    `letter` marks it in the heat map, `colour` is from the colour-blind safe set of Okabe and Ito.
    """

    key: str
    symbol: str
    letter: str
    colour: str
    meaning: str

    @property
    def word(self) -> str:
        """The outcome in words, for those who see neither symbol nor colour."""
        return self.key.replace("_", " ")


# From best to worst, as legends and counts list them.
OUTCOMES = {
    outcome.key: outcome
    for outcome in (
        Outcome("pass", "✅", "", "#009E73", "every check passes"),
        Outcome(
            "expected",
            "🟡",
            "x",
            "#F0E442",
            "what does not pass has a reviewed reason, or is skipped",
        ),
        Outcome("unexpected_pass", "🔔", "P", "#56B4E9", "a check passes that is expected not to"),
        Outcome("fail", "❌", "F", "#D55E00", "a check's assertion does not hold"),
        Outcome("error", "🚫", "E", "#CC79A7", "a check raised an exception"),
        Outcome("flaky", "🎲", "Y", "#8F6A00", "the script did not end the same way each time"),
        Outcome("timeout", "⏱", "T", "#E69F00", "the script was stopped after its time limit"),
        Outcome("crash", "💥", "C", "#3B3B3B", "the process of the script died"),
        Outcome("skip", "⏭", "S", "#9AA5B1", "a check, or all of them, could not be asked here"),
        Outcome(
            "mock", "🔷", "M", "#0072B2", "a stand-in ran: a dependency is missing, no verdict"
        ),
        Outcome("not_run", "⛔", "", "#DDE2E7", "no result"),
    )
}
_WORST_FIRST = ("crash", "timeout", "flaky", "error", "fail", "mock", "skip", "unexpected_pass")


@dataclass(frozen=True, order=True)
class Setting:
    """What a script ran with; only cells of equal settings are compared."""

    weights: str
    size: str
    dtype: str

    @property
    def differences(self) -> list[str]:
        """What differs from the default setting."""
        pairs = zip(self.parts, DEFAULT_SETTING.parts, strict=True)
        return [mine for mine, default in pairs if mine != default]

    @property
    def parts(self) -> tuple[str, str, str]:
        """Weights, size and dtype."""
        return (self.weights, self.size, self.dtype)

    @property
    def label(self) -> str:
        """Short text for headings."""
        return ", ".join(self.differences) or "default"


DEFAULT_SETTING = Setting("random", "tiny", "float32")


@dataclass(frozen=True)
class Column:
    """One column of the matrix: a device in a setting."""

    device: str
    setting: Setting

    @property
    def label(self) -> str:
        """The device, and the setting where it is not the default."""
        return " · ".join([self.device, *self.setting.differences])

    @property
    def slug(self) -> str:
        """Name for files and anchors."""
        return re.sub(
            r"[^a-z0-9.]+", "-", "-".join([self.device, *self.setting.differences]).lower()
        )

    @property
    def order(self) -> tuple[bool, Setting, str]:
        """Sort key: the default setting first, then by setting and device."""
        return (self.setting != DEFAULT_SETTING, self.setting, self.device)


@dataclass(frozen=True)
class Check:
    """One check of a cell; `value` and `bound` are in the unit of the check."""

    name: str
    status: str
    reason: str | None
    value: float | None
    bound: float | None
    seconds: float | None
    expected: bool
    expectation_reason: str | None
    expectation_cause: str | None
    expectation_where: str | None

    @property
    def outcome(self) -> Outcome:
        """The status, seen against the expectation."""
        if self.status == "pass":
            return OUTCOMES["pass" if self.expected else "unexpected_pass"]
        reviewed = self.expected and self.expectation_reason
        return OUTCOMES["expected" if reviewed else self.status]

    @property
    def open(self) -> bool:
        """Whether there is something to tell beyond "it passes"."""
        return self.outcome.key != "pass"

    @property
    def not_applicable(self) -> bool:
        """Whether the script itself skipped it and said why, which needs no expectation."""
        return self.outcome.key == "skip" and self.expected


@dataclass(frozen=True)
class Environment:
    """Hardware and software that a cell was measured with."""

    device_name: str | None
    driver: str | None
    software: bool | None
    memory_bytes: int | None
    features: tuple[str, ...]
    python: str | None
    platform: str | None
    threads: int | None
    runner: str | None
    packages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """One row of `published_cells.sql` with its checks."""

    family: str
    architecture: str | None
    model_class: str | None
    checkpoint: str | None
    column: Column
    seed: int | None
    script_name: str
    status: str
    verdict: str
    passed: int
    failed: int
    total: int
    first_reason: str | None
    inference: str | None
    seconds: float | None
    latency_median: float | None  # seconds; with the quickest and the slowest call
    latency_low: float | None
    latency_high: float | None
    peak_memory_bytes: int | None
    parameters: int | None
    run_id: str
    run_started: str | None
    complete: bool
    environment: Environment | None  # None without a record
    checks: tuple[Check, ...]

    @cached_property
    def outcome(self) -> Outcome:
        """The verdict; where it is "unexpected", the worst of what was not expected."""
        if self.inference == "mock":
            return OUTCOMES["mock"]
        if self.verdict != "unexpected":
            return OUTCOMES[self.verdict.replace(" ", "_")]
        found = {check.outcome.key for check in self.checks}
        worst = next((key for key in _WORST_FIRST if key in found), self.status)
        return OUTCOMES[worst]

    @property
    def measured(self) -> bool:
        """Whether the model itself ran, so that the cell says something about it."""
        return self.inference == "real" and self.verdict not in ("mock", "skip")

    @property
    def passes(self) -> bool:
        """Whether every check passes, or is skipped for a reason that the script gives."""
        return self.measured and self.verdict in ("pass", "expected") and self.failed == 0

    @property
    def open_checks(self) -> list[Check]:
        """The checks to tell about; none where the model did not run."""
        return [check for check in self.checks if check.open and self.measured]

    @property
    def passing_checks(self) -> list[str]:
        """The names of the checks that simply pass; none where the model did not run."""
        return [check.name for check in self.checks if not check.open and self.measured]

    @property
    def text(self) -> str:
        """Symbol, word and score: what a cell of a table says; and what stood in for a GPU."""
        score = f" {self.passed}/{self.total}" if self.measured else ""
        if self.measured and self.environment and self.environment.software:
            score += f" (software adapter: {self.environment.device_name})"
        incomplete = "" if self.complete else " ⚠ incomplete"
        return f"{self.outcome.symbol} {self.outcome.word}{score}{incomplete}"

    def command(self, check: Check | None = None) -> str:
        """The one command that repeats this cell, or one check of it, from the repository root."""
        words = ["python", f"fixed_tests/{self.script_name}", "--device", self.column.device]
        setting = self.column.setting
        for flag, value, default in (
            ("--weights", "PATH" if setting.weights == "path" else setting.weights, "random"),
            ("--size", setting.size, "tiny"),
            ("--dtype", setting.dtype, "float32"),
            ("--seed", str(self.seed or 0), "0"),
        ):
            if value != default:
                words += [flag, value]
        # "script" is the runner's own entry, for a process that left no record.
        if check is not None and check.name != "script":
            words += ["--checks", check.name]
        return shlex.join(words)


@dataclass(frozen=True)
class Family:
    """One row of the matrix."""

    name: str
    architecture: str
    model_class: str | None
    script_name: str


@dataclass(frozen=True)
class Run:
    """One run that a cell comes from, or one that did not end."""

    run_id: str
    started: str | None
    complete: bool
    interrupted: bool
    asked: int
    finished: int
    problems: tuple[str, ...]  # what is wrong with its files and how to mend it
    cells: int  # how many of the published cells come from it

    @property
    def advice(self) -> str:
        """How to make an incomplete run complete."""
        return "; ".join(self.problems[:3]) or (
            f"it was interrupted: go on with `nox -s matrix -- --resume {self.run_id}`"
        )


@dataclass(frozen=True)
class Recommendation:
    """The device to prefer for a family, or the reason why none can be named."""

    device: str | None
    latency_median: float | None  # seconds
    reason: str


@dataclass(frozen=True)
class Matrix:
    """All that is published; `advice` and `stops` are the rows of the queries of that name."""

    cells: dict[tuple[str, Column], Cell]
    runs: tuple[Run, ...]
    advice: tuple[dict[str, Any], ...] = ()
    stops: tuple[dict[str, Any], ...] = ()
    confirmed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Family -> independent implementations that agree with it in fp64, and their versions."""
    benchmarks: Sequence[Mapping[str, Any]] = ()
    """What benchmarks measured: the records that count."""

    @cached_property
    def columns(self) -> list[Column]:
        """The columns, the default setting first."""
        return sorted({column for _, column in self.cells}, key=lambda column: column.order)

    @cached_property
    def families(self) -> list[Family]:
        """The rows, sorted by architecture and name."""
        by_name: dict[str, list[Cell]] = {}
        for cell in self.cells.values():
            by_name.setdefault(cell.family, []).append(cell)
        families = [
            Family(
                name,
                next((cell.architecture for cell in cells if cell.architecture), "unknown"),
                next((cell.model_class for cell in cells if cell.model_class), None),
                cells[0].script_name,
            )
            for name, cells in by_name.items()
        ]
        return sorted(families, key=lambda family: (family.architecture, family.name))

    @cached_property
    def architectures(self) -> dict[str, list[Family]]:
        """The rows by architecture."""
        groups: dict[str, list[Family]] = {}
        for family in self.families:
            groups.setdefault(family.architecture, []).append(family)
        return groups

    @cached_property
    def compared_settings(self) -> list[Setting]:
        """The settings in which more than one device was measured."""
        counts = Counter(column.setting for column in self.columns)
        return [setting for setting, devices in sorted(counts.items()) if devices > 1]

    def column_cells(self, column: Column) -> list[Cell]:
        """The cells of `column`, in the order of the rows."""
        keys = ((family.name, column) for family in self.families)
        return [self.cells[key] for key in keys if key in self.cells]

    def outcome(self, family: Family, column: Column) -> Outcome:
        """The outcome of a cell; "not run" where there is none."""
        cell = self.cells.get((family.name, column))
        return cell.outcome if cell else OUTCOMES["not_run"]

    def counts(self, column: Column, families: Iterable[Family] | None = None) -> dict[str, int]:
        """How many of `families` (default: all) have each outcome, in the order of OUTCOMES."""
        rows = self.families if families is None else families
        found = Counter(self.outcome(family, column).key for family in rows)
        return {key: found[key] for key in OUTCOMES}

    def environments(self, column: Column) -> list[tuple[Environment, int]]:
        """The environments that the cells of `column` ran in, with their number of cells.

        Without the device, or with a stand-in, a record knows less: it counts if there is no other.
        """
        cells = self.column_cells(column)
        measured = [cell for cell in cells if cell.measured]
        found = Counter(cell.environment for cell in measured or cells)
        known = [(environment, n) for environment, n in found.items() if environment is not None]
        return sorted(known, key=lambda item: (-item[1], repr(item[0])))

    def recommend(self, family: Family, setting: Setting) -> Recommendation:
        """The device with the lowest median latency on which nothing of `family` fails.

        Only measurements on hardware count: a software adapter says nothing about a device.
        """
        devices = [column for column in self.columns if column.setting == setting]
        cells = [cell for d in devices if (cell := self.cells.get((family.name, d)))]
        passing = [cell for cell in cells if cell.passes]
        hardware = [c for c in passing if c.environment and c.environment.software is False]
        timed = [cell for cell in hardware if cell.latency_median is not None]
        if len(devices) < 2:
            reason = f"only {devices[0].device} was measured"
        elif not any(cell.measured for cell in cells):
            reason = "not measured"
        elif not passing:
            reason = "passes on no measured device"
        elif not hardware:
            reason = "passes only on software adapters"
        elif not timed:
            reason = "no latency was measured"
        else:
            best = min(timed, key=lambda cell: (cell.latency_median, cell.column.device))
            others = f"fastest of {len(timed)}" if len(timed) > 1 else "no other passes"
            return Recommendation(best.column.device, best.latency_median, others)
        return Recommendation(None, None, reason)


def plain(text: str, limit: int = TEXT_LIMIT) -> str:
    """`text` without terminal codes, control, invisible and direction-changing characters.

    Lines stay lines. At most about `limit` characters are kept, and it says how many were not.
    """
    head = _TERMINAL_CODE.sub("", text[: 4 * limit])
    head = head.replace("\r\n", "\n").replace("\t", "    ")
    lines = re.split(r"[\n\r\v\f\x85\u2028\u2029]", head)
    clean = "\n".join(
        "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
        for line in lines
    ).strip()
    left_out = len(text) - 4 * limit if len(text) > 4 * limit else 0
    left_out += max(0, len(clean) - limit)
    return f"{clean[:limit]} … ({left_out:,} more characters)" if left_out else clean


def load_matrix(database: Path) -> Matrix:
    """Read what is published from the DuckDB file. Errors: ReportError where there is nothing."""
    again = "run `nox -s matrix` first"
    if not database.is_file():
        raise ReportError(f"{database}: there is no database: {again}")
    try:
        with connect(database) as connection:
            cells, checks, runs, *more = (
                select(connection, name)
                for name in (
                    *("published_cells", "published_checks", "published_runs"),
                    *("advice", "stops"),
                )
            )
    except duckdb.Error as error:
        reason = plain(str(error), 300)
        raise ReportError(
            f"{database}: cannot be read: {reason}\n"
            "It is rebuilt from results/ by `python -m tools ingest`"
        ) from error
    if not cells:
        raise ReportError(f"{database}: the database has no cells: {again}")
    advice, stops = (
        tuple({name: _clean(value) for name, value in row.items()} for row in rows) for rows in more
    )
    return replace(_matrix(cells, checks, runs), advice=advice, stops=stops)


def select(
    connection: duckdb.DuckDBPyConnection, name: str, parameters: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of `tools/sql/<name>.sql` by column name."""
    cursor = connection.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"), parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return tuple(_clean(item) for item in value)
    return value


def _matrix(
    cells: Sequence[dict[str, Any]],
    checks: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
) -> Matrix:
    by_cell: dict[tuple[str, Column], list[Check]] = {}
    for row in checks:
        clean = {name: _clean(value) for name, value in row.items()}
        by_cell.setdefault(_take_key(clean), []).append(Check(**clean))
    found: dict[tuple[str, Column], Cell] = {}
    for row in cells:
        packages = json.loads(row.pop("packages") or "{}")
        clean = {name: _clean(value) for name, value in row.items()}
        key = family, column = _take_key(clean)
        facts = {name: clean.pop(name) for name in Environment.__annotations__ if name in clean}
        environment = Environment(
            packages=tuple(sorted((plain(k, 80), plain(str(v), 80)) for k, v in packages.items())),
            **facts | {"features": facts["features"] or ()},
        )
        clean["script_name"] = clean["script_name"] or f"test_hf_{family}.py"
        has_record = clean.pop("has_record")
        cell = Cell(
            family=family,
            column=column,
            environment=environment if has_record else None,
            checks=tuple(by_cell.get(key, ())),
            **clean,
        )
        found[key] = cell if cell.measured else replace(cell, **_NOTHING_MEASURED)
    origins = Counter(cell.run_id for cell in found.values())
    known = (
        Run(**{name: _clean(value) for name, value in row.items()}, cells=origins[row["run_id"]])
        for row in runs
    )
    return Matrix(found, tuple(run for run in known if run.cells or not run.complete))


# A stand-in takes time and memory and may pass checks, but that says nothing about the model.
_NOTHING_MEASURED: dict[str, Any] = {
    "passed": 0,
    "failed": 0,
    "latency_median": None,
    "latency_low": None,
    "latency_high": None,
    "peak_memory_bytes": None,
    "parameters": None,
}


def _take_key(row: dict[str, Any]) -> tuple[str, Column]:
    """Move what identifies a cell out of `row`."""
    family, device = row.pop("family"), row.pop("device")
    setting = Setting(row.pop("weights"), row.pop("size"), row.pop("dtype"))
    return family, Column(device, setting)
