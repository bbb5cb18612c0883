"""`python -m crosscheck [family …]`: do independent implementations give the same values?"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import nox.project

from crosscheck.peers import PEERS, Ours, Peer
from generator import registry
from tools.environment import ROOT, SetupError, overlay
from tools.reports.markdown import table
from tools.scripts import find
from tools.usage import unknown

MODULES = ("audio", "curated", "litgpt", "vision")
AGREE = 1e-12  # relative RMSE in fp64

HEAD = """\
# Independent implementations

The golden values of a script repeat what transformers gave when they were stored.
`nox -s crosscheck` asks others: it gives the tiny model of a script and an implementation of the
same architecture that shares no code with transformers the same random weights and inputs, and
compares what they compute in fp64. Where they agree, the registry has the family as `confirmed`.
Some packages exclude the versions of this environment though they work with them, so they lie in
a folder of their own (the group `crosscheck` in pyproject.toml).

"""


@dataclass(frozen=True)
class Result:
    """What came of a peer: the largest relative RMSE of an output, or why there is none."""

    peer: Peer
    version: str
    outputs: tuple[str, ...] = ()
    error: float = float("nan")
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether all outputs are the same but for rounding."""
        return self.error <= AGREE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the peers of some families, or of all; exit code 1 where one does not agree."""
    parser = argparse.ArgumentParser(prog="python -m crosscheck", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="family")
    parser.add_argument("--scripts", type=Path, default=ROOT / "fixed_tests", metavar="PATH")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "crosscheck.md")
    options = parser.parse_args(arguments)
    try:
        load_peers()
    except SetupError as error:
        parser.error(str(error))
    for family in options.families:
        if family not in PEERS:
            parser.error(unknown("family with a peer", family, PEERS))
    results = []
    for family in sorted(options.families or PEERS):
        results.append(run(PEERS[family], options.scripts))
        print(f"{family}: {told(results[-1])}", flush=True)
    mark(results, options.output.with_suffix(".json"))
    if not options.families:
        options.output.write_text(render(results), "utf-8")
    wrong = [result.peer.family for result in results if not result.agrees]
    print(f"{len(results) - len(wrong)} of {len(results)} agree")
    return 1 if wrong else 0


def load_peers() -> None:
    """Register all peers. What they need lies below the environment, whose versions come first.

    Raises:
        SetupError: the packages cannot be installed.
    """
    wanted = nox.project.dependency_groups(
        nox.project.load_toml(ROOT / "pyproject.toml"), "crosscheck"
    )
    sys.path.append(str(overlay("crosscheck", wanted)))
    for name in MODULES:
        importlib.import_module(f"crosscheck.{name}")


def run(peer: Peer, scripts: Path) -> Result:
    """Compare a peer with the model of its family's script."""
    version = importlib.metadata.version(peer.package)
    try:
        script = load(find(scripts)[peer.family])
        ours = Ours(script, peer)
        found = peer.compare(ours)
        errors = [
            script.rmse(value, ours.outputs[n]) / script.rms(value) for n, value in found.items()
        ]
    except Exception as error:  # of whatever kind: the peer does not confirm
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        return Result(peer, version, problem=problem)
    return Result(peer, version, tuple(found), max(errors))


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def mark(results: Sequence[Result], file: Path) -> None:
    """Write into the registry, and for the reports into `file`, what is confirmed by what."""
    entries = registry.read()
    for result in results:
        by = {result.peer.package: result.version} if result.agrees else {}
        entries[result.peer.family] = replace(entries[result.peer.family], confirmed=by)
    registry.write(entries)
    confirmed = {family: entry.confirmed for family, entry in entries.items() if entry.confirmed}
    file.write_text(json.dumps(confirmed, indent=1, sort_keys=True) + "\n", "utf-8")


def told(result: Result) -> str:
    """The result in a line."""
    if result.problem:
        return f"not compared with {result.peer.package}: {result.problem}"
    verb = "agrees" if result.agrees else "does not agree"
    outputs = ", ".join(result.outputs)
    return f"{outputs} {verb} with {result.peer.package} {result.version} ({result.error:.0e})"


def render(results: Sequence[Result]) -> str:
    """The page of all results."""
    those = [result for result in results if result.agrees]
    rows = [
        [
            f"`{r.peer.family}`",
            f"{r.peer.package} {r.version}",
            ", ".join(f"`{name}`" for name in r.outputs),
            f"{r.error:.0e}",
            ", ".join(f"`{k}` = {v}" for k, v in r.peer.changes.items()),
        ]
        for r in those
    ]
    header = ["family", "agrees with", "outputs", "relative RMSE", "where the configuration has"]
    libraries = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch")
    )
    parts = [HEAD, f"{len(those)} families of {libraries} are confirmed.\n\n", table(header, rows)]
    others = [f"- {r.peer.family}: {told(r)}\n" for r in results if not r.agrees]
    if others:
        parts += ["\n## Not confirmed\n\n", *others]
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
