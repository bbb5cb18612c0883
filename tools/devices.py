"""The devices of this machine: which scripts can use, and why not the others."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools import browsers, scripts
from tools.results import Record
from tools.usage import UsageError, plain

PROBE_SECONDS = 300


class Found(TypedDict):
    """A device; `why_not` is None where scripts can use it, and only then the rest is known."""

    device: str
    why_not: str | None
    name: str | None
    driver: str | None
    software: bool
    features: list[str]
    memory_bytes: int | None


def look(asked: Sequence[str]) -> list[Found]:
    """Look at the `asked` devices, or at all kinds. Imports torch and wakes drivers."""
    devices = asked or scripts.device_kinds()
    try:
        from templates import _devices
    except ImportError as error:  # then scripts run as mocks, which need no device
        reason = f"torch cannot be imported: {error}"
        return [answer(device, None if device == "cpu" else reason) for device in devices]
    found = []
    for device in devices:
        facts: dict[str, Any] = {}
        try:
            why_not = _devices.why_unavailable(device)
            if why_not is None:
                facts = _devices.describe_device(device)
        except Exception as error:  # a broken driver can raise anything
            why_not = f"{type(error).__name__}: {error}"
        found.append(answer(device, why_not))
        found[-1].update(facts)  # type: ignore[typeddict-item]
    return found


def probe(asked: Sequence[str]) -> list[Found]:
    """`look` in a process of its own, so that this one stays free of torch and of drivers.

    Errors: UsageError where that process fails.
    """
    if set(asked) == {"cpu"}:  # always there, which makes the slow look at drivers needless
        return [answer("cpu", None)]
    command = [sys.executable, "-m", "tools", "devices", "--json"]
    command += [word for device in asked for word in ("--device", device)]
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=scripts.ROOT,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"a driver hangs: {PROBE_SECONDS} s without an answer") from error
    if done.returncode:
        raise UsageError(f"the devices cannot be listed: {done.stderr.strip()[-2000:]}")
    found: list[Found] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Health:
    """Why a device works no longer, None where it does; `victim`: that was known before."""

    broken: str | None = None
    victim: bool = False


WELL = Health()


class Watch:
    """Notices when a device of this machine stops working, as a GPU does after some crashes.

    From then on every job on it ends badly. The first of them is a finding, the others are victims.
    """

    def __init__(self) -> None:
        self._worked: set[str] = set()
        self._looking = threading.Lock()
        self._looks: dict[str, tuple[float, str | None]] = {}

    def after(self, record: Record) -> Health:
        """How the device of the job that has just ended with `record` is; looks only if need be.

        A browser that did not do is started anew, which is all the care it needs.
        """
        ended, device = time.monotonic(), record["device"]["requested"]
        statuses = {check["status"] for check in record["checks"]}
        if "pass" in statuses:
            self._worked.add(device)
        vanished = statuses == {"skip"} and device in self._worked
        if (
            device == "cpu"
            or browsers.runs_on(device)
            or not (vanished or statuses & {"crash", "timeout", "error"})
        ):
            return WELL
        with self._looking:
            looked, broken = self._looks.get(device, (-math.inf, None))
            if broken:
                return Health(broken, victim=True)
            if looked < ended:
                self._looks[device] = time.monotonic(), (broken := _why_broken(device))
        return Health(broken, victim=bool(broken and vanished))


def main(options: argparse.Namespace) -> int:
    """`python -m tools devices`: a table, or with `--json` the same for machines."""
    found = look(options.device)
    if options.json:
        print(json.dumps(found))
        return 0
    there, away = Table("device", "what", "driver", "memory", "features"), Table("not here", "why")
    for each in found:
        if why_not := each["why_not"]:
            away.add_row(each["device"], escape(why_not))
            continue
        what = (each["name"] or "") + (" (software adapter)" if each["software"] else "")
        memory = f"{each['memory_bytes'] / 2**30:.0f} GiB" if each["memory_bytes"] else ""
        words = (each["device"], what, each["driver"] or "", memory, " ".join(each["features"]))
        there.add_row(*map(escape, words))
    for table in (there, away):
        if table.row_count:
            Console().print(table)
    return 0


def _why_broken(device: str) -> str | None:
    try:
        return probe([device])[0]["why_not"]
    except UsageError as error:
        return str(error)


def answer(device: str, why_not: str | None) -> Found:
    """What to say of a device that was not looked at, or cannot be used."""
    return {
        "device": device,
        "why_not": why_not and plain(why_not, 300),
        "name": None,
        "driver": None,
        "software": False,
        "features": [],
        "memory_bytes": None,
    }
