"""What changed between two releases of transformers or torch: the same scripts under both.

Each release lies in a folder of its own before the environment on the path, so that all else is the
same. A family changed where a check has another status (golden values are one of them), or where
the quickest call takes another time in repeated runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import tomli
from packaging.requirements import Requirement
from packaging.version import Version

from tools import environment
from tools.processes import Call, Limits, Processes, Runner
from tools.reports.markdown import code, table
from tools.scripts import find
from tools.usage import UsageError, unknown

SLOWER = 1.3  # times; the quickest of all calls is compared
REPEATS = 3  # runs of a family whose time seems to differ
Said = TypeVar("Said")
NEW = "a new family"
UNEXPLAINED = "**not explained yet**"
CAUSES = Path(__file__).with_name("releases.toml")
HEAD = """\
# What releases change

`nox -s compare -- --transformers OLD NEW` (or `--torch OLD NEW`) runs the same scripts under both
releases. Golden values are those of the release that the scripts were made with: where `golden`
fails under one of them, the outputs of the model changed. `--bisect` names the first release with
the new behaviour. Why a family changed has somebody read in the code of the release: it stands in
`tools/releases.toml`, from which `nox -s compare` without releases makes this page anew.

"""


@dataclass(frozen=True)
class Release:
    """A version of `package`; `folder` lies before the environment, None is the installed one."""

    package: str
    version: str
    folder: Path | None

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which Python finds it."""
        return {"PYTHONPATH": str(self.folder)} if self.folder else {}

    def command(self, script: Path, checks: Iterable[str]) -> str:
        """What shows how checks of a script end under this release."""
        before = f"PYTHONPATH=.nox/overlays/{self.folder.name} " if self.folder else ""
        options = f"--device cpu --checks {','.join(checks)}"
        return f"{before}python fixed_tests/{script.name} {options}"


@dataclass
class Outcome:
    """How a script ended: check -> status, the reasons, and the quickest call in seconds."""

    statuses: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    latency: float | None = None


@dataclass
class Change:
    """What differs in a family: check -> statuses under both, or the times of the quickest call."""

    family: str
    checks: dict[str, tuple[str, str]] = field(default_factory=dict)
    latency: tuple[float, float] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    first: str = ""  # the first release with the new behaviour
    edits: list[str] = field(default_factory=list)  # of the modules of the family
    command: str = ""  # shows it


@dataclass
class Comparison:
    """What differs between two releases of a package, of so many families that were run."""

    package: str
    old: str
    new: str
    families: int
    changes: list[Change]


def main(options: argparse.Namespace) -> int:
    """Compare, print the changes, and keep them for docs/compare.md where all families were run.

    Without releases only the page is made anew, of what is kept.
    """
    page = options.output / "docs" / "compare.md"
    pair = options.transformers or options.torch
    if options.transformers and options.torch:
        raise UsageError("compare what? `--transformers 5.22.2 5.23.0` or `--torch OLD NEW`")
    if not pair:
        write(page, kept(page))
        return 0
    package = "transformers" if options.transformers else "torch"
    there = find(options.scripts)
    for family in options.family:
        if family not in there:
            raise UsageError(unknown("family", family, there))
    scripts = {family: there[family] for family in options.family or there}
    try:
        old, new = (release(package, version) for version in pair)
        found = changes(scripts, old, new, options.jobs or os.cpu_count() or 1)
        if options.bisect:
            bisect(found, scripts, old, new)
    except environment.SetupError as error:
        raise UsageError(str(error)) from error
    comparison = Comparison(package, old.version, new.version, len(scripts), found)
    print(section(comparison))
    if not options.family:
        keep(page, comparison)
    return 0


def kept(page: Path) -> list[Comparison]:
    """The comparisons that are kept beside a page, the newest first."""
    path = page.with_suffix(".json")
    found = json.loads(path.read_text("utf-8")) if path.exists() else []
    for each in found:
        each["changes"] = [Change(**change) for change in each["changes"]]
        for change in each["changes"]:  # JSON has no tuples
            change.checks = {name: (old, new) for name, (old, new) in change.checks.items()}
    return [Comparison(**each) for each in found]


def keep(page: Path, comparison: Comparison) -> None:
    """Write the page with this comparison first, in the place of one of the same releases."""
    others = [each for each in kept(page) if heading(each) != heading(comparison)]
    write(page, [comparison, *others])


def write(page: Path, found: Sequence[Comparison]) -> None:
    """The page of these comparisons, and what it is made of."""
    text = json.dumps([dataclasses.asdict(each) for each in found], indent=1, ensure_ascii=False)
    page.with_suffix(".json").write_text(text + "\n", "utf-8")
    page.write_text(rendered(found), "utf-8")


