"""The dashboard as one page: it opens from disk, and asks for nothing from anywhere.

Its data and Plotly are packed into it with gzip; the page unpacks them when a view asks. Equal
data gives equal bytes.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tools import database, history, prediction
from tools import prices as price_list
from tools.history import ALL_FAMILIES, Change, History
from tools.prediction import Estimates
from tools.reports import form, tables
from tools.reports.data import OUTCOMES, Column, Matrix, Outcome, ReportError, plain, select
from tools.reports.markdown import MARKER

HERE = Path(__file__).parent
ASSETS = HERE / "assets"
TIMELINES = 5  # of the last runs
VIEWS = {
    "overview": "Overview",
    "matrix": "Compatibility",
    "performance": "Performance",
    "history": "History",
    "runs": "Runs",
    "environment": "Environment",
}


@dataclass(frozen=True)
class Dashboard:
    """All that the page shows; `timelines` are the jobs of the last runs, by run."""

    matrix: Matrix
    history: History
    timelines: Mapping[str, Sequence[Mapping[str, Any]]]
    estimates: Mapping[str, Estimates]
    prices: Mapping[Column, float]


def load(path: Path, matrix: Matrix, scripts: Path, prices: Path | None) -> Dashboard:
    """What the page shows of the database at `path`, of which `matrix` was loaded.

    `scripts` is the folder of the scripts. Errors: ReportError, UsageError.
    """
    table = price_list.read(prices)
    listed = {c: table[c.device] for c in matrix.columns if c.device in table}
    try:
        with database.connect(path) as connection:
            past = history.read(connection)
            last = [run.run_id for run in past.runs if run.finished][-TIMELINES:]
            timelines = {run_id: timeline(connection, run_id) for run_id in last}
    except duckdb.Error as error:
        raise ReportError(f"{path}: cannot be read: {plain(str(error), 300)}") from error
    estimates: dict[str, Estimates] = {
        name: estimate
        for name in prediction.MEASURES
        if (estimate := prediction.estimate(matrix, scripts, name))
    }
    return Dashboard(matrix, past, timelines, estimates, listed)


def timeline(connection: duckdb.DuckDBPyConnection, run_id: str) -> list[dict[str, Any]]:
    """The jobs of a run, as the figure of its timeline takes them; times in seconds."""
    return [
        {
            "name": f"{row['family']} on {history.column_of(row).label}",
            "node": row["node"] or "unknown",
            "start": round(row["start"], 3),
            "seconds": round(row["wall_seconds"], 3),
            "status": row["status"],
            "retries": row["retries"],
        }
        for row in select(connection, "timeline", {"run_id": run_id})
    ]


def render(dashboard: Dashboard, scripts: str) -> str:
    """`index.html`; `scripts` is the relative path of the folder of scripts."""
    templates = Templates(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    read = {name: (ASSETS / name).read_text(encoding="utf-8") for name in _INLINED}
    return templates.get_template("index.html.j2").render(
        marker=Markup(MARKER),
        views=VIEWS,
        outcomes=OUTCOMES,
        style=Markup(read["dashboard.css"]),
        figures=Markup(read["figures.js"]),
        script=Markup(read["dashboard.js"]),
        packed={
            "matrix": _pack(matrix_document(dashboard, scripts)),
            "history": _pack(history_document(dashboard)),
            "plotly": _packed_plotly(),
        },
    )


_INLINED = ("dashboard.css", "figures.js", "dashboard.js")


def matrix_document(dashboard: Dashboard, scripts: str) -> dict[str, Any]:
    """What the page shows at once: `matrix.json`, with changes and estimates."""
    matrix = dashboard.matrix
    document = tables.document(matrix)
    for column, told in zip(matrix.columns, document["columns"], strict=True):
        told |= {
            "label": column.label,
            "facts": form.column_facts(matrix, column),
            "price": dashboard.prices.get(column),
        }
        del told["environments"]
    for family, told in zip(matrix.families, document["families"], strict=True):
        del told["recommendations"]
        told["estimates"] = {}
        for column in matrix.columns:
            if cell := matrix.cells.get((family.name, column)):
                software = cell.environment is None or cell.environment.software is not False
                told["cells"][column.slug] |= {
                    "measured": cell.measured,
                    "recommendable": cell.passes and not software,
                }
            if estimated := _estimates(dashboard, (family.name, column)):
                told["estimates"][column.slug] = estimated
    recent = set(map(id, dashboard.history.recent))
    return {
        **document,
        "scripts": scripts,
        "outcomes": [
            {"key": o.key, "symbol": _mark(o), "word": o.word, "meaning": o.meaning}
            for o in OUTCOMES.values()
        ],
        "order": {key: position for position, key in enumerate(OUTCOMES)},
        "status_colours": {key: outcome.colour for key, outcome in OUTCOMES.items()},
        "changes": [
            _change(change, dashboard.history) | {"recent": id(change) in recent}
            for change in dashboard.history.changes
        ],
        "history_runs": len(dashboard.history.runs),
        "estimate_errors": {
            name: {"p50": each.half, "p90": each.most} for name, each in dashboard.estimates.items()
        },
    }


def _mark(outcome: Outcome) -> str:
    """What marks an outcome as in the heat map: not each machine has a font with emoji."""
    return {"pass": "✓", "not_run": "–"}.get(outcome.key) or outcome.letter


def history_document(dashboard: Dashboard) -> dict[str, Any]:
    """What the views of the past show; latencies in µs and memories in KiB, to four digits."""
    past = dashboard.history
    run_lists: dict[tuple[int, ...], int] = {}
    series: dict[str, dict[str, Any]] = {}
    letters = {verdict: verdict[0] for verdict in history.VERDICTS}
    for each in past.series:
        listed = run_lists.setdefault(tuple(each.runs), len(run_lists))
        series.setdefault(plain(each.family), {})[each.column.slug] = {
            "runs": listed,
            "verdicts": "".join(letters.get(verdict, "-") for verdict in each.verdicts),
            "latency": [_digits(value * 1e6) for value in each.latencies.tolist()],
            "memory": [_digits(value / 1024) for value in each.memories.tolist()],
        }
    return {
        "runs": [run_document(run) for run in past.runs],
        "run_lists": list(run_lists),
        "verdicts": {letter: verdict for verdict, letter in letters.items()},
        "series": series,
        "timelines": dashboard.timelines,
    }


def run_document(run: history.Run) -> dict[str, Any]:
    """A run as the views list it."""
    return {
        "run_id": plain(run.run_id),
        "started": run.started,
        "state": run.state,
        "asked": run.asked,
        "finished": run.finished,
        "devices": [plain(device) for device in run.devices],
        "verdicts": dict(run.verdicts),
        "tags": [plain(tag) for tag in run.tags],
        "versions": {plain(k, 80): plain(v, 80) for k, v in sorted(run.versions.items())},
    }


def _change(change: Change, past: History) -> dict[str, Any]:
    family = change.family if change.family == ALL_FAMILIES else plain(change.family)
    return {
        "family": family,
        "column": change.column.slug,
        "label": change.column.label,
        "measure": change.measure,
        "text": change.text,
        "worse": change.worse,
        "run": past.runs[change.run].run_id,
        "causes": list(change.causes),
    }


def _estimates(dashboard: Dashboard, key: tuple[str, Column]) -> dict[str, Any]:
    """The estimates of a cell in the units of the figures: µs, KiB and $ for 1,000 calls."""
    found = {}
    for measure, unit in (("latency", 1e6), ("memory", 1 / 1024)):
        estimates = dashboard.estimates.get(measure)
        if estimates and key in estimates.values:
            value = float(f"{estimates.values[key] * unit:.4g}")
            found[measure] = {"value": value, "error": estimates.most}
    if "latency" in found and key[1] in dashboard.prices:
        cost = price_list.of_calls(dashboard.prices[key[1]], found["latency"]["value"] / 1e6)
        found["cost"] = {"value": cost, "error": found["latency"]["error"]}
    return found


def _digits(value: float) -> float | int | None:
    """`value` to four digits, whole numbers as such; None where there is none."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def _pack(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _packed(text.encode())


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


@cache
def _packed_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs().encode())
