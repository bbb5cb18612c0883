"""Running programs so that nothing of them is left: a group, a deadline and a bounded log each."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

LOG_BYTES = 2**19  # kept of the beginning, and as many of the end, of what a program prints
POLL_SECONDS = 0.1  # to notice the end of a program whose output another process holds open
DRAIN_READS = 64  # of a pipe into which a process that got away may write on
KILL_SECONDS = 10  # a process that lives on after SIGKILL is stuck in a driver


@dataclass(frozen=True)
class Ended:
    """How a program ended: `exit_code` is negative for a signal; `last` is the end of its log."""

    exit_code: int
    timed_out: bool
    seconds: float
    last: bytes


class Processes:
    """Programs that run now, each the leader of a process group; `stop` ends them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        timeout: float,
    ) -> Ended | None:
        """Run `command` in `folder` for at most `timeout` seconds; its output goes to `log`.

        When it has ended or its time is over, all that is left of its group is killed.
        Gives back None where `stop` came first.
        """
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
            self._running.add(process)
        start = time.monotonic()
        assert process.stdout is not None
        with process.stdout, contextlib.closing(BoundedLog(log)) as kept:
            os.set_blocking(process.stdout.fileno(), False)
            timed_out = not _follow(process, process.stdout, kept, start + timeout)
            with self._lock:
                self._running.remove(process)
                stopped = self._stopped
            _kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_SECONDS)
            for _ in range(DRAIN_READS):
                if not _copy(process.stdout, kept):
                    break
        code = -signal.SIGKILL if process.returncode is None else process.returncode
        return None if stopped else Ended(code, timed_out, time.monotonic() - start, kept.last)

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


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
            self._file.write(f"\n[{self._left_out} bytes are left out here]\n".encode())
        self._file.write(self._end)
        self._file.close()

    @property
    def last(self) -> bytes:
        """The last bytes that were written, some thousands."""
        return self._recent

    def write(self, chunk: bytes) -> None:
        """Add `chunk`."""
        self._recent = (self._recent + chunk)[-4096:]
        self._file.write(chunk[: self._room])
        self._end += chunk[self._room :]
        self._room -= min(self._room, len(chunk))
        if len(self._end) > 2 * LOG_BYTES:
            self._shorten(LOG_BYTES)

    def _shorten(self, size: int) -> None:
        surplus = max(0, len(self._end) - size)
        del self._end[:surplus]
        self._left_out += surplus


def _follow(
    process: subprocess.Popen[bytes], output: IO[bytes], log: BoundedLog, deadline: float
) -> bool:
    """Copy `output` to `log` until `process` ends; False where the deadline came first."""
    with selectors.DefaultSelector() as ready:
        ready.register(output, selectors.EVENT_READ)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if ready.select(min(left, POLL_SECONDS)) and not _copy(output, log):
                try:  # nobody can print any more
                    process.wait(left)
                except subprocess.TimeoutExpired:
                    return False
    return True


def _copy(output: IO[bytes], log: BoundedLog) -> bool:
    """Copy what the pipe holds now, at most 64 KiB; False at its end."""
    try:
        chunk = os.read(output.fileno(), 2**16)
    except BlockingIOError:
        return True
    log.write(chunk)
    return bool(chunk)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the group of `process`, and its descendants that have left the group."""
    descendants: list[psutil.Process] = []
    if process.returncode is None:
        with contextlib.suppress(psutil.Error):
            descendants = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