def rendered(found: Sequence[Comparison]) -> str:
    """The text of the page."""
    return HEAD + "\n".join(map(section, found))


def release(package: str, version: str) -> Release:
    """A release, installed if need be, with what it needs in other versions than there are.

    Raises:
        SetupError: it cannot be installed.
    """
    if importlib.metadata.version(package).partition("+")[0] == version:
        return Release(package, version, None)
    name, packages = f"{package}-{version}", [f"{package}=={version}"]
    if package == "torch":  # of the same month, and bound to it
        packages.append(f"torchvision==0.{Version(version).minor + 15}.*")
        return Release(package, version, environment.overlay(name, packages))
    folder = environment.overlay(name, packages)
    for each in importlib.metadata.distributions(name=package, path=[str(folder)]):
        for need in map(Requirement, each.requires or ()):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            there = importlib.metadata.version(need.name)
            if not need.specifier.contains(there, prereleases=True):
                packages.append(f"{need.name}{need.specifier}")
    return Release(package, version, environment.overlay(name, packages))


def changes(
    scripts: Mapping[str, Path], old: Release, new: Release, jobs: int, runner: Runner = "warm"
) -> list[Change]:
    """The families in which something differs between two releases."""
    with running(old, runner) as first, running(new, runner) as second:
        found = list(_changes(scripts, first, second, jobs))
    for change in found:
        better = old if "pass" in {pair[1] for pair in change.checks.values()} else new
        change.command = better.command(scripts[change.family], change.checks or ["device_parity"])
        change.edits = edits(change.family, old, new)
    return found


def _changes(
    scripts: Mapping[str, Path], old: Processes, new: Processes, jobs: int
) -> Iterator[Change]:
    before, after = (run(scripts, each, jobs) for each in (old, new))
    print("Running again those whose time differs …", flush=True)
    for family, script in scripts.items():
        change = Change(family)
        one, other = before[family], after[family]
        for check in sorted(one.statuses.keys() | other.statuses.keys()):
            pair = one.statuses.get(check, "none"), other.statuses.get(check, "none")
            if pair[0] != pair[1]:
                change.checks[check] = pair
                worse = one if pair[1] == "pass" else other
                reason = worse.reasons.get(check, "")
                change.reasons[check] = reason.replace(f"{environment.ROOT}{os.sep}", "")
        if differs(one.latency, other.latency):
            change.latency = again(script, old, new)
        if change.checks or change.latency:
            yield change


def differs(one: float | None, other: float | None) -> bool:
    """Whether one of two times is `SLOWER` than the other."""
    return bool(one and other) and not 1 / SLOWER < (one or 0) / (other or 1) < SLOWER


def again(script: Path, old: Processes, new: Processes) -> tuple[float, float] | None:
    """The times of the quickest calls in some more runs, in turn, if each tells them apart."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(REPEATS):
        for each, kept in ((old, times[0]), (new, times[1])):
            latency = _outcome(each, script, ["--checks", "device_parity"]).latency
            kept.extend([latency] if latency else [])
        if not all(times):
            return None
        apart = max(times[0]) < min(times[1]) or max(times[1]) < min(times[0])
        if not apart or not differs(min(times[0]), min(times[1])):
            return None
    return min(times[0]), min(times[1])


@contextlib.contextmanager
def running(release: Release, runner: Runner = "warm") -> Iterator[Processes]:
    """Processes in which scripts find a release."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **release.variables}
    processes = Processes(runner, Limits(1, None), variables)
    try:
        yield processes
    finally:
        processes.stop()


def run(scripts: Mapping[str, Path], processes: Processes, jobs: int) -> dict[str, Outcome]:
    """How each script ends in these processes."""
    with ThreadPoolExecutor(jobs) as pool:
        ended: dict[str, Outcome] = {}
        outcomes = pool.map(lambda script: _outcome(processes, script), scripts.values())
        for family, outcome in zip(scripts, outcomes, strict=True):
            ended[family] = outcome
            if not len(ended) % 20:
                print(f"[{len(ended)}/{len(scripts)}] {family}", flush=True)
        return ended


def _outcome(processes: Processes, script: Path, options: Sequence[str] = ()) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.json")
        words = ["--device", "cpu", "--json", str(record), *options]
        ended = processes.run(Call(script, words, Path(folder), Path(folder, "log"), 600.0))
        if ended is None:
            raise KeyboardInterrupt
        if not record.exists():
            last = ended.last.decode("utf-8", "replace").strip().splitlines()[-1:]
            why = " ".join([f"no record, exit code {ended.exit_code}", *last])
            return Outcome({"script": "crash"}, {"script": why})
        found = json.loads(record.read_text("utf-8"))
    checks, calls = found["checks"], found["measurements"]["latency_seconds"]
    return Outcome(
        {each["name"]: each["status"] for each in checks},
        {each["name"]: each["reason"] or "" for each in checks},
        min(calls) if calls else None,
    )


