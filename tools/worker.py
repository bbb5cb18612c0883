"""One machine at work: it turns a task into a record, tries again what crashed, and tells flaky."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import psutil

from tools import browsers, devices
from tools.adopt import adopt, empty_record
from tools.expectations import SCRIPT_CHECK
from tools.parent import BARE, WARM
from tools.processes import KILLED, Call, Ended, Limits, NoParent, Processes, Runner
from tools.results import Check, Job, Record, Retry
from tools.schedule import Room
from tools.usage import plain

SHARE = 0.9  # of the memory of a machine, for all scripts together
USUAL_BYTES = 3 * 2**29  # what a tiny script needs, generously
EXPORTERS = {  # a warm parent imports them too: 3 s of each script on a graph device
    "openvino": "transformers.exporters.exporter_openvino",
    "webgpu": "transformers.exporters.exporter_onnx",
    "webnn": "transformers.exporters.exporter_onnx",
}


@dataclass(frozen=True)
class Settings:
    """How scripts are run: the same on every machine of a run."""

    runner: Literal["auto", "warm", "fresh"] = "auto"
    timeout: float = 600.0
    retries: int = 1
    memory: int | None = None  # bytes for each script; None: an equal share
    offline: bool = True
    modules: Sequence[str] = ()  # what a warm parent imports besides the usual ones
    mock: bool = False  # torch and transformers are hidden

    @property
    def warm(self) -> bool:
        """Whether a warm parent is to be had."""
        safe = sys.platform.startswith("linux")  # macOS: its libraries do not survive a fork
        return self.runner == "warm" or (self.runner == "auto" and safe)

    def fresh(self, job: Job) -> bool:
        """Whether `job` has to run in a fresh process: drivers and forks do not mix."""
        return self.runner == "auto" and _kind(job) not in ("cpu", *EXPORTERS)


@dataclass(frozen=True)
class Task:
    """A job and what the runner knows of its script; `text` where the script is not at hand."""

    name: str
    job: Job
    script: Path
    command: Sequence[str]  # as one repeats it
    flags: Sequence[str]
    checks: Sequence[str]
    seed: int
    run_id: str
    attempt: int
    versions: Mapping[str, str]
    text: bytes | None = None
    retries: Sequence[Retry] = ()  # on other machines

    def lost(self, node: str, reason: str) -> Task:
        """The same task once more, after the machine `node` was lost."""
        told: Retry = {
            "attempt": self.attempt + len(self.retries),
            "runner": None,
            "node": node,
            "status": "lost",
            "reason": reason,
            "exit_code": None,
            "wall_seconds": None,
            "log": None,
        }
        return replace(self, retries=[*self.retries, told])

    def given_up(self) -> Outcome:
        """What is to be said of a task that was lost with each machine that ran it."""
        *before, last = self.retries
        nodes = ", ".join(f"{each['node']} ({each['reason']})" for each in self.retries)
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = empty_record(self.job, self.seed, started, None, self.versions)
        record["checks"] = [
            {
                "name": SCRIPT_CHECK,
                "status": "crash",
                "reason": f"each machine that ran it was lost: {nodes}",
                "value": None,
                "bound": None,
                "seconds": 0.0,
            }
        ]
        record["run"] = {
            "id": self.run_id,
            "command": list(self.command),
            "exit_code": KILLED,
            "wall_seconds": 0.0,
            "cpu_seconds": 0.0,
            "runner": "fresh",
            "node": last["node"],
            "attempt": last["attempt"],
            "retries": before,
            "log": f"logs/{self.name}.txt",
        }
        return Outcome(record, logs={f"{self.name}.txt": b""})


@dataclass(frozen=True)
class Outcome:
    """The record of a task; `broken` says why its device works no longer; logs by file name.

    `victim`: the device was known to be broken when the task ended badly, which says nothing of it.
    """

    record: Record
    broken: str | None = None
    logs: Mapping[str, bytes] = field(default_factory=dict)
    victim: bool = False


class Worker:
    """Runs tasks on this machine, called from `at_once` threads.

    Each script gets `threads`, by default its share of the cores.
    """

    def __init__(
        self, settings: Settings, at_once: int, node: str = "", threads: int | None = None
    ) -> None:
        self.settings, self.node = settings, node or platform.node()
        memory = settings.memory or int(memory_bytes() * SHARE / at_once)
        self._limits = Limits(threads or max(1, cores() // at_once), memory)
        self._processes = self._start("warm" if settings.warm else "fresh")
        self._lock = threading.Lock()
        self._stopped, self._alone = False, set[Processes]()
        self._watch, self._browsers = devices.Watch(), browsers.Browsers()

    def run(self, task: Task, logs: Path) -> Outcome | None:
        """The outcome of `task`, its logs written to the folder `logs`; None after `stop`.

        Errors: OSError where a file cannot be written; that or NoParent where no process starts.
        """
        retries = list(task.retries)
        crashes, alone, health = 0, False, devices.WELL
        while True:
            found = self._attempt(task, logs, task.attempt + len(retries), alone=alone)
            if found is None:
                return None
            record, ended, shared = found
            facts = record["run"]
            check = _script_check(record)
            status, reason = _ending(record)
            if ended.lost:
                again = not alone  # where it was, the parent has died of this script
            else:
                health = self._watch.after(record)
                again = status in ("crash", "timeout") and crashes < self.settings.retries
                crashes, again = crashes + 1, again and not health.broken
                again = again or (status == "fail" and shared and self.settings.retries > 0)
            if not again:
                break
            log = f"{task.name}.attempt-{facts['attempt']}.txt"
            (logs / f"{task.name}.txt").replace(logs / log)
            retries.append(
                {
                    "attempt": facts["attempt"],
                    "runner": facts["runner"],
                    "node": self.node,
                    "status": "lost" if ended.lost else status,
                    "reason": reason,
                    "exit_code": facts["exit_code"],
                    "wall_seconds": facts["wall_seconds"],
                    "log": f"logs/{log}",
                }
            )
            alone = True
        if health.broken and check:
            check["reason"] = f"{check['reason']}\n{task.job['device']} is broken: {health.broken}"
        if retries:
            facts["retries"] = retries
        return Outcome(_flaky(record, retries), health.broken, victim=health.victim)

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for processes in (self._processes, *self._alone):
                processes.stop()
            self._browsers.stop()

    def _start(self, runner: Runner) -> Processes:
        shared, modules = environment(self.settings.offline), [*WARM, *self.settings.modules]
        if self.settings.mock:
            shared |= {"MOCK_TORCH": "1", "MOCK_TRANSFORMERS": "1"}
            modules = [*BARE]
        return Processes(runner, self._limits, shared, modules)

    def _attempt(
        self, task: Task, logs: Path, attempt: int, *, alone: bool
    ) -> tuple[Record, Ended, bool] | None:
        """One run of the script of `task`; None after `stop`.

        The last is whether it ran where others had run, so that they may have spoilt it.
        """
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        prefix = f"{task.name}."
        with (
            tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
            self._browsers.lent(task.job["device"], new=alone) as browser,
        ):
            scratch, script = Path(folder), task.script.absolute()
            path = scratch / "record.json"
            if task.text is not None:
                script = scratch / task.script.name
                script.write_bytes(task.text)
            call = Call(
                script,
                [*task.flags, *browser.flags, "--json", str(path)],
                scratch,
                logs / f"{task.name}.txt",
                self.settings.timeout,
                fresh=alone or self.settings.fresh(task.job),
                bounded=_kind(task.job) == "cpu",  # drivers map more than they use
            )
            ended = self._run_alone(call) if alone else self._run_shared(call)
            if ended is None:
                return None
            empty = empty_record(task.job, task.seed, started, self._limits.threads, task.versions)
            record = adopt(task.job, task.checks, ended, path, empty)
            ending, in_browser = _ending(record)[0], _told_by_browser(record)
            browser.sound = ending == "pass" or (ending == "fail" and not in_browser)
        record["run"] = {
            "id": task.run_id,
            "command": list(task.command),
            "exit_code": ended.exit_code,
            "wall_seconds": ended.seconds,
            "cpu_seconds": ended.cpu_seconds,
            "runner": ended.runner,
            "node": self.node,
            "attempt": attempt,
            "log": f"logs/{task.name}.txt",
        }
        return record, ended, browser.used and in_browser

    def _run_shared(self, call: Call) -> Ended | None:
        """Run a script as a child of the parent that all share."""
        processes = self._processes
        try:
            return processes.run(call)
        except NoParent as error:
            return self._without(processes, error).run(call)

    def _run_alone(self, call: Call) -> Ended | None:
        """Run a script as the only child of a new parent, so that it suffers from no other."""
        with self._lock:
            processes = self._start("fresh")
            self._alone.add(processes)
            if self._stopped:
                processes.stop()
        try:
            return processes.run(call)
        finally:
            with self._lock:
                self._alone.discard(processes)
            processes.stop()

    def _without(self, warm: Processes, error: NoParent) -> Processes:
        """Processes that do without the `warm` parent, which does not start."""
        with self._lock:
            if self._processes is warm:
                if warm.runner == "fresh":
                    raise error
                print(f"fresh processes on {self.node}, no warm parent: {plain(str(error), 300)}")
                self._processes = self._start("fresh")
            return self._processes


class Local:
    """This machine as the only node; the logs go to the folder `logs`."""

    def __init__(self, settings: Settings, at_once: int, logs: Path) -> None:
        self._worker = Worker(settings, at_once)
        self._pool, self._logs = ThreadPoolExecutor(at_once), logs
        self._at_once = at_once
        self._running: set[Future[Outcome | None]] = set()

    def rooms(self) -> list[Room]:
        """As many jobs as run at once, less those that do."""
        return [Room(self._worker.node, self._at_once - len(self._running))]

    def submit(self, node: str, task: Task) -> Future[Outcome | None]:
        """Start `task`."""
        future = self._pool.submit(self._worker.run, task, self._logs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def stop(self) -> None:
        """Kill everything that runs, and wait for its threads."""
        self._worker.stop()
        self._pool.shutdown(cancel_futures=True)


def environment(offline: bool) -> dict[str, str]:
    """The environment variables of scripts."""
    found = {
        **os.environ,
        "PYTHONFAULTHANDLER": "1",  # a crash says where
        "PYTHONUNBUFFERED": "1",  # and loses no output
    }
    if offline:
        found["HF_HUB_OFFLINE"] = "1"
    if browsers.ORT_WEB.exists():  # a script may run far from it
        found.setdefault("PROVING_GROUND_ORT_WEB", str(browsers.ORT_WEB))
    return found


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The memory that this process and its children may use."""
    found = [psutil.virtual_memory().total]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, cgroup 2 and 1
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path("/sys/fs/cgroup", limit).read_text()))
    return min(found)


