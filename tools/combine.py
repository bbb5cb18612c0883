"""Combine: the parts of a run that several machines have run (`matrix --shard`) become one run.

The parts are run folders, or folders that hold them, as a CI downloads them; of several runs, each
is put together. Their records are taken over as they are. Nothing is written unless all parts of
each run are there, once, and of the same software.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from tools import database, expectations, matrix, plan, results
from tools.results import BrokenManifest, Manifest, Run, Shard
from tools.usage import CannotWrite, UsageError


def main(options: argparse.Namespace) -> int:
    """`python -m tools combine FOLDER …`: the exit code that the undivided run would have."""
    known = expectations.load(options.expectations, options.scripts)
    code = 0
    for parts in read(options.parts or [options.results]):
        run = results.read_run(combine(parts, options.results))
        for problem in run.problems:
            print(problem)
        as_expected = matrix.summary(run.folder, run.manifest, run.records, known) == 0
        code = code if as_expected and not run.problems else 1
    found = database.ingest(options.results, options.database, known)
    for problem in found.problems:
        print(problem)
    return code


def read(folders: Sequence[Path]) -> list[list[Run]]:
    """The runs whose parts lie in `folders`, each as its parts by their number.

    Errors: UsageError where a run has not all its parts, each once.
    """
    found: dict[str, Run] = {}
    done: set[str] = set()  # parts that have been put together already
    for path in (path for folder in folders for path in _run_folders(folder)):
        try:
            run = results.read_run(path)
        except BrokenManifest as error:
            raise UsageError(f"combine: {error}") from error
        done.update(run.manifest.get("shards", ()))
        if "shard" in run.manifest:
            found[run.folder.name] = run
    if not found:
        where = ", ".join(map(str, folders))
        raise UsageError(f"combine: no part of a run in {where}; `matrix --shard 1/2` makes one")
    left = sorted(
        (run for name, run in found.items() if name not in done), key=lambda r: _shard(r)["index"]
    )
    if not left:
        raise UsageError("combine: all parts that are there have been put together already")
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for part in left:
        runs[_shard(part)["whole"]].append(part)
    for parts in runs.values():
        _check(parts)
    return list(runs.values())


def combine(parts: Sequence[Run], folder: Path) -> Path:
    """Write the run that `parts` make to the results `folder`. Errors: CannotWrite."""
    first, now = parts[0].manifest, datetime.now(timezone.utc)
    path = folder / plan.run_id(now, folder)
    manifest: Manifest = {
        **first,
        "run_id": path.name,
        "started": min(part.manifest["started"] for part in parts),
        "host": ", ".join(dict.fromkeys(part.manifest["host"] for part in parts)),
        "jobs": [job for part in parts for job in part.manifest["jobs"]],
        "shards": [part.folder.name for part in parts],
    }
    del manifest["shard"]
    records = {name: record for part in parts for name, record in part.records.items()}
    footers = [part.footer for part in parts if part.footer]
    with plan.create(path, manifest):
        try:
            for part in parts:
                for name in part.records:
                    shutil.copy(part.folder / f"{name}.json", path)
                for log in (part.folder / "logs").glob("*"):
                    shutil.copy(log, path / "logs")
            footer: results.Footer = {
                "schema_version": results.SCHEMA_VERSION,
                "run_id": path.name,
                "ended": max(footer["ended"] for footer in footers),
                "finished": len(records),
                "asked": len(manifest["jobs"]),
                "interrupted": any(footer["interrupted"] for footer in footers),
                "counts": results.count(records),
                "broken": [device for footer in footers for device in footer.get("broken", [])],
            }
            results.write(path / "footer.json", footer, "footer")
        except BaseException as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)  # the parts are still there
            if isinstance(error, OSError):
                raise CannotWrite(f"{path} cannot be written ({error}); mend that") from error
            raise
    print(f"run {path.name}: {len(records)} records of {len(parts)} parts")
    return path


def _check(parts: Sequence[Run]) -> None:
    """Refuse what is not each part of one run once, run to its end by the same software."""
    count = _shard(parts[0])["count"]
    times = Counter(_shard(part)["index"] for part in parts)
    if twice := [index for index, number in times.items() if number > 1]:
        names = ", ".join(p.folder.name for p in parts if _shard(p)["index"] in twice)
        raise UsageError(f"combine: part {twice[0]}/{count} is there twice: {names}; leave one out")
    if missing := sorted(set(range(1, count + 1)) - times.keys()):
        flags = ", ".join(f"--shard {index}/{count}" for index in missing)
        names = ", ".join(part.folder.name for part in parts)
        raise UsageError(f"combine: of {count} parts are missing: {flags}; there are {names}")
    for key in sorted({name for part in parts for name in part.manifest["versions"]}):
        said = {part.manifest["versions"].get(key): part.folder.name for part in parts}
        if len(said) > 1:
            told = ", ".join(f"{key} {version} in {name}" for version, name in said.items())
            raise UsageError(f"combine: the parts ran on different software: {told}")
    jobs = Counter(results.job_name(job) for part in parts for job in part.manifest["jobs"])
    if over := [name for name, number in jobs.items() if number > 1]:
        raise UsageError(f"combine: {over[0]} is in two parts: they were divided differently")
    if len(jobs) != _shard(parts[0])["asked"]:
        asked = _shard(parts[0])["asked"]
        raise UsageError(
            f"combine: the parts have {len(jobs)} jobs of {asked}: they were divided by "
            "different published durations; run them from one commit"
        )
    for part in parts:
        if part.footer is None:
            name = part.folder.name
            raise UsageError(
                f"combine: {name} has not ended; finish it with `python -m tools matrix "
                f"--resume {name}` where it ran"
            )


def _shard(part: Run) -> Shard:
    return part.manifest["shard"]


def _run_folders(folder: Path) -> Iterator[Path]:
    """The run folders at or below `folder`. Errors: UsageError where it is not there."""
    if not folder.is_dir():
        raise UsageError(f"combine: there is no folder {folder}")
    for manifest in sorted(folder.rglob("manifest.json")):
        yield manifest.parent
