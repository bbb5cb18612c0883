"""The parent of all scripts that run on a machine: it starts them, and nothing outlives them.

A program of its own, free of the runner's threads, started by `tools.processes`. For each job it
forks one child, which either runs the script itself (warm: what `WARM` names is imported already)
or becomes a fresh Python. The parent never runs an operator and never touches a device, because a
child forked from a process with threads or an open driver hangs.

A job is asked for over one socket and answered over its own: first the child's number, then how it
ended. When that socket is closed, because its time is over or the runner is gone, the child is
killed with all that it has started. On Linux the parent inherits what gets away from a script (a
process that left its group and lost its parent) and kills that too; and should the parent itself
be killed, the kernel kills the children.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

WARM = (
    "torch",
    "transformers",
    "transformers.modeling_utils",  # with torch._dynamo, scipy, torchvision: 3 s
    "transformers.generation.utils",
    "transformers.modeling_layers",
    "transformers.masking_utils",
    "transformers.models.auto.processing_auto",
    "torchvision.transforms.v2",
    "timm",
    "pytest",
)
"""What nearly every script imports sooner or later; what is not installed is left out."""

BARE = ("argparse", "difflib", "http.server", "numpy", "pytest", "unittest")
"""The same where torch is hidden."""

PROCESSES = 100  # of one script; one that starts more is taken for a fork bomb
LOOK_SECONDS = 0.25  # between two looks at the number of processes
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
OOM_SCORE = "500"  # where memory runs out, the kernel is to take a script, not what watches it


@dataclass
class Job:
    """A child that runs: its socket, its folder, and how many processes it had at most."""

    answers: socket.socket
    folder: str
    processes: int = 1
    killed: bool = False


class Parent:
    """Forks a child for each request on `requests`, until that socket is closed."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._jobs: dict[int, Job] = {}
        self._left: set[str] = set()  # folders of jobs that were given up, maybe with the runner
        self._wanted = True
        self._files = _files()
        self._events = selectors.DefaultSelector()
        self._events.register(requests, selectors.EVENT_READ)
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        self._wake = (woken, wake)
        self._events.register(woken, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> dict[str, Any] | None:
        """Answer requests; gives back None at the end, and in a child what it is to run."""
        while self._wanted or _children(os.getpid()):
            busy = self._jobs or not self._wanted
            for key, _ in self._events.select(LOOK_SECONDS if busy else None):
                if key.fd == self._wake[0]:
                    os.read(key.fd, 2**12)
                elif key.fileobj is self._requests:
                    task = self._request()
                    if task is not None:
                        return task
                else:
                    self._left.add(self._jobs[key.data].folder)
                    self._kill(key.data)
            self._reap()
            self._look()
        return None

    def _request(self) -> dict[str, Any] | None:
        """Start a job; gives back what it is to run in the child, None in the parent."""
        data, handles, _, _ = socket.recv_fds(self._requests, 2**16, 2)
        if not data:
            self._wanted = False
            self._events.unregister(self._requests)
            for folder in self._left:
                shutil.rmtree(folder, ignore_errors=True)
            for pid in self._jobs:
                self._kill(pid)
            return None
        task: dict[str, Any] = json.loads(data)
        answers, output = socket.socket(fileno=handles[0]), handles[1]
        try:
            if task["warm"] and _changed(self._files):
                raise OSError(0, "stale")
            pid = os.fork()
        except OSError as error:
            _send(answers, {"refused": error.strerror})
            answers.close()
        else:
            if pid == 0:
                self._forget()
                answers.close()
                _become(task, output)
                return task
            self._jobs[pid] = Job(answers, task["folder"])
            self._events.register(answers, selectors.EVENT_READ, pid)
            _send(answers, {"pid": pid})
        os.close(output)
        return None

    def _forget(self) -> None:
        """In a child: have nothing of the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._events.close()
        for end in self._wake:
            os.close(end)
        self._requests.close()
        for job in self._jobs.values():
            job.answers.close()
        self._jobs.clear()

    def _reap(self) -> None:
        """Tell how the children ended that did, and kill what they have left."""
        while True:
            try:  # look before waiting: until then the number can belong to no other process
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid in self._jobs:
                self._kill(found.si_pid)
            _, status, usage = os.wait4(found.si_pid, 0)
            if (job := self._jobs.pop(found.si_pid, None)) is None:
                continue
            self._kill_adopted()
            if not self._wanted:  # the runner, whose folder this was, is gone
                shutil.rmtree(job.folder, ignore_errors=True)
            answer = {
                "exit_code": os.waitstatus_to_exitcode(status),
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "processes": job.processes,
            }
            _send(job.answers, answer)
            job.answers.close()

    def _look(self) -> None:
        """Count the processes of each job, and kill one that has too many."""
        self._kill_adopted()
        for pid, job in self._jobs.items():
            job.processes = max(job.processes, 1 + len(descendants(pid)))
            if job.processes > PROCESSES:
                self._kill(pid)

    def _kill_adopted(self) -> None:
        """Kill the processes that came here when their own parent ended."""
        for pid in set(_children(os.getpid())) - self._jobs.keys():
            for each in (*descendants(pid), pid):
                _signal(os.kill, each)

    def _kill(self, pid: int) -> None:
        """Kill the child `pid`, its group, and its descendants that have left the group."""
        job = self._jobs[pid]
        if not job.killed:
            job.killed = True
            self._events.unregister(job.answers)
        below = descendants(pid)
        _signal(os.killpg, pid)
        for each in below:
            _signal(os.kill, each)


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, those next to it first."""
    found = _children(pid)
    for each in found:  # it grows meanwhile
        found += _children(each)
    return found


def _children(pid: int) -> list[int]:
    """The processes that `pid` has started, or adopted, and that have not been waited for."""
    if not sys.platform.startswith("linux"):
        import psutil

        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _become(task: dict[str, Any], output: int) -> None:
    """In a child: have the session, folder, output, environment and limits that `task` names."""
    os.setsid()
    if sys.platform.startswith("linux"):
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was killed before that was known to the kernel
            os._exit(1)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    os.chdir(task["folder"])
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.update(task["environment"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if task["memory"] is not None:
        # Private memory that can be written: other than RLIMIT_AS, it leaves out mapped libraries
        # and reserved addresses, of which torch has many gigabytes.
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        bound = task["memory"] if hard == resource.RLIM_INFINITY else min(task["memory"], hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    if not task["warm"]:
        os.execv(sys.executable, [sys.executable, task["script"], *task["arguments"]])


def run_script(script: str, arguments: list[str], threads: int) -> int:
    """In a child: run `script` as the Python that was started for it; gives back its exit code."""
    gc.enable()
    tempfile.tempdir = None
    for name, number in (("stdout", 1), ("stderr", 2)):  # those of the parent are of another file
        old, raw = getattr(sys, name), open(number, "wb", 0, closefd=False)  # noqa: SIM115
        new = io.TextIOWrapper(raw, encoding=old.encoding, errors=old.errors, write_through=True)
        setattr(sys, name, new)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)  # before any operator: the parent had none
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python reseeds its own generator
    sys.argv = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, str(Path(script).parent))
    module = types.ModuleType("__main__")
    module.__file__ = script
    sys.modules["__main__"] = module
    try:
        text = Path(script).read_bytes()
    except OSError as error:
        print(f"{sys.executable}: can't open file {script!r}: {error}", file=sys.stderr)
        return 2
    try:
        exec(compile(text, script, "exec"), module.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except Exception as error:
        trace = error.__traceback__
        sys.excepthook(type(error), error, trace and trace.tb_next)  # without this function
        return 1
    return 0


def _end(exit_code: int) -> NoReturn:
    """In a child: end as Python does, except that what it shares with the parent stays as it is.

    To take the imported modules down copies all of their memory: 0.35 s, a third of a script.
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for its threads
    atexit._run_exitfuncs()
    del sys.modules["__main__"]
    gc.collect()  # what the script has made: its open files are closed
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code & 0xFF)


def _files() -> dict[str, int]:
    """When the files of what is imported were last changed, in nanoseconds, by path."""
    found = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        with contextlib.suppress(OSError, TypeError):
            found[str(path)] = os.stat(path or "").st_mtime_ns  # noqa: PTH116 - thousands of them
    return found


def _changed(files: Mapping[str, int]) -> bool:
    """Whether one of `files` is no longer what `_files` has seen."""
    try:
        stat = os.stat  # three times as fast as Path.stat
        return any(stat(path).st_mtime_ns != then for path, then in files.items())
    except OSError:
        return True


def _send(answers: socket.socket, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody asks any more
        answers.sendall(json.dumps(answer).encode() + b"\n")


def _signal(send: Any, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _import(names: Iterable[str]) -> None:
    """Import what is there, and have transformers make the table that it makes when first used."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:  # torch makes a cache, and notes where
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        # OpenVINO tells its maker of each import, by a thread; without this it takes a stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        for name in names:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        if mapping := sys.modules.get("transformers.conversion_mapping"):
            with contextlib.suppress(AttributeError):  # as of some release
                mapping.get_checkpoint_conversion_mapping("bert")  # 0.1 s of each script else
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(before)


def main() -> None:
    """`python tools/parent.py SOCKET [MODULE …]`: be the parent, and in each child the script."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the folder of this file is no place to import from
    requests = socket.socket(fileno=int(sys.argv[1]))
    if sys.platform.startswith("linux"):
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("0")
    names = sys.argv[2:]
    if names:
        gc.disable()  # a fifth of the time, and holes in memory that children would write into
        _import(names)
        if threads := len([*Path("/proc/self/task").glob("*")][1:]):
            print(f"importing {', '.join(names)} has started {threads} threads", file=sys.stderr)
            os._exit(1)  # without waiting for them
        gc.freeze()  # children do not write into what they share
    parent = Parent(requests)
    requests.sendall(b"\n")
    task = parent.serve()
    if task is None:
        os._exit(0)
    del parent
    _end(run_script(task["script"], task["arguments"], task["threads"]))


if __name__ == "__main__":
    main()
