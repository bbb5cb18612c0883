"""Running scripts so that nothing of them is left: a group, a deadline and a bounded log each."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from tools import parent

Runner = Literal["warm", "fresh"]

LOG_BYTES = 2**19  # kept of the beginning, and as many of the end, of what a program prints
DRAIN_READS = 64  # of a pipe into which a process that got away may write on
KILL_SECONDS = 10  # a process that lives on after SIGKILL is stuck in a driver
ANSWER_SECONDS = 60  # a parent that does not fork so long is stopped, or worse
KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a script ended: `exit_code` is negative for a signal; `last` is the end of its log.

    `lost` says that its parent died, of which the script may be innocent; `processes` is how many
    it had at most, itself included; `cpu_seconds` are of those that have ended by themselves.
    """

    exit_code: int
    timed_out: bool
    seconds: float
    last: bytes
    runner: Runner
    cpu_seconds: float = 0.0
    processes: int = 1
    lost: bool = False

    @property
    def bomb(self) -> bool:
        """Whether it was killed because it had too many processes."""
        return self.processes > parent.PROCESSES


@dataclass(frozen=True)
class Limits:
    """What each script gets: threads, and bytes of private memory (None: all there is)."""

    threads: int
    memory: int | None


@dataclass(frozen=True)
class Call:
    """A script to run in `folder`, its output to go to `log`, for at most `timeout` seconds.

    `fresh`: in a Python of its own even where the parent is warm. `bounded`: in its memory.
    """

    script: Path
    arguments: Sequence[str]
    folder: Path
    log: Path
    timeout: float
    fresh: bool = False
    bounded: bool = True


class NoParent(Exception):
    """The parent of the scripts does not start; the message is the last line that it printed."""


