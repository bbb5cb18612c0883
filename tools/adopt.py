"""From how a script ended to its record.

That is the script's own where it can be believed, else one that says what happened.
"""

from __future__ import annotations

import platform
import re
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools import results
from tools.expectations import SCRIPT_CHECK
from tools.processes import Ended
from tools.results import BrokenRecord, Check, Job, Record, Status
from tools.usage import plain

LINES = 8  # of the log, quoted in a reason
RECORD_BYTES = 2**24  # at most: a thousand times what a record has


def adopt(job: Job, checks: Sequence[str], ended: Ended, path: Path, empty: Record) -> Record:
    """The record of `job`, whose script has `ended` and should have left its record at `path`.

    Where that cannot be believed, or has not the asked `checks`, the `empty` one with a check
    "script" that says why. What a script found before it crashed or was stopped is kept, beside
    that check. `checks` are empty where nobody knows those of the script.
    """
    record, problem = _read(path, job, empty["seed"])
    if ended.timed_out:
        reason = f"was stopped after {ended.seconds:.0f} s, its time limit"
        return _with_script_check(record or empty, "timeout", reason, ended)
    if ended.bomb:
        reason = f"was killed because it had {ended.processes} processes at once"
        return _with_script_check(record or empty, "crash", reason, ended)
    if ended.lost:
        reason = "was killed with the process that had started it"
        return _with_script_check(record or empty, "crash", reason, ended)
    if ended.exit_code < 0:
        return _with_script_check(record or empty, "crash", _death(-ended.exit_code), ended)
    problem = problem or (record and _contradiction(record, checks, ended.exit_code))
    if record and not problem:
        return record
    reason = f"ended with exit code {ended.exit_code}, but {problem}"
    return _with_script_check(empty, "error", reason, ended)


def empty_record(
    job: Job, seed: int, started: str, threads: int | None, versions: Mapping[str, str]
) -> Record:
    """What is known of a run of `job` whatever happens: all but what the script itself says."""
    return {
        "schema_version": results.RECORD_VERSION,
        "family": job["family"],
        "architecture": job["architecture"],
        "model_class": job["model_class"],
        "checkpoint": job["checkpoint"],
        "script": {"name": job["script"], "sha256": job["script_sha256"]},
        "device": {
            "requested": job["device"],
            "observed": None,
            "name": None,
            "driver": None,
            "software": False,
            "features": [],
            "memory_bytes": None,
        },
        "inference": "real",
        "proof": None,
        "seal": "0" * 64,  # until it is written
        "missing": [],
        "weights": job["weights"],
        "size": job["size"],
        "dtype": job["dtype"],
        "seed": seed,
        "checks": [],
        "measurements": {
            "load_seconds": None,
            "first_call_seconds": None,
            "latency_seconds": [],
            "peak_memory_bytes": None,
            "parameters": None,
        },
        "graph": None,
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "threads": threads,
            "packages": dict(versions),
        },
        "started": started,
        "seconds": 0.0,
    }


def _read(path: Path, job: Job, seed: int) -> tuple[Record | None, str | None]:
    """The script's record, or what is wrong with it."""
    if not path.is_file():  # a pipe could be read for ever
        return None, "left no record"
    if (size := path.stat().st_size) > RECORD_BYTES:
        return None, f"its record is broken: it has {size} bytes"
    try:
        record = results.read_record(path)
    except BrokenRecord as error:
        return None, f"its record is broken: {error.problem}"
    foreign = results.differences(record, job, seed)
    if "run" in record:
        foreign.append("it has the key 'run', which only the runner adds")
    if foreign:
        return None, f"its record is not of this job: {', '.join(foreign)}"
    return record, None


def _contradiction(record: Record, checks: Sequence[str], exit_code: int) -> str | None:
    """How the checks contradict those that were asked for, the exit code or the device."""
    names = [check["name"] for check in record["checks"]]
    if checks and sorted(names) != sorted(checks):
        return f"its record has the checks {', '.join(names)}; asked were {', '.join(checks)}"
    statuses = {check["status"] for check in record["checks"]}
    device, real = record["device"], record["inference"] == "real"
    fits = {
        0: real and statuses <= {"pass", "skip"},
        1: (real or statuses == {"error"})
        and not statuses.isdisjoint({"fail", "error", "timeout", "crash"}),
        3: not real and statuses == {"mock"},
        4: statuses == {"skip"} and device["observed"] is None,
    }
    if not fits.get(exit_code, False):
        counts = Counter(check["status"] for check in record["checks"])
        found = ", ".join(f"{number} {status}" for status, number in counts.items())
        return f"its record contradicts that ({record['inference']} inference, {found})"
    if "pass" in statuses and not f"{device['observed']}:".startswith(f"{device['requested']}:"):
        return f"its checks passed on {device['observed']}, asked was {device['requested']}"
    return None


def _death(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = "a signal"
    killed = number == signal.SIGKILL
    hint = ", not by the runner: probably the kernel was out of memory" if killed else ""
    return f"was killed by {name} ({number}){hint}"


def _with_script_check(record: Record, status: Status, reason: str, ended: Ended) -> Record:
    # Of files in a traceback the folder is this machine's affair.
    text = re.sub(r'(?<=File ")[^"\n]*[\\/](?=[^"\n]+")', "", ended.last.decode("utf-8", "replace"))
    quoted = "\n".join(map(plain, text.strip().splitlines()[-LINES:]))
    check: Check = {
        "name": SCRIPT_CHECK,
        "status": status,
        "reason": f"the script {reason}" + (f"; its last output:\n{quoted}" if quoted else ""),
        "value": None,
        "bound": None,
        "seconds": ended.seconds,
    }
    return {**record, "checks": [*record["checks"], check], "seconds": ended.seconds}
