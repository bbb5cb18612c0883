"""A run while it goes on, from its JSON files: the database knows it only when it has ended."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tools import expectations, results, schedule
from tools.expectations import Expectation
from tools.reports.data import OUTCOMES, plain
from tools.results import Job, Record, ResultsError

FAILURES = 100  # that are told, the newest


@dataclass(frozen=True)
class Failure:
    """A check that nobody expected to end so, and how to repeat it."""

    job: str
    check: str
    status: str
    reason: str
    command: str


@dataclass(frozen=True)
class Progress:
    """How far a run is; seconds, `left` None where nothing tells."""

    run_id: str
    state: str
    asked: int
    finished: int
    elapsed: float
    left: float | None
    verdicts: Mapping[str, int]
    failures: Sequence[Failure]
    jobs: Sequence[Mapping[str, Any]]  # as the figure of a timeline takes them
    counts: Mapping[str, Any]  # as the figure of counts takes them
    problems: Sequence[str]


@dataclass
class Watch:
    """Reads runs in the results `folder`, each file once; judged by `known` expectations."""

    folder: Path
    known: Sequence[Expectation] = ()
    _read: dict[Path, tuple[tuple[int, int], Record | str]] = field(default_factory=dict)

    def runs(self) -> list[str]:
        """The names of all runs, the newest first."""
        return sorted(
            (path.parent.name for path in self.folder.glob("*/manifest.json")), reverse=True
        )

    def progress(self, run_id: str) -> Progress:
        """How far the run `run_id` is. Errors: ResultsError, KeyError where there is none."""
        if run_id not in self.runs():
            raise KeyError(run_id)
        folder = self.folder / run_id
        manifest = results.read_manifest(folder)
        jobs = {results.job_name(job): job for job in manifest["jobs"]}
        found = {name: self._record(folder / f"{name}.json") for name in jobs}
        records = {name: each for name, each in found.items() if isinstance(each, dict)}
        started = datetime.fromisoformat(manifest["started"])
        now, state = datetime.now(timezone.utc), "runs, or was killed"
        try:
            footer = results.read_footer(folder)
            now = datetime.fromisoformat(footer["ended"])
            state = "interrupted" if footer["interrupted"] else "ended"
        except ResultsError:
            pass
        elapsed = max(0.0, (now - started).total_seconds())
        judged = {name: expectations.judge(record, self.known) for name, record in records.items()}
        verdicts = {name: expectations.verdict(records[name], judged[name]) for name in records}
        bad = [name for name, verdict in verdicts.items() if verdict == "unexpected"]
        bad.sort(key=lambda name: records[name]["started"], reverse=True)
        failures = [
            _failure(name, records[name], each.check)
            for name in bad
            for each in judged[name]
            if not each.expected
        ]
        return Progress(
            run_id=run_id,
            state=state,
            asked=len(jobs),
            finished=len(records),
            elapsed=elapsed,
            left=self._left(jobs, records, elapsed) if state.startswith("runs") else None,
            verdicts=Counter(verdicts.values()),
            failures=failures[:FAILURES],
            jobs=_timeline(records),
            counts=_counts(records),
            problems=[plain(each, 300) for each in found.values() if isinstance(each, str)],
        )

    def _record(self, path: Path) -> Record | str | None:
        """The record at `path`, what is wrong with it, or None where it is not there yet."""
        try:
            status = path.stat()
        except OSError:
            return None
        key = (status.st_mtime_ns, status.st_size)
        if path not in self._read or self._read[path][0] != key:
            try:
                self._read[path] = key, results.read_record(path)
            except ResultsError as error:
                self._read[path] = key, str(error)
        return self._read[path][1]

    def _left(
        self, jobs: Mapping[str, Job], records: Mapping[str, Record], elapsed: float
    ) -> float | None:
        """Seconds until the end: what is left takes, at the rate at which jobs ended so far."""
        done = sum(record["run"]["wall_seconds"] for record in records.values())
        if not done or not elapsed:
            return None
        usual = done / len(records)
        took = schedule.recorded_seconds(self.folder)
        return sum(took.get(name, usual) for name in jobs if name not in records) * elapsed / done


def _failure(name: str, record: Record, check: results.Check) -> Failure:
    command = list(record["run"]["command"])
    if check["name"] != expectations.SCRIPT_CHECK and "--checks" not in command:
        command += ["--checks", check["name"]]
    reason = plain(check["reason"] or "it passes, but is expected not to", 500)
    return Failure(name, check["name"], check["status"], reason, plain(shlex.join(command), 500))


def _timeline(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    begin = {n: datetime.fromisoformat(r["started"]).timestamp() for n, r in records.items()}
    first = min(begin.values(), default=0.0)
    return [
        {
            "name": name,
            "node": plain(record["run"].get("node") or "unknown", 80),
            "start": round(begin[name] - first, 3),
            "seconds": round(record["run"]["wall_seconds"], 3),
            "status": results.worst(record),
            "retries": len(record["run"].get("retries", ())),
        }
        for name, record in records.items()
    ]


def _counts(records: Mapping[str, Record]) -> dict[str, Any]:
    devices = sorted({plain(record["device"]["requested"], 80) for record in records.values()})
    found = Counter(
        (plain(record["device"]["requested"], 80), results.worst(record))
        for record in records.values()
    )
    return {
        "columns": devices,
        "outcomes": [
            {
                "word": OUTCOMES[status].word,
                "colour": OUTCOMES[status].colour,
                "counts": [found[device, status] for device in devices],
            }
            for status in reversed(results.STATUSES)
        ],
    }


def hours(seconds: float | None) -> str:
    """`seconds` as one reads a clock."""
    if seconds is None:
        return "n/a"
    return (
        time.strftime("%H:%M:%S", time.gmtime(seconds))
        if seconds < 86400
        else f"{seconds / 86400:.1f} days"
    )
