"""The dashboard as an app: a run while it goes on, two runs side by side, a cell over time.

`python -m tools dashboard` serves it on this machine only. Its figures are those of the page
(assets/figures.js), which it serves too. Foreign text reaches the browser as text, never as markup.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import flask
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from tools import database, expectations, history, trends
from tools.dashboard import page
from tools.dashboard.live import Progress, Watch, hours
from tools.expectations import Expectation
from tools.history import History
from tools.reports import form
from tools.reports.data import OUTCOMES, ReportError, load_matrix, plain, select
from tools.reports.tables import field as csv_field
from tools.results import ResultsError
from tools.usage import CannotWrite

HOST, PORT = "127.0.0.1", 8050
REFRESH = 2000  # milliseconds between two looks at a run
ROWS = 200  # of a table; a CSV file has them all
NO_RUN = "There is no run yet: start one with `nox -s matrix`, and it shows up here."
NO_DATABASE = "There is no database yet: `nox -s matrix` makes it when it ends, or `nox -s ingest`."
MEASURES = {"latency": "latency", "memory": "peak memory"}

_POLICY = "default-src 'self' 'unsafe-inline' data: blob:; connect-src 'self'; frame-src 'self'"
T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """Where results, database and scripts are; what is known not to pass, and a price list."""

    results: Path
    database: Path
    scripts: Path
    known: Sequence[Expectation] = ()
    prices: Path | None = None


@dataclass
class Answers:
    """What the callbacks ask, without anything of Dash."""

    sources: Sources
    watch: Watch = field(init=False)
    _kept: dict[str, tuple[int, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.watch = Watch(self.sources.results, self.sources.known)

    def history(self) -> History | None:
        """All runs in the database; None where there is none yet."""
        return self._once("history", lambda: history.load(self.sources.database))

    def page(self) -> str | None:
        """The page of `nox -s publish`, of the database as it is now."""
        return self._once("page", self._render)

    def _render(self) -> str:
        path, scripts = self.sources.database, self.sources.scripts
        shown = page.load(path, load_matrix(path), scripts, self.sources.prices)
        return page.render(shown, "/scripts")

    def _once(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` gives for the database as it is; kept until that is replaced."""
        try:
            version = self.sources.database.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        with self._lock:
            if name not in self._kept or self._kept[name][0] != version:
                self._kept[name] = version, work()
            value: T = self._kept[name][1]
        return value

    def compared(self, before: str, after: str) -> list[dict[str, Any]]:
        """The cells of two runs side by side, those that changed most first."""
        with database.connect(self.sources.database) as connection:
            rows = select(connection, "compared", {"before": before, "after": after})
        found = [
            {
                "family": plain(row["family"], 80),
                "device": plain(history.column_of(row).label, 80),
                "verdict before": row["verdict_before"],
                "verdict after": row["verdict_after"],
                "latency before (s)": row["latency_before"],
                "latency after (s)": row["latency_after"],
                "latency ratio": _ratio(row["latency_before"], row["latency_after"]),
                "memory before (bytes)": row["memory_before"],
                "memory after (bytes)": row["memory_after"],
                "memory ratio": _ratio(row["memory_before"], row["memory_after"]),
            }
            for row in rows
        ]
        return sorted(found, key=_least_alike)

    def series(self, family: str, slug: str) -> list[dict[str, Any]]:
        """A cell in all runs: what was measured and how it was judged."""
        past = self.history()
        known = {each.column.slug: each.column for each in past.series} if past else {}
        if slug not in known:
            return []
        column = known[slug]
        keys = dict(zip(("weights", "size", "dtype"), column.setting.parts, strict=True))
        with database.connect(self.sources.database) as connection:
            return select(connection, "series", {"family": family, "device": column.device, **keys})

    def trend(self, family: str, slug: str, measure: str) -> dict[str, Any]:
        """What the figure of a trend takes."""
        past = self.history()
        rows = self.series(family, slug)
        name, unit = ("latency", 1e6) if measure == "latency" else ("peak_memory_bytes", 1 / 1024)
        changes = [
            change
            for change in (past.changes if past else ())
            if (plain(change.family), change.column.slug) == (plain(family), slug)
            and change.measure in (measure, "verdict")
        ]
        return {
            "measure": measure,
            "points": [
                {
                    "run": row["run_id"],
                    "started": row["started"],
                    "value": None if row[name] is None else row[name] * unit,
                    "verdict": row["verdict"],
                }
                for row in rows
            ],
            "changes": [
                {"run": past.runs[c.run].run_id, "text": c.text, "worse": c.worse}
                for c in changes
                if past
            ],
            "why": "This cell was never measured.",
        }


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after else None


