"""Running the scripts on devices: one process each, one record each, whatever happens."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tools import database, devices, expectations, plan, results, schedule, scripts, worker
from tools.expectations import SCRIPT_CHECK, Expectation, Judgement
from tools.plan import DEFAULTS, Plan
from tools.processes import NoParent
from tools.results import BrokenDevice, Footer, Job, Manifest, Record
from tools.schedule import Queue, Room
from tools.usage import CannotWrite, plain
from tools.worker import Local, Outcome, Settings, Task

if TYPE_CHECKING:
    from tools.cluster import Cluster

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Running: TypeAlias = "Future[Outcome | None]"
"""A task that was submitted; None after `stop`."""


class Nodes(Protocol):
    """The machines that run scripts."""

    def rooms(self) -> list[Room]:
        """What they have room for now."""

    def submit(self, node: str, task: Task) -> Running:
        """Start `task` there; None after `stop`, NodeLost where the machine is gone."""

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""


class NodeLost(Exception):
    """The machine that ran a task is gone; the message says how that was seen."""


def main(options: argparse.Namespace) -> int:
    """`python -m tools matrix`: 0 when all is as expected, 1 when not, 130 when interrupted."""
    known = expectations.load(options.expectations, options.scripts)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_connect(options)) if options.cluster else None
        begin = plan.start if options.resume is None else plan.resume
        planned = begin(options, cluster.probe if cluster else devices.probe)
        stack.enter_context(planned.lock)
        matrix = Matrix(planned, _nodes(options, planned, cluster))
        interrupted = matrix.work()
    if interrupted:
        print(f"interrupted; go on with `python -m tools matrix --resume {matrix.folder.name}`")
        return 130
    code = summary(matrix.folder, matrix.manifest, matrix.records, known)
    found = database.ingest(options.results, options.database, known)
    for problem in found.problems:
        print(problem)
    return 1 if any(problem.path.parent == matrix.folder for problem in found.problems) else code


def _connect(options: argparse.Namespace) -> contextlib.AbstractContextManager[Cluster]:
    from tools import cluster  # it asks for Ray, which is an optional extra

    return cluster.connect(options.cluster, options.wait, options.device)


def _nodes(options: argparse.Namespace, planned: Plan, cluster: Cluster | None) -> Nodes:
    """What runs the planned jobs: this machine, or those of the `cluster`."""
    jobs = [j for j in planned.manifest["jobs"] if results.job_name(j) not in planned.records]
    kinds = {job["device"].partition(":")[0] for job in jobs}
    settings = Settings(
        options.runner,
        options.timeout,
        options.retries,
        options.memory,
        planned.offline,
        sorted({worker.EXPORTERS[kind] for kind in kinds if kind in worker.EXPORTERS}),
        planned.manifest.get("mock", False),
    )
    if cluster:
        return cluster.agents(settings, jobs, options.jobs)
    at_once = options.jobs or worker.usual_jobs(jobs)
    few = sum(not settings.fresh(job) for job in jobs) <= at_once
    if few and settings.runner == "auto":
        settings = replace(settings, runner="fresh")  # a warm parent costs 4 s
    return Local(settings, at_once, planned.folder / "logs")


class Matrix:
    """A planned run on `nodes`; `ended` waits for what runs there."""

    def __init__(
        self,
        planned: Plan,
        nodes: Nodes,
        ended: Callable[[Collection[Running]], Iterable[Running]] = schedule.first_ended,
    ) -> None:
        self.folder, self.manifest, self.scripts = planned.folder, planned.manifest, planned.scripts
        self.records, self.attempts = planned.records, planned.attempts
        self.nodes, self._ended = nodes, ended
        self._tasks: dict[str, Task] = {}
        self._queue = Queue({}, {})
        self._broken: dict[tuple[str, str], BrokenDevice] = {}

    def work(self) -> bool:
        """Run each job that has no record yet; gives back whether this was interrupted.

        Errors: CannotWrite where a record cannot be kept. Those before it are safe.
        """
        jobs = {results.job_name(job): job for job in self.manifest["jobs"]}
        self._tasks = {n: self._task(job) for n, job in jobs.items() if n not in self.records}
        took = schedule.recorded_seconds(self.folder.parent)
        self._queue = Queue({n: task.job["device"] for n, task in self._tasks.items()}, took)
        places = [f"{room.free} at once on {room.node}" for room in self.nodes.rooms() if room.free]
        what = ", ".join([f"{len(self._tasks)} jobs", *places])
        print(f"run {self.folder.name}: {what}, in {self.folder}", flush=True)
        interrupted = False
        with _stoppable(), contextlib.closing(_Display(self)) as display:
            try:
                self._drive(display)
            except KeyboardInterrupt:
                _ignore(*STOPPING)  # what follows is short, and must not be cut off
                interrupted = True
            finally:
                self.nodes.stop()
            self._write("footer", self._footer(interrupted), "footer")
        return interrupted

    def _drive(self, display: _Display) -> None:
        """Keep all nodes busy until nothing is left that one of them could do."""

        def look() -> list[Room]:
            display.update()
            return self.nodes.rooms()

        def start(name: str, node: str) -> Running:
            return self.nodes.submit(node, self._tasks[name])

        schedule.drive(self._queue, look, start, self._ended, self._take)
        for device, number in self._queue.waiting().items():
            print(f"no machine is left for {device}: {number} jobs did not run")

    def _take(self, future: Running, name: str, node: str) -> None:
        """Keep what came of a task, or put it back in line where its machine is gone."""
        task = self._tasks[name]
        try:
            outcome = future.result()
        except NodeLost as error:
            print(f"{name}: {node} is lost ({error})", flush=True)
            self._tasks[name] = task = task.lost(node, str(error))
            if len(task.retries) < schedule.LOSSES:
                self._queue.put_back(name, avoid=node)
                return
            outcome = task.given_up()
        except (OSError, NoParent) as error:
            raise self._stuck(f"{name} cannot be run", error) from error
        if outcome is None:
            return
        if outcome.broken:
            device = task.job["device"]
            told: BrokenDevice = {
                "node": node,
                "device": device,
                "job": name,
                "reason": plain(outcome.broken),
            }
            self._broken.setdefault((node, device), told)
            self._queue.broken[node].add(device)
        if outcome.victim:
            self._queue.put_back(name)  # for another machine, if there is one
            return
        for log, text in outcome.logs.items():
            with contextlib.suppress(OSError):  # the record matters more
                (self.folder / "logs" / log).write_bytes(text)
        self._write(name, outcome.record, "result")
        self.records[name] = outcome.record

    def _write(self, name: str, document: Record | Footer, schema: str) -> None:
        try:
            results.write(self.folder / f"{name}.json", document, schema)
        except OSError as error:
            raise self._stuck(f"{name}.json cannot be written", error) from error

    def _stuck(self, what: str, error: Exception) -> CannotWrite:
        return CannotWrite(
            f"{self.folder}: {what} ({error}); {len(self.records)} results are safe: mend that, "
            f"then `python -m tools matrix --resume {self.folder.name}`"
        )

    def _task(self, job: Job) -> Task:
        """What is to be done for `job`."""
        name, script = results.job_name(job), self.scripts / job["script"]
        checks, seed = self._said(job)
        flags = self._flags(job, checks)
        return Task(
            name=name,
            job=job,
            script=script,
            command=["python", _shown(script), *flags],
            flags=flags,
            checks=checks,
            seed=seed,
            run_id=self.folder.name,
            attempt=self.attempts.get(name, 0) + 1,
            versions=self.manifest["versions"],
        )

    def _said(self, job: Job) -> tuple[list[str], int]:
        """The checks of the script that the run asks for, and the seed; none, and 0, if unknown."""
        try:
            said = scripts.read(self.scripts / job["script"])
        except OSError:  # gone since the run began: Python will say so
            said = scripts.Facts({}, (), "")
        asked, seed = self.manifest["checks"], self.manifest["seed"]
        checks = [name for name in said.asked(job["device"]) if not asked or name in asked]
        return checks, int(said.constants.get("SEED", 0)) if seed is None else seed

    def _flags(self, job: Job, checks: Sequence[str]) -> list[str]:
        """The flags of the script, those left out that say what it does anyway."""
        flags = ["--device", job["device"]]
        if self.manifest["weights_path"]:
            flags += ["--weights", self.manifest["weights_path"]]
        elif job["weights"] != DEFAULTS["weights"]:
            flags += ["--weights", job["weights"]]
        for key, value in (("size", job["size"]), ("dtype", job["dtype"])):
            flags += [f"--{key}", value] if value != DEFAULTS[key] else []
        if self.manifest["seed"] is not None:
            flags += ["--seed", str(self.manifest["seed"])]
        if self.manifest["checks"]:
            flags += ["--checks", ",".join(checks or self.manifest["checks"])]
        return flags

    def _footer(self, interrupted: bool) -> Footer:
        return {
            "schema_version": results.SCHEMA_VERSION,
            "run_id": self.folder.name,
            "ended": _now(),
            "finished": len(self.records),
            "asked": len(self.manifest["jobs"]),
            "interrupted": interrupted,
            "counts": results.count(self.records),
            "broken": list(self._broken.values()),
        }


def summary(
    folder: Path, manifest: Manifest, records: Mapping[str, Record], known: Sequence[Expectation]
) -> int:
    """Print how the run ended and how to repeat what nobody expects; 1 if there is such."""
    verdicts: Counter[str] = Counter()
    unreal: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in sorted(records.items()):
        judgements = expectations.judge(record, known)
        verdict = expectations.verdict(record, judgements)
        verdicts[verdict] += 1
        if verdict == "unexpected":
            _show(folder, name, record, [each for each in judgements if not each.expected])
        elif verdict in ("mock", "skip"):
            unreal[f"{verdict}: {plain(record['checks'][0]['reason'])}"].append(name)
    for reason, names in unreal.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"{', '.join(names[:3])}{more}: {reason}")
    counts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    missing = len(manifest["jobs"]) - len(records)
    counts += f", {missing} not run" if missing else ""
    runners = Counter(record["run"]["runner"] for record in records.values())
    used = ", ".join(f"{number} {runner}" for runner, number in runners.most_common())
    for line in _by_node(records.values()):
        print(line)
    print(f"run {folder.name}: {counts} ({used} processes)")
    if manifest["checks"]:
        print("It asked for some checks only, so it does not change the matrix.")
    if manifest.get("mock"):
        print("It was asked for mocks, which are no verdicts: the matrix stays as it is.")
        return 1 if verdicts.total() > verdicts["mock"] or missing else 0
    return 1 if verdicts["unexpected"] or verdicts["mock"] or missing else 0


def _show(folder: Path, name: str, record: Record, judgements: Sequence[Judgement]) -> None:
    """Print the unexpected checks of a record and the command that repeats them."""
    print(f"{name}: unexpected")
    for each in judgements:
        check, entry = each.check, each.expectation
        wanted = f" (expected: {entry.status}, {entry.reason})" if entry else ""
        print(f"  {check['status']} {check['name']}: {plain(check['reason'])}{wanted}")
    command = list(record["run"]["command"])
    names = [each.check["name"] for each in judgements]
    if SCRIPT_CHECK not in names and "--checks" not in command:
        command += ["--checks", ",".join(names)]
    print(f"  log: {folder / record['run']['log']}")
    print(f"  {shlex.join(command)}")
    if "GITHUB_ACTIONS" in os.environ:  # shown beside the script in the pull request
        _annotate(name, record, judgements)


def _annotate(name: str, record: Record, judgements: Sequence[Judgement]) -> None:
    """Tell GitHub's runner of the unexpected checks of a record: a workflow command each."""
    for each in judgements:
        told = f"{each.check['status']} {each.check['name']}: {plain(each.check['reason'])}"
        text = told.replace("%", "%25")  # `plain` leaves neither line feeds nor returns
        print(f"::error file=fixed_tests/{record['script']['name']},title={name}::{text}")


