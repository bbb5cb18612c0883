"""What the runner itself costs: the real matrix and ingest, at work on jobs that take no time."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from tools import database, plan, results, schedule, scripts
from tools.matrix import Matrix, Running
from tools.results import Record
from tools.schedule import Room
from tools.worker import Outcome, Task


@dataclass(frozen=True)
class Overhead:
    """Seconds of a run that are spent neither by scripts nor by what they run in.

    `planning` all jobs, of which `preparing` is when the run has begun already; `starting` one job
    and `keeping` one result; `ingest` of all results.
    """

    planning: float
    preparing: float
    starting: float
    keeping: float
    ingest: float


def measure(
    options: argparse.Namespace, records: Mapping[str, Record], machines: int, at_once: int
) -> Overhead:
    """Run a job for each of `records`, which ends at once and with that record.

    They are called after the keys of `records`, as if these were families.

    Errors: KeyboardInterrupt, UsageError.
    """
    known = scripts.find(options.scripts)
    # Beside the results, because how long it takes to keep a file is a matter of the disk.
    with tempfile.TemporaryDirectory(dir=options.results, prefix=".overhead.") as folder:
        asked = argparse.Namespace(**vars(options))
        asked.results, asked.device, asked.resume = Path(folder), ["cpu"], None
        asked.family = sorted({each["family"] for each in records.values()} & known.keys())
        asked.weights = asked.size = asked.dtype = asked.seed = None
        asked.checks = []
        begin = time.perf_counter()
        planned = plan.start(asked)
        begun = time.perf_counter()
        with planned.lock:
            planned.manifest["jobs"] = [
                {**results.job_of(record), "family": family} for family, record in records.items()
            ]
            results.write(planned.folder / "manifest.json", planned.manifest, "manifest")
            nodes = _Idle(records, machines, at_once)
            with contextlib.redirect_stdout(io.StringIO()):
                if Matrix(planned, nodes, nodes.ended).work():
                    raise KeyboardInterrupt
        ended = time.perf_counter()
        database.ingest(asked.results, asked.results / "database")
        ingest = time.perf_counter() - ended
    starting = (nodes.full - nodes.looked) / nodes.first
    later = starting * (len(records) - nodes.first)
    return Overhead(
        planning=nodes.looked - begin,
        preparing=nodes.looked - begun,
        starting=starting,
        keeping=max(0.0, nodes.stopped - nodes.full - later) / len(records),
        ingest=ingest,
    )


class _Idle:
    """Machines with nothing to do: whenever the matrix waits, the oldest job has ended."""

    def __init__(self, records: Mapping[str, Record], machines: int, at_once: int) -> None:
        self._records, self._at_once = records, at_once
        self._busy = Counter({f"machine {number + 1}": 0 for number in range(machines)})
        self._running: deque[tuple[Running, str, Task]] = deque()
        self.first = 0  # jobs, before the first has ended
        self.looked = self.full = self.stopped = 0.0

    def rooms(self) -> list[Room]:
        self.looked = self.looked or time.perf_counter()
        return [Room(node, self._at_once - busy) for node, busy in self._busy.items()]

    def submit(self, node: str, task: Task) -> Running:
        future: Running = Future()
        self._busy[node] += 1
        self._running.append((future, node, task))
        return future

    def ended(self, running: Collection[Running]) -> set[Running]:
        if not self.first:
            self.first, self.full = len(running), time.perf_counter()
        future, node, task = self._running.popleft()
        self._busy[node] -= 1
        record = self._records[task.job["family"]]
        signed: Record = {**record, "family": task.job["family"]}
        signed["run"] = {**record["run"], "id": task.run_id}
        future.set_result(Outcome(signed, logs={f"{task.name}.txt": b"passed\n"}))
        return schedule.first_ended(running)

    def stop(self) -> None:
        self.stopped = time.perf_counter()
