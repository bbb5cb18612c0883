"""What a run is to do: the scripts and devices that were asked for, or what an earlier run left."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import platform
import re
import secrets
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tools import browsers, devices, results, schedule, scripts
from tools.git import git
from tools.results import (
    BrokenManifest,
    Job,
    Lock,
    Manifest,
    PartsOfARun,
    Record,
    ScriptFacts,
    Shard,
)
from tools.usage import CannotWrite, NoDevice, NothingChanged, UsageError, unknown

DEFAULTS = {"weights": "random", "size": "tiny", "dtype": "float32"}
SELECTION = (
    "family", "changed", "device", "weights", "size", "dtype", "checks", "seed", "shard", "mock"
)  # fmt: skip
PACKAGES = ("torch", "transformers", "numpy")

Probe = Callable[[Sequence[str]], list[devices.Found]]
"""Tells which devices there are, as `devices.probe` does."""


@dataclass
class Plan:
    """A run folder with its manifest written; `records` and `attempts` are by job name.

    `records` are those that an earlier part of the run has left; `attempts` of jobs that ran.
    While `lock` is open, no other process goes on with the run.
    """

    folder: Path
    manifest: Manifest
    scripts: Path
    lock: Lock
    records: dict[str, Record] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def offline(self) -> bool:
        """Whether nothing is to be downloaded."""
        return all(job["weights"] == "random" for job in self.manifest["jobs"])


def start(options: argparse.Namespace, probe: Probe = devices.probe) -> Plan:
    """A new run of what `options` ask for on devices that `probe` finds.

    Errors: UsageError, NoDevice.
    """
    families = _choose_families(options)
    kinds = ("random", "pretrained")
    weights = options.weights or DEFAULTS["weights"]
    path = None if weights in kinds else str(Path(weights).resolve())
    if path and not Path(path).is_dir():
        raise UsageError(f"--weights: {unknown('kind of weights or folder', weights, kinds)}")
    chosen = choose_devices(options.device or (["cpu"] if options.mock else []), probe)
    jobs: list[Job] = [
        {
            **facts,
            "device": device,
            "weights": "path" if path else weights,
            "size": options.size or DEFAULTS["size"],
            "dtype": options.dtype or DEFAULTS["dtype"],
        }
        for device in chosen
        for facts in map(_facts, families.values())
    ]
    part: PartsOfARun = {}
    if options.mock:
        part["mock"] = True
    if options.shard:
        seconds = schedule.published_seconds(options.output / "compatibility_reports")
        jobs, part["shard"] = _shard(jobs, options, seconds)
    now = datetime.now(timezone.utc)
    folder: Path = options.results / run_id(now, options.results)
    manifest: Manifest = {
        "schema_version": results.SCHEMA_VERSION,
        "run_id": folder.name,
        "started": now.isoformat(timespec="microseconds"),
        "host": platform.node(),
        "command": ["python", "-m", "tools", *sys.argv[1:]],
        "seed": options.seed,
        "checks": options.checks or None,
        "weights_path": path,
        "jobs": jobs,
        "versions": versions(),
        **part,
    }
    return Plan(folder, manifest, options.scripts, create(folder, manifest))


def create(folder: Path, manifest: Manifest) -> Lock:
    """Make the run `folder` with its manifest, held for this process. Errors: CannotWrite."""
    hidden = folder.with_name(f".{folder.name}")
    with contextlib.ExitStack() as undo:
        try:
            (hidden / "logs").mkdir(parents=True)
            undo.callback(shutil.rmtree, hidden, ignore_errors=True)
            lock = undo.enter_context(Lock(hidden))
            results.write(hidden / "manifest.json", manifest, "manifest")
            hidden.rename(folder)  # nobody sees it without its manifest
        except OSError as error:
            raise CannotWrite(f"{folder} cannot be written ({error})") from error
        undo.pop_all()
    return lock


def _shard(
    jobs: list[Job], options: argparse.Namespace, seconds: Mapping[str, float]
) -> tuple[list[Job], Shard]:
    """The jobs of the part that `options` ask for, and what its manifest says of it.

    Parts take about as long as each other by the published `seconds`; a job not among them counts
    as a usual one. Errors: UsageError where there are more parts than jobs.
    """
    index, count = options.shard
    if count > len(jobs):
        raise UsageError(f"--shard: {count} parts, but there are only {len(jobs)} jobs")
    named = {results.job_name(job): job for job in jobs}
    usual = statistics.median(seconds.values()) if seconds else 1.0
    took = {n: seconds.get(f"{job['family']}-{job['device']}", usual) for n, job in named.items()}
    mine = set(schedule.shares(took, count)[index - 1])
    asked = {"jobs": jobs, "checks": options.checks or None, "seed": options.seed, "count": count}
    whole = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    shard: Shard = {"index": index, "count": count, "asked": len(jobs), "whole": whole}
    return [job for name, job in named.items() if name in mine], shard


def resume(options: argparse.Namespace, probe: Probe = devices.probe) -> Plan:
    """The run that `options` name, or the last, with those of its records that still hold.

    Errors: UsageError, NoDevice.
    """
    given = [f"--{flag}" for flag in SELECTION if getattr(options, flag) not in (None, [], False)]
    if given:
        raise UsageError(f"--resume goes on with what the run was asked; leave out {given[0]}")
    runs = {path.parent.name: path.parent for path in options.results.glob("*/manifest.json")}
    if not runs:
        raise UsageError(f"--resume: there is no run in {options.results}")
    if options.resume and options.resume not in runs:
        raise UsageError(f"--resume: {unknown('run', options.resume, runs)}")
    folder = runs[options.resume or max(runs)]
    with contextlib.ExitStack() as undo:
        try:
            lock = undo.enter_context(Lock(folder))
        except BlockingIOError as error:
            raise UsageError(f"{folder.name} is at work in another process ({error})") from error
        planned = _go_on(folder, options.scripts, lock, probe)
        undo.pop_all()
    return planned


def _go_on(folder: Path, scripts_folder: Path, lock: Lock, probe: Probe) -> Plan:
    """The run in `folder`, made ready to go on."""
    try:
        run = results.read_run(folder)
    except BrokenManifest as error:
        raise UsageError(f"--resume: {error}") from error
    asked = [job["family"] for job in run.manifest["jobs"]]
    families = known_families(scripts_folder, asked)
    choose_devices([job["device"] for job in run.manifest["jobs"]], probe)
    facts = {family: _facts(script) for family, script in families.items()}
    jobs: list[Job] = [{**job, **facts[job["family"]]} for job in run.manifest["jobs"]]
    manifest: Manifest = {**run.manifest, "jobs": jobs}
    shas = {results.job_name(job): job["script_sha256"] for job in jobs}
    records = {n: r for n, r in run.records.items() if r["script"]["sha256"] == shas[n]}
    try:
        # Without its footer the run counts as not ended, whatever happens from here on.
        (folder / "footer.json").unlink(missing_ok=True)
        for half_written in folder.glob(".*.json.*"):  # by a process that was killed
            half_written.unlink()
        (folder / "logs").mkdir(exist_ok=True)
        results.write(folder / "manifest.json", manifest, "manifest")
        for name in shas.keys() - records.keys():
            (folder / f"{name}.json").unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written ({error})") from error
    attempts = {name: record["run"]["attempt"] for name, record in run.records.items()}
    return Plan(folder, manifest, scripts_folder, lock, records, attempts)


def run_id(now: datetime, folder: Path) -> str:
    """The name of a new run: it sorts behind those in `folder`, even if the clock has gone back.

    It ends with five digits of microseconds and a random one, for two that begin at once.
    """
    last = max((path.parent.name for path in folder.glob("*/manifest.json")), default="")
    if re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", last):
        then = datetime.strptime(last[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        now = max(now, then + timedelta(microseconds=int(last[17:22], 16) + 1))
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond:05x}{secrets.randbelow(16):x}"


def known_families(folder: Path, asked: Sequence[str]) -> dict[str, Path]:
    """The scripts of the `asked` families, or all. Errors: UsageError."""
    there = scripts.find(folder)
    if not there:
        raise UsageError(f"{folder} has no scripts; `python -m generator regenerate` makes them")
    for family in asked:
        if family not in there:
            raise UsageError(unknown("family", family, there))
    return {family: there[family] for family in dict.fromkeys(asked or there)}


def _choose_families(options: argparse.Namespace) -> dict[str, Path]:
    """The scripts that `options` ask for, those left out that have none of the asked checks."""
    families = known_families(options.scripts, options.family)
    if options.changed:
        changed = _changed(options.scripts, options.changed)
        families = {family: path for family, path in families.items() if path.name in changed}
        if not families:
            raise NothingChanged(f"no script that was asked for differs from {options.changed}")
    if not options.checks:
        return families
    checks = {family: scripts.read(script).checks for family, script in families.items()}
    known = {name for names in checks.values() for name in names}
    for name in options.checks:
        if name not in known:
            raise UsageError(unknown("check", name, known))
    # A script that cannot be read has no checks here; it stays, so that its fault is recorded.
    wanted = set(options.checks)
    return {f: families[f] for f, names in checks.items() if not names or wanted & set(names)}


def _changed(folder: Path, revision: str) -> set[str]:
    """The names of the files in `folder` that differ from those of the Git `revision`.

    Errors: UsageError where Git does not know it.
    """
    command = ("diff", "--merge-base", "--name-only", "--relative", revision, "--", ".")
    hint = f"`git fetch` brings what --changed {revision} needs"
    return set(git(*command, folder=folder, hint=hint).decode().splitlines())


def choose_devices(asked: Sequence[str], probe: Probe) -> list[str]:
    """The `asked` devices, or all that are there but browsers, which take by far the longest.

    Errors: UsageError for a name that is none, NoDevice when none of them is here.
    """
    kinds = scripts.device_kinds()
    for device in asked:
        if not re.fullmatch(rf"({'|'.join(kinds)})(:\d+)?|openvino:[A-Z]+|webnn:[a-z]+", device):
            raise UsageError(unknown("device", device, kinds))
    found = probe(asked)
    absent = {each["device"]: each["why_not"] for each in found if each["why_not"]}
    here = [each["device"] for each in found if each["why_not"] is None]
    if not asked:
        here = [device for device in here if not browsers.runs_on(device)]
    if not here:
        raise NoDevice("; ".join(f"{device}: {why_not}" for device, why_not in absent.items()))
    for device in dict.fromkeys(asked):
        if device in absent:
            print(f"{device} is not here, what runs there is skipped: {absent[device]}")
    return list(dict.fromkeys(asked)) or here


def _facts(script: Path) -> ScriptFacts:
    """What a job says of its script; None for what the script does not say."""
    facts = scripts.read(script)
    text = {key: value for key, value in facts.constants.items() if isinstance(value, str)}
    return {
        "family": scripts.family(script),
        "architecture": text.get("ARCHITECTURE"),
        "model_class": text.get("MODEL_CLASS"),
        "checkpoint": text.get("CHECKPOINT"),
        "script": script.name,
        "script_sha256": facts.sha256,
    }


def versions() -> dict[str, str]:
    """Versions of Python and, where they are installed, the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
