"""A place to run the tools in, with small real scripts that keep the contract of generated ones."""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tools import database, results
from tools.__main__ import main, parse

RUN_ID = "20260101T120000Z-abcdef"

SCRIPT = '''"""Keeps the contract of a generated script, but needs nothing installed."""

import argparse
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FAMILY = "<family>"
ARCHITECTURE = "encoder_only"
MODEL_CLASS = "AlphaModel"
CHECKPOINT = "alpha/base"


def test_forward():
    """<forward>"""


def test_export():
    """<export>"""


def main():
    parser = argparse.ArgumentParser()
    for flag, default in {"device": "cpu", "weights": "random", "size": "tiny", "checks": "",
                          "dtype": "float32", "seed": "0", "json": ""}.items():
        parser.add_argument(f"--{flag}", default=default)
    options = parser.parse_args()
    names = options.checks.split(",") if options.checks else ["forward", "export"]
    here = options.device == "cpu"
    checks, code = [], 0
    for name in names:
        status, reason = "pass", None
        try:
            exec(globals()[f"test_{name}"].__doc__)
        except AssertionError as error:
            status, reason, code = "fail", str(error), 1
        if not here:
            status, reason, code = "skip", f"there is no {options.device}", 4
        checks.append({"name": name, "status": status, "reason": reason, "value": 1e-7,
                       "bound": 1e-6, "seconds": 0.1})
    record = {
        "schema_version": 2,
        "family": FAMILY,
        "architecture": ARCHITECTURE,
        "model_class": MODEL_CLASS,
        "checkpoint": CHECKPOINT,
        "script": {"name": Path(__file__).name,
                   "sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()},
        "device": {"requested": options.device, "observed": options.device if here else None,
                   "name": "A CPU", "driver": None, "software": False, "features": ["avx2"],
                   "memory_bytes": 2**34},
        "inference": "real",
        "proof": {"class": "transformers.models.alpha.AlphaModel", "modules": 9, "executed": 1.0,
                  "origin": "installed", "file": "transformers/alpha.py", "commit": None},
        "missing": [],
        "weights": options.weights if options.weights in ("random", "pretrained") else "path",
        "size": options.size,
        "dtype": options.dtype,
        "seed": int(options.seed),
        "checks": checks,
        "measurements": {"load_seconds": 0.1, "first_call_seconds": 0.2,
                         "latency_seconds": [0.01, 0.02, 0.06], "peak_memory_bytes": 1000,
                         "parameters": 10},
        "environment": {"python": "3.11.7", "platform": "Linux", "threads":
                        int(os.environ["OMP_NUM_THREADS"]),
                        "packages": {"torch": "2.14.1", "transformers": "5.23.0", "timm": None}},
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "seconds": 0.3,
    }
    # edit
    text = json.dumps(record, sort_keys=True)
    text = record.get("script", {}).get("sha256", "") + " " + text
    record.setdefault("seal", hashlib.sha256(text.encode()).hexdigest())
    if options.json:
        Path(options.json).write_text(json.dumps(record))
    # end
    return code


if __name__ == "__main__":
    sys.exit(main())
'''


class Place:
    """Folders of scripts, results and the rest below `folder`, and the tools at work on them."""

    def __init__(self, folder: Path) -> None:
        self.scripts = folder / "scripts"
        self.results = folder / "results"
        self.database = folder / "matrix.duckdb"
        self.expectations = folder / "expectations.toml"
        self.scripts.mkdir()
        self.expectations.touch()

    def script(
        self, family: str, *, forward: str = "", export: str = "", edit: str = "", end: str = ""
    ) -> Path:
        """A script whose checks run `forward` and `export`.

        `edit` runs when the `record` is ready, `end` when it is written and `code` is known.
        """
        text = SCRIPT.replace("<family>", family)
        text = text.replace("<forward>", forward).replace("<export>", export)
        for name, body in (("edit", edit), ("end", end)):
            text = text.replace(f"    # {name}\n", textwrap.indent(body + "\n", "    "))
        path = self.scripts / f"test_hf_{family}.py"
        path.write_text(text)
        return path

    def flags(self, *more: str) -> list[str]:
        """The flags that make the tools work here."""
        places = ("scripts", "results", "database", "expectations")
        pairs = [(f"--{place}", str(getattr(self, place))) for place in places]
        return [*(word for pair in pairs for word in pair), *more]

    def options(self, command: str, *more: str) -> argparse.Namespace:
        """What the command line parser makes of the flags."""
        return parse([command, *self.flags(*more)])

    def matrix(self, *more: str, device: str | None = "cpu", runner: str = "fresh") -> int:
        """Run the matrix; its exit code. The small scripts gain nothing from a warm parent."""
        devices = ["--device", device] if device else []
        return main(["matrix", *self.flags(*devices, "--runner", runner, *more)])

    def run(self) -> results.Run:
        """The newest run."""
        return results.read_run(max(self.results.iterdir()))

    def record(self, name: str) -> results.Record:
        """A record of the newest run."""
        return self.run().records[name]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with database.connect(self.database) as connection:
            return connection.execute(sql).fetchall()

    def write_run(
        self,
        records: Sequence[dict[str, Any]],
        *,
        run_id: str = RUN_ID,
        asked: Sequence[dict[str, Any]] | None = None,
        footer: bool = True,
        interrupted: bool = False,
        checks: list[str] | None = None,
    ) -> Path:
        """Write a run folder with `records`, which asked for those records or for `asked`."""
        folder = self.results / run_id
        folder.mkdir(parents=True)
        jobs = [results.job_of(record) for record in asked or records]
        manifest = {
            "schema_version": 1,
            "run_id": run_id,
            "started": f"2026-01-{run_id[6:8]}T12:00:00+00:00",
            "host": "here",
            "command": ["python"],
            "seed": 0,
            "checks": checks,
            "weights_path": None,
            "jobs": jobs,
            "versions": {},
        }
        results.write(folder / "manifest.json", manifest, "manifest")
        for record in records:
            signed = {**record, "run": {**record["run"], "id": run_id}}
            results.write(
                folder / f"{results.job_name(results.job_of(record))}.json", signed, "result"
            )
        if footer:
            ended = {
                "schema_version": 1,
                "run_id": run_id,
                "ended": "2026-01-09T12:00:00+00:00",
                "finished": len(records),
                "asked": len(jobs),
                "interrupted": interrupted,
                "counts": {},
            }
            results.write(folder / "footer.json", ended, "footer")
        return folder


