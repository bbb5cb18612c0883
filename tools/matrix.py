"""Running the scripts on devices: one fresh process each, one record each, whatever happens."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tools import database, expectations, plan, results, scripts
from tools.adopt import adopt, empty_record
from tools.expectations import SCRIPT_CHECK, Expectation, Judgement
from tools.plan import DEFAULTS, Plan
from tools.processes import Processes
from tools.results import Footer, Job, Record
from tools.usage import plain

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(options: argparse.Namespace) -> int:
    """`python -m tools matrix`: 0 when all is as expected, 1 when not, 130 when interrupted."""
    known = expectations.load(options.expectations, options.scripts)
    planned = plan.start(options) if options.resume is None else plan.resume(options)
    at_once = options.jobs or max(1, _cores() // 2)
    matrix = Matrix(planned, at_once, options.timeout)
    if matrix.work():
        print(f"interrupted; go on with `python -m tools matrix --resume {matrix.folder.name}`")
        return 130
    code = matrix.summary(known)
    found = database.ingest(options.results, options.database, known)
    for problem in found.problems:
        print(problem)
    return 1 if any(problem.path.parent == matrix.folder for problem in found.problems) else code


class Matrix:
    """A planned run, `at_once` jobs at a time, each for at most `timeout` seconds."""

    def __init__(self, planned: Plan, at_once: int, timeout: float) -> None:
        self.folder, self.manifest, self.scripts = planned.folder, planned.manifest, planned.scripts
        self.records, self.attempts = planned.records, planned.attempts
        self.at_once, self.timeout = at_once, timeout
        self.processes = Processes()

    def work(self) -> bool:
        """Run each job that has no record yet; gives back whether this was interrupted."""
        jobs = [job for job in self.manifest["jobs"] if results.job_name(job) not in self.records]
        print(f"run {self.folder.name}: {len(jobs)} jobs, {self.at_once} at once, in {self.folder}")
        interrupted = False
        pool = ThreadPoolExecutor(self.at_once)
        with _stoppable(), contextlib.closing(_Display(self)) as display:
            try:
                waiting = {pool.submit(self._job, job) for job in jobs}
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()  # raises what went wrong in the runner itself
                    display.update()
            except KeyboardInterrupt:
                _ignore(*STOPPING)  # what follows is short, and must not be cut off
                interrupted = True
            finally:
                self.processes.stop()
                pool.shutdown(cancel_futures=True)
            results.write(self.folder / "footer.json", self._footer(interrupted), "footer")
        return interrupted

    def summary(self, known: Sequence[Expectation]) -> int:
        """Print how the run ended and how to repeat what nobody expects; 1 if there is such."""
        verdicts: Counter[str] = Counter()
        unreal: defaultdict[str, list[str]] = defaultdict(list)
        for name, record in sorted(self.records.items()):
            judgements = expectations.judge(record, known)
            verdict = expectations.verdict(record, judgements)
            verdicts[verdict] += 1
            if verdict == "unexpected":
                self._show(name, record, [each for each in judgements if not each.expected])
            elif verdict in ("mock", "skip"):
                unreal[f"{verdict}: {plain(record['checks'][0]['reason'])}"].append(name)
        for reason, names in unreal.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            print(f"{', '.join(names[:3])}{more}: {reason}")
        counts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
        print(f"run {self.folder.name}: {counts}")
        if self.manifest["checks"]:
            print("It asked for some checks only, so it does not change the matrix.")
        return 1 if verdicts["unexpected"] or verdicts["mock"] else 0

    def _job(self, job: Job) -> None:
        """Run one job and write its record; nothing where `processes` is stopped before."""
        name, seed = results.job_name(job), self._seed(job)
        log = f"logs/{name}.txt"
        script = self.scripts / job["script"]
        checks = self._checks(job)
        flags = self._flags(job, checks)
        threads = max(1, _cores() // self.at_once)
        started = _now()
        with tempfile.TemporaryDirectory(prefix=f"{name}.", ignore_cleanup_errors=True) as scratch:
            path = Path(scratch) / "record.json"
            ended = self.processes.run(
                [sys.executable, str(script.resolve()), *flags, "--json", str(path)],
                folder=Path(scratch),
                environment=_environment(job, threads, scratch),
                log=self.folder / log,
                timeout=self.timeout,
            )
            if ended is None:
                return
            empty = empty_record(job, seed, started, threads, self.manifest["versions"])
            record = adopt(job, checks, ended, path, empty)
        record["run"] = {
            "id": self.folder.name,
            "command": ["python", _shown(script), *flags],
            "exit_code": ended.exit_code,
            "wall_seconds": ended.seconds,
            "runner": "fresh",
            "attempt": self.attempts.get(name, 0) + 1,
            "log": log,
        }
        results.write(self.folder / f"{name}.json", record, "result")
        self.records[name] = record

    def _checks(self, job: Job) -> list[str]:
        """The checks that the run asks of the script; empty where they cannot be known."""
        try:
            there = scripts.read(self.scripts / job["script"]).checks
        except OSError:  # gone since the run began: Python will say so
            return []
        asked = self.manifest["checks"]
        return [name for name in there if not asked or name in asked]

    def _seed(self, job: Job) -> int:
        """The seed that was asked for, else the one that the script says."""
        if self.manifest["seed"] is not None:
            return self.manifest["seed"]
        with contextlib.suppress(OSError):
            return int(scripts.read(self.scripts / job["script"]).constants.get("SEED", 0))
        return 0

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
        }

    def _show(self, name: str, record: Record, judgements: Sequence[Judgement]) -> None:
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
        print(f"  log: {self.folder / record['run']['log']}")
        print(f"  {shlex.join(command)}")


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
                print(f"{done} {name}: {results.worst(records[name])}, {seconds:.1f} s", flush=True)


def _environment(job: Job, threads: int, scratch: str) -> dict[str, str]:
    """The environment of a script, which leaves nothing outside of `scratch`."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONFAULTHANDLER": "1",  # a crash says where
        "PYTHONUNBUFFERED": "1",  # and loses no output
        "TMPDIR": scratch,
    }
    if job["weights"] == "random":
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