def usual_jobs(
    jobs: Sequence[Job], processors: int | None = None, memory: int | None = None
) -> int:
    """How many of `jobs` to run at once here, or on a machine that has `processors` and `memory`.

    Tiny models are quickest with one thread each.
    """
    if any(job["size"] != "tiny" for job in jobs):
        return 1
    return max(1, min(processors or cores(), (memory or memory_bytes()) // USUAL_BYTES))


def _script_check(record: Record) -> Check | None:
    return next((each for each in record["checks"] if each["name"] == SCRIPT_CHECK), None)


def _kind(job: Job) -> str:
    """The kind of device of a job: "openvino" for "openvino:GPU"."""
    return job["device"].partition(":")[0]


def _ending(record: Record) -> tuple[str, str]:
    """How a script ended, and why: its own status, else "fail" where a check has one, or "pass"."""
    check = _script_check(record)
    bad = [each for each in record["checks"] if each["status"] in ("fail", "error")]
    if check or not bad:
        return (check["status"], check["reason"] or "") if check else ("pass", "")
    return "fail", f"{bad[0]['name']}: {bad[0]['reason']}"


def _told_by_browser(record: Record) -> bool:
    """Whether what failed failed in the browser: no other will mend a graph that cannot be made."""
    reasons = [each["reason"] or "" for each in record["checks"]]
    return bool(record.get("graph")) or any("Page." in reason for reason in reasons)


def _flaky(record: Record, retries: Sequence[Retry]) -> Record:
    """`record`, marked where it ended otherwise than before; a lost attempt says nothing."""
    last, reason = _ending(record)
    others = [retry for retry in retries if retry["status"] not in ("lost", last)]
    if not others:
        return record
    told = [f"attempt {each['attempt']} ({each['runner']}): {each['reason']}" for each in others]
    now = f"{last}: {reason}" if reason else "it ended by itself"
    told.append(f"attempt {record['run']['attempt']} ({record['run']['runner']}): {now}")
    mark: Check = {
        "name": SCRIPT_CHECK,
        "status": "flaky",
        "reason": "the script does not end the same way each time\n" + "\n".join(told),
        "value": None,
        "bound": None,
        "seconds": record["run"]["wall_seconds"],
    }
    rest = [each for each in record["checks"] if each["name"] != SCRIPT_CHECK]
    return {**record, "checks": [*rest, mark]}