class Processes:
    """Scripts that run now, all of them children of one parent process; `stop` ends them all.

    `runner` says whether the parent is warm, that is, has imported the `modules` that scripts
    import; `environment` is that of the scripts. See `tools.parent`.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        environment: Mapping[str, str],
        modules: Sequence[str] = parent.WARM,
    ) -> None:
        self.runner, self._limits, self._environment = runner, limits, environment
        self._modules = modules if runner == "warm" else ()
        self._lock = threading.Lock()
        self._parents: list[_Parent] = []
        self._running: set[socket.socket] = set()
        self._stopped = False

    def run(self, call: Call) -> Ended | None:
        """Run a script; when it has ended or its time is over, all that is left of it is killed.

        Gives back None where `stop` came first. Errors: NoParent; OSError where the log cannot be
        written, or no process can be started.
        """
        runner: Runner = "fresh" if call.fresh else self.runner
        task = {
            "script": str(call.script),
            "arguments": list(call.arguments),
            "folder": str(call.folder),
            "environment": {
                "TMPDIR": str(call.folder),
                "OMP_NUM_THREADS": str(self._limits.threads),
            },
            "threads": self._limits.threads,
            "memory": self._limits.memory if call.bounded else None,
            "warm": runner == "warm",
        }
        with contextlib.ExitStack() as opened:
            kept = opened.enter_context(contextlib.closing(BoundedLog(call.log)))
            output, theirs = os.pipe()
            opened.callback(os.close, output)
            os.set_blocking(output, False)
            try:
                with self._lock:
                    if self._stopped:
                        return None
                    answers = opened.enter_context(self._start(task, theirs))
                    start = time.monotonic()
                    self._running.add(answers)
            finally:
                os.close(theirs)
            in_time = _follow(answers, output, kept, start + call.timeout)
            with self._lock:
                self._running.remove(answers)
                stopped = self._stopped
            with contextlib.suppress(OSError):
                answers.shutdown(socket.SHUT_WR)  # which kills it
            answer = _receive(answers, KILL_SECONDS)
            if not answer:  # there is no parent to kill what is left
                _kill_all_in(call.folder)
            for _ in range(DRAIN_READS):
                if not _copy(output, kept):
                    break
        seconds = time.monotonic() - start
        lost = not answer and in_time
        facts = {"exit_code": KILLED, **answer, "lost": lost, "runner": runner}
        ended = Ended(timed_out=not in_time, seconds=seconds, last=kept.last, **facts)
        return None if stopped else ended

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for answers in self._running:
                with contextlib.suppress(OSError):
                    answers.shutdown(socket.SHUT_WR)
            for each in self._parents:
                each.close()

    def _start(self, task: Mapping[str, Any], output: int) -> socket.socket:
        """Have a child run `task`; gives back the socket on which it says how that ends."""
        for attempt in range(2):
            if not self._parents or not self._parents[-1].alive:
                self._parents.append(_Parent(self._modules, self._environment))
            answers, theirs = socket.socketpair()
            with theirs:
                asked = self._parents[-1].ask(task, [theirs.fileno(), output])
            answer = _receive(answers, ANSWER_SECONDS) if asked else {}
            if "pid" in answer:
                return answers
            answers.close()
            if answer and answer["refused"] != "stale":
                raise OSError(f"no process can be started: {answer['refused']}")
            self._parents[-1].alive = False  # what it runs may end
            if attempt:
                break
        raise NoParent("it dies when it is asked to start a script")


class _Parent:
    """A running `tools/parent.py`. Errors: NoParent."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.alive = True
        self._requests, theirs = socket.socketpair()
        program = [sys.executable, parent.__file__, str(theirs.fileno())]
        with theirs, tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [*program, *modules],
                env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
            if not self._requests.recv(1):
                self.close()
                errors.seek(0)
                last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
                raise NoParent(*last)

    def ask(self, task: Mapping[str, Any], handles: Sequence[int]) -> bool:
        """Send a request; whether there was somebody to receive it."""
        try:
            socket.send_fds(self._requests, [json.dumps(task).encode()], handles)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it, with everything it runs."""
        self._requests.close()
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:  # a child is stuck in a driver
            self._process.kill()
            self._process.wait()


class BoundedLog:
    """A file that keeps the beginning (at once) and the end (when closed) of what is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._room, self._left_out, self._end = LOG_BYTES, 0, bytearray()
        self._recent = b""

    def close(self) -> None:
        """Write the end."""
        self._shorten(LOG_BYTES)
        if self._left_out:
            self._append(f"\n[{self._left_out} bytes are left out here]\n".encode())
        self._append(self._end)
        self._file.close()

    @property
    def last(self) -> bytes:
        """The last bytes that were written, some thousands."""
        return self._recent

    def write(self, chunk: bytes) -> None:
        """Add `chunk`."""
        self._recent = (self._recent + chunk)[-4096:]
        self._append(chunk[: self._room])
        self._end += chunk[self._room :]
        self._room -= min(self._room, len(chunk))
        if len(self._end) > 2 * LOG_BYTES:
            self._shorten(LOG_BYTES)

    def _append(self, data: bytes | bytearray) -> None:
        with contextlib.suppress(OSError):  # a full disk: the record matters more than the log
            self._file.write(data)

    def _shorten(self, size: int) -> None:
        surplus = max(0, len(self._end) - size)
        del self._end[:surplus]
        self._left_out += surplus


def _follow(answers: socket.socket, output: int, log: BoundedLog, deadline: float) -> bool:
    """Copy `output` to `log` until the script has ended; False where the deadline came first."""
    with selectors.DefaultSelector() as ready:
        ready.register(answers, selectors.EVENT_READ)
        ready.register(output, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            events = {key.fileobj for key, _ in ready.select(left)}
            if output in events and not _copy(output, log):
                ready.unregister(output)  # nobody can print any more
            if answers in events:
                return True


def _copy(output: int, log: BoundedLog) -> bool:
    """Copy what the pipe holds now, at most 64 KiB; False at its end."""
    try:
        chunk = os.read(output, 2**16)
    except BlockingIOError:
        return True
    log.write(chunk)
    return bool(chunk)


def _kill_all_in(folder: Path) -> None:
    """Kill the processes that work in `folder` or have it for their temporary files."""
    here = (str(folder), str(folder.resolve()))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() in here or process.environ().get("TMPDIR") in here:
                process.kill()


def _receive(answers: socket.socket, patience: float) -> dict[str, Any]:
    """One answer of the parent; empty where it died, or had not answered after `patience` s."""
    answers.settimeout(patience)
    line = b""
    try:
        while not line.endswith(b"\n"):
            if not (more := answers.recv(1)):  # not one byte of the next answer
                return {}
            line += more
    except OSError:
        return {}
    answer: dict[str, Any] = json.loads(line)
    return answer
