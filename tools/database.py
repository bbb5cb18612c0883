"""The database: what `results/` says, made ready for questions. It can be thrown away.

`ingest` rebuilds it from the JSON files, each of which is validated again; what cannot be used is
kept in the table `problems`. Readers never see half of it: it replaces the old one when complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb

from tools import expectations, results
from tools.expectations import Expectation
from tools.results import BrokenManifest, Lock, Record, ResultsError, Run
from tools.usage import CannotWrite

SQL = Path(__file__).parent / "sql"
TABLES = ("runs", "jobs", "records", "checks", "mocks", "problems")
DERIVED = ("cells", "open_checks")


@dataclass
class Ingested:
    """What an ingest found: rows by table, and the files that could not be used."""

    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {table: [] for table in TABLES}
    )
    problems: list[ResultsError] = field(default_factory=list)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the database read-only. Errors: FileNotFoundError, which says how to make it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with `python -m tools ingest`")
    return duckdb.connect(path, read_only=True)


def ingest(folder: Path, database: Path, known: Sequence[Expectation] = ()) -> Ingested:
    """Rebuild `database` from all runs in the results `folder`, judged by `known` expectations.

    Of two at once the later waits, so that it does not replace what is newer. Errors: CannotWrite.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with Lock(database.parent, wait=True):
            for left in database.parent.glob(f".{database.name}.*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            return _rebuild(folder, database, known)
    except (OSError, duckdb.IOException) as error:
        raise CannotWrite(
            f"{database} cannot be written ({error}); the results in {folder} are safe: "
            "mend that, then `python -m tools ingest`"
        ) from error


def _rebuild(folder: Path, database: Path, known: Sequence[Expectation]) -> Ingested:
    found = Ingested()
    for path in sorted(folder.glob("[!.]*")):
        if path.is_dir():
            _collect(path, known, found)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=f".{database.name}.") as scratch:
        fresh = Path(scratch) / database.name
        with duckdb.connect(fresh) as connection:
            connection.begin()
            for name in ("status", *TABLES):
                connection.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))
            for table, rows in found.rows.items():
                _fill(connection, table, rows, Path(scratch) / "rows.json")
            for name in DERIVED:
                connection.execute((SQL / f"{name}.sql").read_text(encoding="utf-8"))
            connection.commit()
        os.replace(fresh, database)
    return found


def main(options: argparse.Namespace) -> int:
    """`python -m tools ingest`: 0 when every file could be used, else 1."""
    known = expectations.load(options.expectations, options.scripts)
    found = ingest(options.results, options.database, known)
    for problem in found.problems:
        print(problem)
    counts = [f"{len(found.rows[table])} {table}" for table in ("runs", "records", "mocks")]
    print(f"{options.database}: {', '.join(counts)}, {len(found.problems)} problems")
    return 1 if found.problems else 0


def _collect(path: Path, known: Sequence[Expectation], found: Ingested) -> None:
    """Add what the run folder `path` says to `found`."""
    rows = found.rows
    try:
        run = results.read_run(path)
    except BrokenManifest as error:
        problems: list[ResultsError] = [error]
        unknown = {"run_id": path.name, "asked": 0, "finished": 0, "tags": []}
        rows["runs"].append({**unknown, "complete": False, "interrupted": False, "partial": False})
    else:
        problems = run.problems
        rows["runs"].append(_run_row(run))
        rows["jobs"] += _job_rows(run)
        for name, record in run.records.items():
            if record["inference"] == "mock":
                reason = record["checks"][0]["reason"]
                cell = _cell(path.name, record)
                rows["mocks"].append({**cell, "missing": record["missing"], "reason": reason})
                continue
            judgements = expectations.judge(record, known)
            verdict = expectations.verdict(record, judgements)
            rows["records"].append(_record_row(path.name, name, record, verdict))
            rows["checks"] += _check_rows(path.name, record, judgements)
    found.problems += problems
    rows["problems"] += [
        {
            "run_id": path.name,
            "path": f"{path.name}/{problem.path.name}",
            "kind": type(problem).__name__,
            "problem": problem.problem,
            "mend": problem.mend,
        }
        for problem in problems
    ]


