"""The ways to run scripts, side by side on this machine: what each takes, and what it finds.

A way is a command that a user gives, measured from its start to its end. All of them run the same
scripts, one way after the other and then again, so that what disturbs the machine meanwhile
disturbs them all. And they must find the same: a way that is quick because it fails is an error.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from tools import results, scripts, worker
from tools.expectations import SCRIPT_CHECK
from tools.reports import form, markdown
from tools.reports.data import ReportError
from tools.reports.section import Section, update
from tools.results import Record
from tools.usage import command

REPEATS = 3
FLAGS = ("family", "jobs", "repeats")
UNFIT = ("crash", "timeout", "flaky", "mock")  # how long that takes says nothing
SECTION = Section("runner", "bench_runner")

_NOTE = """\
Time is that of the whole command, the median of its repeats; the ratio is to the first line in \
the same repeat. Overhead is how many seconds of the cores pass for one that scripts compute: in \
the others they wait, or work for the runner."""


@dataclass(frozen=True)
class Way:
    """A way to run scripts: flags of the matrix, the cores it has, the processes it is to use."""

    name: str
    flags: tuple[str, ...]
    cores: int
    runner: str


@dataclass(frozen=True)
class Taken:
    """What a command took in `seconds`, what it found by job name, and the folder of its run."""

    seconds: float
    records: Mapping[str, Record]
    folder: Path

    @property
    def cpu_seconds(self) -> float:
        """What its scripts computed."""
        return sum(record["run"]["cpu_seconds"] for record in self.records.values())


class NotComparable(ReportError):
    """The ways did not do the same; the message says which one, and what."""


def main(options: argparse.Namespace) -> int:
    """`python -m tools bench_runner`: 0. Errors: ReportError."""
    document = options.output / "docs" / "runner.md"
    SECTION.put("", document)  # an error there is to be told before the work, not after it
    taken = compare(ways(options.jobs or worker.cores()), options)
    text = render(taken, command("bench_runner", options, FLAGS))
    print(f"\n{text}\n")
    update(document, SECTION.put(text, document))
    print(f"{document} says so")
    return 0


def ways(at_once: int) -> list[Way]:
    """The ways to run scripts here; the others are measured by the first one.

    With Ray, one node that has a single core is to be compared with several of that kind.
    """
    numbers, cores = dict.fromkeys((1, at_once)), worker.cores()
    found = [
        Way(f"{runner} × {jobs}", ("--runner", runner, "--jobs", str(jobs)), cores, runner)
        for runner in ("fresh", "warm")
        for jobs in numbers
    ]
    if find_spec("ray"):
        found += [
            Way(
                f"warm, Ray, {nodes} × 1 core",
                ("--runner", "warm", "--cluster", f"local:{nodes}x1"),
                nodes,
                "warm",
            )
            for nodes in numbers
        ]
    return found


def compare(compared: Sequence[Way], options: argparse.Namespace) -> dict[Way, list[Taken]]:
    """What each way takes, in the order of the repeats. Errors: NotComparable."""
    taken: dict[Way, list[Taken]] = {way: [] for way in compared}
    repeats = options.repeats or REPEATS
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        # Not counted: after it files are in memory, and all ways know how long scripts take.
        rehearsal = _run(compared[-1], options, Path(folder), "to begin with")
        for name, record in rehearsal.records.items():
            if (status := results.worst(record)) in UNFIT:
                raise NotComparable(f"{name} ends with {status}: choose others with --family")
        for repeat in range(repeats):
            # There and back, so that a machine that slows down favours none.
            for way in compared if repeat % 2 == 0 else reversed(compared):
                found = _run(way, options, Path(folder), f"{repeat + 1} of {repeats}")
                _demand_same(way, found, compared[-1], rehearsal)
                taken[way].append(found)
                shutil.rmtree(found.folder)
    return taken


def _run(way: Way, options: argparse.Namespace, folder: Path, turn: str) -> Taken:
    """Give the command; it adds a run to `folder`. Errors: NotComparable."""
    words = [sys.executable, "-m", "tools", "matrix", "--device", "cpu", *way.flags]
    words += ["--results", str(folder), "--database", str(folder / "database")]
    words += ["--scripts", str(options.scripts), "--expectations", str(options.expectations)]
    words += ["--family", ",".join(options.family)] if options.family else []
    begin = time.perf_counter()
    done = subprocess.run(
        words,
        check=False,
        cwd=scripts.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - begin
    if done.returncode not in (0, 1):  # 1: something does not pass, which is no matter here
        raise NotComparable(f"{way.name} ended with exit code {done.returncode}:\n{done.stdout}")
    run = results.read_run(max(folder.glob("*/manifest.json")).parent)
    if run.problems:
        raise NotComparable(f"{way.name}: {run.problems[0]}")
    for name, record in run.records.items():
        if (runner := record["run"]["runner"]) != way.runner:
            raise NotComparable(f"{way.name}: {name} ran in a {runner} process:\n{done.stdout}")
    print(f"{way.name}, {turn}: {seconds:.1f} s", flush=True)
    return Taken(seconds, run.records, run.folder)


def _demand_same(way: Way, found: Taken, other: Way, known: Taken) -> None:
    """Errors: NotComparable where `way` has not found what the `other` has."""
    here, there = _statuses(found), _statuses(known)
    differ = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
    if differ:
        job, check = min(differ, key=lambda key: (key[1] != SCRIPT_CHECK, key))
        said = here.get((job, check), "no answer"), there.get((job, check), "no answer")
        raise NotComparable(
            f"{check} of {job}: {said[0]} with {way.name}, {said[1]} with {other.name}; "
            "what they take cannot be compared"
        )


def _statuses(taken: Taken) -> dict[tuple[str, str], str]:
    """The status of each check, by names of job and check."""
    return {
        (name, check["name"]): check["status"]
        for name, record in taken.records.items()
        for check in record["checks"]
    }


def render(taken: Mapping[Way, Sequence[Taken]], call: str) -> str:
    """The table, and what it was measured on."""
    first = next(iter(taken.values()))
    header = ["", "time", "from – to", "ratio", "from – to", "CPU time of scripts", "overhead"]
    rows = [_row(way, runs, first) for way, runs in taken.items()]
    parts = [f"`{call}`", markdown.table(header, rows, len(header) - 1), _NOTE]
    parts += [markdown.table(["measured on", ""], _facts(first))]
    return "\n\n".join(part.strip() for part in parts)


def _row(way: Way, runs: Sequence[Taken], first: Sequence[Taken]) -> list[str]:
    times = [run.seconds for run in runs]
    ratios = [run.seconds / base.seconds for run, base in zip(runs, first, strict=True)]
    overheads = [run.seconds * way.cores / run.cpu_seconds for run in runs]
    return [
        way.name,
        form.seconds(median(times)),
        f"{min(times):.1f} – {max(times):.1f}",
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f} – {max(ratios):.2f}",
        form.seconds(median(run.cpu_seconds for run in runs)),
        f"{median(overheads):.1f}",
    ]


def _facts(runs: Sequence[Taken]) -> list[list[str]]:
    """What was measured, and on what; nothing of it tells when."""
    records = runs[0].records.values()
    some = next(iter(records))
    packages = {"python": some["environment"]["python"], **some["environment"]["packages"]}
    failing = sum(results.worst(record) not in ("pass", "skip") for record in records)
    count = form.count(len(records)) + (f", of which {failing} do not pass" if failing else "")
    return [
        ["CPU", markdown.text(some["device"]["name"] or form.NOTHING)],
        ["cores", form.count(worker.cores())],
        *([name, packages[name] or form.NOTHING] for name in ("python", "torch", "transformers")),
        ["scripts", count],
        ["repeats", form.count(len(runs))],
    ]