def _by_node(records: Collection[Record]) -> Iterator[str]:
    """What each machine did, in words; nothing where there was only one."""
    jobs, seconds = Counter[str](), defaultdict[str, float](float)
    others: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        node = record["run"].get("node", "?")
        jobs[node] += 1
        seconds[node] += record["run"]["wall_seconds"]
        for retry in record["run"].get("retries", ()):
            others[retry["node"]]["lost" if retry["status"] == "lost" else "tried again"] += 1
            seconds[retry["node"]] += retry["wall_seconds"] or 0
    nodes = sorted(jobs.keys() | others.keys())
    for node in nodes if len(nodes) > 1 else ():
        more = "".join(f", {number} {what}" for what, number in sorted(others[node].items()))
        yield f"{node}: {jobs[node]} jobs, {seconds[node]:.0f} s of scripts{more}"


class _Display:
    """Progress of a run: a bar on a terminal, else a line per job."""

    def __init__(self, matrix: Matrix) -> None:
        self._records, self._total = matrix.records, len(matrix.manifest["jobs"])
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            speed_estimate_period=3600,  # scripts differ: estimate from all that is known
        )
        self._task = self._bar.add_task("", total=self._total, completed=len(self._records))
        self._shown = set(self._records)

        if self._bar.console.is_terminal:
            self._bar.start()

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._bar.stop()

    def update(self) -> None:
        """Show the records that have come in."""
        records = dict(self._records)
        counts = ", ".join(f"{n} {status}" for status, n in results.count(records).items())
        self._bar.update(self._task, completed=len(records), description=counts)
        for name in records.keys() - self._shown:
            self._shown.add(name)
            if not self._bar.console.is_terminal:
                done = f"[{len(self._shown)}/{self._total}]"
                seconds = records[name]["run"]["wall_seconds"]
                node = records[name]["run"].get("node")
                where = f" on {node}" if node != platform.node() else ""
                worst = results.worst(records[name])
                print(f"{done} {name}: {worst}, {seconds:.1f} s{where}", flush=True)


def _shown(script: Path) -> str:
    """`script` as one names it in the repository, or its whole path where it is elsewhere."""
    path = script.resolve()
    return str(path.relative_to(scripts.ROOT) if path.is_relative_to(scripts.ROOT) else path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let the signals that ask for an end interrupt as Ctrl-C does; afterwards all is as before."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # `nohup` and `&` mean that
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
