"""Browsers for the scripts: what they need, and one that many use one after the other.

A page that goes on compiles each shader only once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import scripts

KINDS = ("webgpu", "webnn")
CHOSEN = "PROVING_GROUND_BROWSER"  # which the scripts read too
MODULES = scripts.ROOT / "node_modules"  # by npm, as package-lock.json says
ORT_WEB = MODULES / "onnxruntime-web" / "dist"
WEBNN_CHROMIUM = MODULES / ".webnn" / "chromium"  # one that has a backend of WebNN on Linux
UNPACK = "import('@sparticuz/chromium').then((found) => found.default.executablePath())"
QUIET = (
    "--headless=new",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
)
START_SECONDS = 60
MOST_USES = 100  # what a page compiled stays in its memory
# Ends what it has started when its own input does, which is when the runner is gone, however.
GUARD = '"$@" & read gone; kill $!'


def main(options: argparse.Namespace) -> int:
    """`python -m tools browsers`: install what is missing; 4 where something stays so."""
    missing = []
    lock = scripts.ROOT / "package-lock.json"
    installed = MODULES / ".package-lock.json"
    fits = installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime
    if not fits and shutil.which("npm"):
        _do("npm", "ci", "--no-audit", "--no-fund")
    if not ORT_WEB.exists():
        missing.append("onnxruntime-web: install Node.js, which has npm, then repeat this")
    if not _found() and os.geteuid() == 0 and shutil.which("apt-get"):
        _do("apt-get", "update", "-qq")
        _do("apt-get", "install", "-qq", "--yes", "--no-install-recommends", "chromium")
    if not (path := os.environ.get(CHOSEN) or _found()):
        missing.append("a Chromium: `sudo apt-get install chromium`, or Google Chrome")
    if (MODULES / "@sparticuz").exists() and shutil.which("node"):
        WEBNN_CHROMIUM.parent.mkdir(exist_ok=True)
        _do("node", "-e", UNPACK, TMPDIR=str(WEBNN_CHROMIUM.parent))
    print(f"onnxruntime-web: {ORT_WEB if ORT_WEB.exists() else 'not here'}")
    print(f"Chromium: {path or 'not here'}")
    there = WEBNN_CHROMIUM if WEBNN_CHROMIUM.exists() else "not here"
    print(f"Chromium with WebNN, for --device webnn --browser PATH: {there}")
    for each in missing:
        print(f"missing: {each}")
    return 4 if missing else 0


def _do(*command: str, **variables: str) -> None:
    print("$", *command, flush=True)
    subprocess.run(command, cwd=scripts.ROOT, env={**os.environ, **variables}, check=False)


def runs_on(device: str) -> bool:
    """Whether `device` ("webnn:gpu") is one of a browser."""
    return device.partition(":")[0] in KINDS


@dataclass
class Lent:
    """A browser for one script: its `flags`; `used` by others before; `sound` if it may go on."""

    flags: list[str]
    used: bool = False
    sound: bool = False


class Chromium:
    """A browser; scripts connect to its `address`. Errors: OSError where it does not start."""

    def __init__(self, path: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="proving-ground.browser."))
        flags = [*QUIET, *_constants()["BROWSER_FLAGS"], f"--user-data-dir={self._folder}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses to run as root with it
        with (self._folder / "log.txt").open("wb") as log:
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, "sh", path, *flags, "about:blank"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self.uses, port = 0, self._folder / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while not (port.exists() and port.read_text().count("\n")):
            if time.monotonic() > deadline:
                said = (self._folder / "log.txt").read_text(errors="replace")[-500:]
                self.close()
                raise OSError(f"{path} does not start: {said}")
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{port.read_text().split()[0]}"

    def close(self) -> None:
        """End it, and forget what it kept."""
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()
        for _ in range(20):  # its last processes still write
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                break
            time.sleep(0.05)


class Browsers:
    """The browsers of this machine; each is lent to one script at a time."""

    def __init__(self) -> None:
        self._idle: list[Chromium] = []
        self._all: set[Chromium] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lent(self, device: str, *, new: bool = False) -> Iterator[Lent]:
        """A browser for a script on `device`, a `new` one if asked; nothing on other devices.

        Where no browser is found or starts, the script is left to say so.
        """
        path = os.environ.get(CHOSEN) or _found()
        if not runs_on(device) or not path or path.startswith("http"):
            yield Lent([])
            return
        with self._lock:
            browser = self._idle.pop() if self._idle and not new else None
        try:
            browser = browser or Chromium(path)
        except OSError:
            yield Lent([])
            return
        with self._lock:
            self._all.add(browser)
        lent = Lent(["--browser", browser.address], browser.uses > 0)
        try:
            yield lent
        finally:
            browser.uses += 1
            with self._lock:
                keep = lent.sound and browser in self._all and browser.uses < MOST_USES
                if keep:
                    self._idle.append(browser)
                else:
                    self._all.discard(browser)
            if not keep:
                browser.close()

    def stop(self) -> None:
        """End all of them."""
        with self._lock:
            browsers, self._idle = [*self._all], []
            self._all.clear()
        for browser in browsers:
            browser.close()


def _found() -> str | None:
    return next(filter(None, map(shutil.which, _constants()["BROWSERS"])), None)


def _constants() -> dict[str, tuple[str, ...]]:
    return scripts.read(scripts.ROOT / "templates" / "_browser.py").constants