def _least_alike(row: dict[str, Any]) -> tuple[bool, float, str]:
    """Sort key: other verdicts first, then what is much slower or much quicker."""
    ratio = row["latency ratio"] or 1.0
    return (row["verdict before"] == row["verdict after"], -max(ratio, 1 / ratio), row["family"])


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """`rows` as CSV that no spreadsheet takes for formulas."""
    file = io.StringIO()
    if rows:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([csv_field(value) for value in row.values()] for row in rows)
    return file.getvalue()


def main(options: argparse.Namespace) -> int:
    """`python -m tools dashboard`: serves until it is interrupted. Errors: CannotWrite."""
    known = expectations.load(options.expectations, options.scripts)
    sources = Sources(
        options.results, options.database, options.scripts.resolve(), known, options.prices
    )
    answers = Answers(sources)
    port = options.port or PORT
    print(f"the dashboard: http://{HOST}:{port}/ (Ctrl-C ends it)", flush=True)
    if not answers.watch.runs():
        print(NO_RUN.replace("`", ""), flush=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would tell of each request
    try:
        make(answers).run(host=HOST, port=port, debug=False)
    except (OSError, SystemExit) as error:
        raise CannotWrite(
            f"port {port} cannot be used ({error}): choose another with --port"
        ) from error
    return 0


def make(answers: Answers) -> Dash:
    """The app, which asks `answers`."""
    app = Dash(
        __name__,
        title="Proving Ground",
        update_title="",
        assets_folder=str(page.ASSETS),
        assets_ignore=r"dashboard\.js",  # that is of the page
        suppress_callback_exceptions=True,
    )
    app.layout = _layout()
    _guard(app.server, answers)
    _add_views(app, answers)
    _add_live(app, answers)
    _add_compare(app, answers)
    _add_trend(app, answers)
    return app


def _guard(server: flask.Flask, answers: Answers) -> None:
    """Serve nobody but this machine's browsers, and let pages ask nothing elsewhere."""

    @server.before_request
    def refuse_others() -> None:
        # A foreign site whose name leads to 127.0.0.1 must not read results through a browser.
        if flask.request.host.rpartition(":")[0] not in (HOST, "localhost"):
            flask.abort(403)

    @server.after_request
    def forbid(response: flask.Response) -> flask.Response:
        response.headers.setdefault("Content-Security-Policy", _POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @server.get("/results.html")
    def results_page() -> flask.Response:
        try:
            text = answers.page()
        except ReportError as error:
            return flask.Response(str(error), 503, mimetype="text/plain")
        if text is None:
            return flask.Response(NO_DATABASE, 503, mimetype="text/plain")
        return flask.Response(text, mimetype="text/html")

    @server.get("/scripts/<name>")
    def script(name: str) -> flask.Response:
        return flask.send_from_directory(answers.sources.scripts, name, mimetype="text/plain")


# What is shown.


def _layout() -> html.Div:
    return html.Div(
        [
            dcc.Location(id="address"),
            html.Header([html.H1("Proving Ground"), html.Nav(id="views", **_aria(label="Views"))]),
            html.Main(id="view"),
        ]
    )


def _add_views(app: Dash, answers: Answers) -> None:
    @app.callback(
        Output("views", "children"), Output("view", "children"), Input("address", "pathname")
    )
    def show(asked: str | None) -> tuple[Any, ...]:
        path = asked if asked in _VIEWS else "/"
        links = [
            html.Li(dcc.Link(title, href=each, className="current" if each == path else ""))
            for each, (title, _) in _VIEWS.items()
        ]
        title, part = _VIEWS[path]
        return html.Ul(links), [html.H2(title), *part(answers)]


def _live_part(answers: Answers) -> list[Any]:
    runs = answers.watch.runs()
    return [
        dcc.Interval(id="tick", interval=REFRESH),
        _labelled("Run", dcc.Dropdown(runs, runs[0] if runs else None, id="run", clearable=False)),
        html.Div(id="live", **_aria(live="polite")),
        _figure("live-counts"),
        html.H2("When and where"),
        _figure("live-timeline"),
        html.H2("Failures, the newest first"),
        html.Div(id="live-failures"),
    ]


def _compare_part(answers: Answers) -> list[Any]:
    runs = _ended(answers)
    if not runs:
        return [html.P(NO_DATABASE)]
    before = runs[1] if len(runs) > 1 else runs[0]
    return [
        html.Div(
            [
                _labelled("Before", dcc.Dropdown(runs, before, id="before", clearable=False)),
                _labelled("After", dcc.Dropdown(runs, runs[0], id="after", clearable=False)),
                html.Button("Save as CSV", id="save-compared", type="button"),
            ],
            className="filters",
        ),
        dcc.Download(id="compared-file"),
        _figure("compared"),
        html.Div(id="compared-table"),
    ]


def _trend_part(answers: Answers) -> list[Any]:
    past = answers.history()
    if past is None or not past.series:
        return [html.P(NO_DATABASE)]
    families = sorted({each.family for each in past.series})
    columns = {each.column.slug: each.column.label for each in past.series}
    first = past.changes[0] if past.changes else past.series[0]
    family = first.family if first.family in families else families[0]
    return [
        html.Div(
            [
                _labelled("Family", dcc.Dropdown(families, family, id="family", clearable=False)),
                _labelled(
                    "Device", dcc.Dropdown(columns, first.column.slug, id="device", clearable=False)
                ),
                _labelled(
                    "Measure", dcc.Dropdown(MEASURES, "latency", id="measure", clearable=False)
                ),
                html.Button("Save as CSV", id="save-trend", type="button"),
            ],
            className="filters",
        ),
        dcc.Download(id="trend-file"),
        _figure("trend"),
        html.H2("What got worse in the last runs"),
        _changes(past),
    ]


def _results_part(_: Answers) -> list[Any]:
    return [html.Iframe(src="/results.html", title="All results", className="page")]


_VIEWS: dict[str, tuple[str, Callable[[Answers], list[Any]]]] = {
    "/": ("Live", _live_part),
    "/compare": ("Two runs", _compare_part),
    "/trends": ("Trends", _trend_part),
    "/results": ("All results", _results_part),
}


def _ended(answers: Answers) -> list[str]:
    past = answers.history()
    return [run.run_id for run in reversed(past.runs) if run.finished] if past else []


def _labelled(label: str, control: Any) -> html.Label:
    return html.Label([label, control])


def _aria(**values: str) -> dict[str, Any]:
    """What tells a screen reader of an element."""
    return {f"aria-{name}": value for name, value in values.items()}


def _figure(name: str) -> html.Div:
    """A figure, which figures.js draws from what a callback puts into its store."""
    graph = dcc.Graph(id=name, config={"displaylogo": False, "responsive": True})
    return html.Div([dcc.Store(id=f"{name}-data"), graph], className="figure")


def _draw(app: Dash, name: str, function: str) -> None:
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("figures", function),
        Output(name, "figure"),
        Input(f"{name}-data", "data"),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> html.Div:
    """A table of text; the first cell of a row names it."""
    body = [
        html.Tr([html.Th(row[0], scope="row"), *(html.Td(cell) for cell in row[1:])])
        for row in rows
    ]
    header = html.Thead(html.Tr([html.Th(title, scope="col") for title in head]))
    table = html.Table([header, html.Tbody(body)], className="wrap")
    return html.Div(table, className="scroll", role="region", tabIndex=0, **_aria(label=caption))


def _tiles(facts: Sequence[tuple[str, str]]) -> html.Dl:
    return html.Dl([html.Div([html.Dt(n), html.Dd(v)]) for n, v in facts], className="tiles")


def _changes(past: History) -> Any:
    if not past.recent:
        return html.P(f"Nothing, in {len(past.runs)} runs.")
    head = ["family", "device", "change", "since run", "changed with it"]
    rows = [
        [
            plain(change.family),
            plain(change.column.label),
            html.Span(f"▲ {change.text}", className="worse"),
            past.runs[change.run].run_id,
            "; ".join(change.causes) or "nothing else that the records know of",
        ]
        for change in past.recent[:ROWS]
    ]
    return _table(head, rows, "What got worse")


# The callbacks.


def _add_live(app: Dash, answers: Answers) -> None:
    _draw(app, "live-counts", "counts")
    _draw(app, "live-timeline", "timeline")

    @app.callback(
        Output("run", "options"),
        Output("run", "value"),
        Output("live", "children"),
        Output("live-failures", "children"),
        Output("live-counts-data", "data"),
        Output("live-timeline-data", "data"),
        Input("tick", "n_intervals"),
        Input("run", "value"),
        State("run", "options"),
    )
    def look(_: int | None, run: str | None, before: list[str]) -> tuple[Any, ...]:
        runs = answers.watch.runs()
        if not runs:
            return [], None, html.P(NO_RUN), "", None, None
        # Whoever looks at the newest run wants to see the next one when it begins.
        chosen = run if run in runs and before and run != before[0] else runs[0]
        try:
            progress = answers.watch.progress(chosen)
        except ResultsError as error:
            return runs, chosen, html.P(plain(str(error), 500), className="warning"), "", None, None
        colours = {key: outcome.colour for key, outcome in OUTCOMES.items()}
        timeline = {"jobs": progress.jobs, "colours": colours}
        return (
            runs if runs != before else no_update,
            chosen if chosen != run else no_update,
            _progress(progress),
            _failures(progress),
            progress.counts,
            timeline,
        )


def _progress(progress: Progress) -> list[Any]:
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(progress.verdicts.items()))
    facts = [
        ("state", progress.state),
        ("finished", f"{progress.finished} of {progress.asked}"),
        ("so far", hours(progress.elapsed)),
        ("left, probably", hours(progress.left)),
        ("machines", str(len({job["node"] for job in progress.jobs}))),
    ]
    bar = html.Progress(
        value=str(progress.finished), max=str(progress.asked), **_aria(label="finished jobs")
    )
    problems = [html.P(problem, className="warning") for problem in progress.problems[:5]]
    return [bar, _tiles(facts), html.P(verdicts or "No record yet."), *problems]


def _failures(progress: Progress) -> Any:
    if not progress.failures:
        return html.P("None that nobody expected.")
    head = ["job", "check", "status", "reason", "to repeat it"]
    rows = [
        [each.job, each.check, each.status, each.reason, html.Code(each.command)]
        for each in progress.failures
    ]
    return _table(head, rows, "Failures")


def _add_compare(app: Dash, answers: Answers) -> None:
    _draw(app, "compared", "against")

    @app.callback(
        Output("compared-data", "data"),
        Output("compared-table", "children"),
        Input("before", "value"),
        Input("after", "value"),
    )
    def compare(before: str, after: str) -> tuple[Any, ...]:
        return comparison(answers, before, after)

    @app.callback(
        Output("compared-file", "data"),
        Input("save-compared", "n_clicks"),
        State("before", "value"),
        State("after", "value"),
        prevent_initial_call=True,
    )
    def save(_: int, before: str, after: str) -> dict[str, Any]:
        rows = answers.compared(before, after)
        return {"content": as_csv(rows), "filename": f"{before}-{after}.csv", "type": "text/csv"}


def comparison(answers: Answers, before: str, after: str) -> tuple[dict[str, Any], html.Div]:
    """The figure's data and the table of two runs."""
    rows = answers.compared(before, after)
    points = [
        {
            "family": f"{row['family']} on {row['device']}",
            "x": row["latency before (s)"] * 1e6,
            "y": row["latency after (s)"] * 1e6,
        }
        for row in rows
        if row["latency ratio"]
    ]
    told = [
        [
            row["family"],
            row["device"],
            _arrow(row["verdict before"], row["verdict after"]),
            _arrow(
                form.duration(row["latency before (s)"]),
                form.duration(row["latency after (s)"]),
                row["latency ratio"],
            ),
            _arrow(
                form.memory(row["memory before (bytes)"]),
                form.memory(row["memory after (bytes)"]),
                row["memory ratio"],
            ),
        ]
        for row in rows[:ROWS]
    ]
    head = ["family", "device", "verdict", "latency", "peak memory"]
    data = {"measure": "latency", "x": before, "y": after, "points": points}
    return data, _table(head, told, f"{len(rows)} cells, those that changed most first")


def _arrow(before: str | None, after: str | None, ratio: float | None = None) -> Any:
    if before == after:
        return before or form.NOTHING
    text = f"{before or 'not run'} → {after or 'not run'}"
    if ratio is None:
        return html.Strong(text)
    kind = (
        "worse" if ratio > 1 + trends.LEAST else "better" if ratio < 1 - trends.LEAST else "faint"
    )
    return [text, " ", html.Span(f"{ratio - 1:+.1%}", className=kind)]


def _add_trend(app: Dash, answers: Answers) -> None:
    _draw(app, "trend", "trend")

    @app.callback(
        Output("trend-data", "data"),
        Input("family", "value"),
        Input("device", "value"),
        Input("measure", "value"),
    )
    def show(family: str, device: str, measure: str) -> dict[str, Any]:
        return answers.trend(family, device, measure)

    @app.callback(
        Output("trend-file", "data"),
        Input("save-trend", "n_clicks"),
        State("family", "value"),
        State("device", "value"),
        prevent_initial_call=True,
    )
    def save(_: int, family: str, device: str) -> dict[str, Any]:
        content = as_csv(answers.series(family, device))
        return {"content": content, "filename": f"{family}-{device}.csv", "type": "text/csv"}


def questions(answers: Answers) -> dict[str, Callable[[], Any]]:
    """What a user asks the app, to measure how long it takes to answer."""
    past = answers.history()
    if past is None:
        raise duckdb.IOException(NO_DATABASE)
    runs, some = _ended(answers), past.series[len(past.series) // 2]
    return {
        "a trend": lambda: answers.trend(some.family, some.column.slug, "latency"),
        "two runs": lambda: comparison(answers, runs[-1], runs[0]),
        "two runs as CSV": lambda: as_csv(answers.compared(runs[-1], runs[0])),
    }