def bisect(
    found: Sequence[Change], scripts: Mapping[str, Path], old: Release, new: Release
) -> None:
    """Say in each change of a check which release was the first with the new status."""
    between = [old.version, *releases(old.package, old.version, new.version), new.version]
    for change in found:
        if not change.checks:
            continue
        low, high = 0, len(between) - 1  # the old behaviour, the new one
        while high - low > 1:
            middle = (low + high) // 2
            each = release(old.package, between[middle])
            with running(each) as processes:
                statuses = _outcome(processes, scripts[change.family]).statuses
            is_new = all(
                statuses.get(check, "none") == pair[1] for check, pair in change.checks.items()
            )
            low, high = (low, middle) if is_new else (middle, high)
        change.first = between[high]


def releases(package: str, old: str, new: str) -> list[str]:
    """The final releases between two, in order, as the package index has them."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions"]
    answer = subprocess.run([*command, package], capture_output=True, text=True, check=False)
    listed = re.search(r"Available versions: (.*)", answer.stdout)
    if not listed:
        raise environment.SetupError(f"pip cannot list the versions of {package}: {answer.stderr}")
    versions = {Version(word.partition("+")[0]) for word in listed[1].split(", ")}
    return [
        str(each)
        for each in sorted(versions)
        if Version(old) < each < Version(new) and not each.is_prerelease
    ]


def heading(comparison: Comparison) -> str:
    """The heading of its section."""
    return f"## {comparison.package} {comparison.old} → {comparison.new}"


def section(comparison: Comparison) -> str:
    """The changes as a section of the page."""
    found = comparison.changes
    lines = [f"{heading(comparison)}\n"]
    lines.append(f"{len(found)} of {comparison.families} families changed.\n")
    rows = []
    for change in found:
        if change.latency:
            before, after = (f"{1000 * seconds:.1f} ms" for seconds in change.latency)
            rows.append([change.family, "a call takes", before, after, change.first])
        for (before, after), checks in grouped(change.checks):
            rows.append([change.family, checks, before, after, change.first])
    if rows:
        head = ["family", "what", comparison.old, comparison.new, "first in"]
        lines.append(table(head, rows))
    known = explained()
    for change in found:
        lines.append(f"### {change.family}\n")
        first = f"{comparison.package} {change.first or comparison.new}"
        why = known.get(first, {}).get(change.family)
        if change.edits == [NEW]:
            why = f"it is new in {first}"
        lines.append(f"- {why}" if why else f"- {UNEXPLAINED}, in {CAUSES.name}")
        lines += [f"- {checks}: {code(text[:300])}" for text, checks in grouped(change.reasons)]
        lines += [f"- changed in the release: {code(text)}" for text in change.edits]
        lines.append(f"- to see it: `{change.command}`\n")
    return "\n".join(lines).rstrip() + "\n"


def grouped(said: Mapping[str, Said]) -> list[tuple[Said, str]]:
    """Whatever is said of checks, with the names of those of which the same is said."""
    groups: dict[Said, list[str]] = {}
    for check, what in said.items():
        groups.setdefault(what, []).append(f"`{check}`")
    return [(what, ", ".join(checks)) for what, checks in groups.items()]


def explained() -> dict[str, dict[str, str]]:
    """Release -> family -> why it changed, as somebody has read in the code of the release."""
    return tomli.loads(CAUSES.read_text("utf-8"))


def edits(family: str, old: Release, new: Release) -> list[str]:
    """How many lines of the modules of a family differ between two releases of transformers."""
    if old.package != "transformers":
        return []
    installed = importlib.metadata.distribution("transformers").locate_file("transformers")
    one, other = (
        Path(str(each.folder / "transformers" if each.folder else installed), "models", family)
        for each in (old, new)
    )
    if not one.exists():
        return [NEW]
    told = []
    for name in sorted({path.name for folder in (one, other) for path in folder.glob("*.py")}):
        before, after = (
            (folder / name).read_text("utf-8").splitlines() if (folder / name).exists() else []
            for folder in (one, other)
        )
        lines = [line[:1] for line in difflib.unified_diff(before, after, n=0, lineterm="")][2:]
        if lines:
            told.append(f"{name} +{lines.count('+')} -{lines.count('-')}")
    return told