def _run_row(run: Run) -> dict[str, Any]:
    manifest, footer = run.manifest, run.footer
    return {
        "run_id": manifest["run_id"],
        "started": _utc(manifest["started"]),
        "ended": _utc(footer["ended"]) if footer else None,
        "complete": run.complete,
        "interrupted": run.interrupted,
        "partial": manifest["checks"] is not None,
        "asked": len(manifest["jobs"]),
        "finished": len(run.records),
        "host": manifest["host"],
        "tags": run.tags,
        "manifest": manifest,
    }


def _job_rows(run: Run) -> Iterable[dict[str, Any]]:
    columns = ("family", "architecture", "model_class", "device", "weights", "size", "dtype")
    for job in run.manifest["jobs"]:
        run_id, name = run.manifest["run_id"], results.job_name(job)
        values = {column: job[column] for column in columns}  # type: ignore[literal-required]
        not_run = run.why_not_run(job)
        yield {"run_id": run_id, **values, "path": f"{run_id}/{name}.json", "not_run": not_run}


def _record_row(run_id: str, name: str, record: Record, verdict: str) -> dict[str, Any]:
    run, device, environment = record["run"], record["device"], record["environment"]
    return {
        **_cell(run_id, record),
        "architecture": record["architecture"],
        "model_class": record["model_class"],
        "checkpoint": record["checkpoint"],
        "device_observed": device["observed"],
        "device_name": device["name"],
        "driver": device["driver"],
        "software": device["software"],
        "features": device["features"],
        "memory_bytes": device["memory_bytes"],
        "inference": record["inference"],
        "missing": record["missing"],
        "seed": record["seed"],
        "script_name": record["script"]["name"],
        "script_sha256": record["script"]["sha256"],
        "command": shlex.join(run["command"]),
        "exit_code": run["exit_code"],
        "runner": run["runner"],
        "node": run.get("node"),
        "attempt": run["attempt"],
        "retries": len(run.get("retries", ())),
        "status": results.worst(record),
        "verdict": verdict,
        "seconds": record["seconds"],
        "wall_seconds": run["wall_seconds"],
        "cpu_seconds": run.get("cpu_seconds"),
        "started": _utc(record["started"]),
        "graph": record.get("graph"),
        **record["measurements"],
        **environment,
        "path": f"{run_id}/{name}.json",
        "log": f"{run_id}/{run['log']}",
    }


def _check_rows(
    run_id: str, record: Record, judgements: Sequence[expectations.Judgement]
) -> Iterable[dict[str, Any]]:
    for position, judgement in enumerate(judgements):
        entry = judgement.expectation
        yield {
            **_cell(run_id, record),
            "position": position,
            **judgement.check,
            "expected": judgement.expected,
            "expectation_status": entry and entry.status,
            "expectation_reason": entry and entry.reason,
            "expectation_cause": entry and entry.cause,
            "expectation_where": entry and entry.where,
        }


def _cell(run_id: str, record: Record) -> dict[str, Any]:
    """The columns that name a record in all tables."""
    return {
        "run_id": run_id,
        "family": record["family"],
        "device": record["device"]["requested"],
        "weights": record["weights"],
        "size": record["size"],
        "dtype": record["dtype"],
    }


def _fill(
    connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]], scratch: Path
) -> None:
    """Insert `rows` at once: through a file this takes milliseconds where INSERT takes minutes."""
    scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = str(scratch).replace("'", "''")
    connection.execute(f"COPY {table} FROM '{source}' (FORMAT json, ARRAY false)")


def _utc(moment: str) -> str:
    """`moment` as DuckDB's TIMESTAMP, which knows no time zone."""
    return datetime.fromisoformat(moment).astimezone(timezone.utc).replace(tzinfo=None).isoformat()