def check(name: str = "forward", status: str = "pass") -> dict[str, Any]:
    """A check of a record."""
    reason = None if status == "pass" else f"{name} ends with {status}"
    measured = {"value": None, "bound": None, "seconds": 0.5}
    return {"name": name, "status": status, "reason": reason, **measured}


PROOF = {
    "class": "transformers.models.alpha.AlphaModel",
    "modules": 9,
    "executed": 1.0,
    "origin": "installed",
    "file": "transformers/models/alpha.py",
    "commit": None,
}


def a_record(family: str = "alpha", *checks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A valid record; `changes` replace its keys."""
    record = {
        "schema_version": 2,
        "family": family,
        "architecture": "encoder_only",
        "model_class": "AlphaModel",
        "checkpoint": None,
        "script": {"name": f"test_hf_{family}.py", "sha256": "0" * 64},
        "device": {
            "requested": "cpu",
            "observed": "cpu",
            "name": "A CPU",
            "driver": None,
            "software": False,
            "features": ["avx2"],
            "memory_bytes": 2**34,
        },
        "inference": "real",
        "proof": PROOF if changes.get("inference") != "mock" else None,
        "seal": "0" * 64,
        "missing": [],
        "weights": "random",
        "size": "tiny",
        "dtype": "float32",
        "seed": 0,
        "checks": list(checks) or [check()],
        "measurements": {
            "load_seconds": 0.1,
            "first_call_seconds": 0.2,
            "latency_seconds": [0.01, 0.02, 0.06],
            "peak_memory_bytes": 1000,
            "parameters": 10,
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux",
            "threads": 2,
            "packages": {"torch": "2.14.1", "transformers": "5.23.0"},
        },
        "started": "2026-01-01T12:00:00+00:00",
        "seconds": 1.5,
        "run": {
            "id": RUN_ID,
            "command": ["python", f"fixed_tests/test_hf_{family}.py", "--device", "cpu"],
            "exit_code": 0,
            "wall_seconds": 2.5,
            "runner": "fresh",
            "attempt": 1,
            "log": f"logs/{family}-cpu.txt",
        },
    }
    record |= changes
    if record["inference"] == "mock":
        record["measurements"] = {**record["measurements"], "latency_seconds": []}
    return record | {"seal": results.seal(record)}


def gone(pid: int, within: float = 5) -> bool:
    """Whether the process has ended, or does soon."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody has waited for it
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path, within: float = 20) -> None:
    """Wait until `path` exists."""
    deadline = time.monotonic() + within
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.02)


def tell_pid(path: Path) -> str:
    """Code that writes the number of its process to `path`, at once."""
    fresh = f"Path({str(path)!r}).with_suffix('.new')"
    return f"{fresh}.write_text(str(os.getpid())); {fresh}.rename({str(path)!r})\n"


def script_check(record: results.Record) -> results.Check:
    """The check that the runner has added."""
    return next(check for check in record["checks"] if check["name"] == "script")


def damage(path: Path) -> None:
    """Cut a file off in the middle, as a full disk or a power failure does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_json(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON document without any validation; one that is sealed stays so."""
    document = json.loads(path.read_text()) | changes
    if "seal" in document:
        document["seal"] = results.seal(document)
    path.write_text(json.dumps(document))
