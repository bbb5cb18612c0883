"""Upgrade: `constraints.txt` gets the newest release of a package, and of what that asks for.

The rest keeps its versions. pip decides what fits together; nothing is installed: the next session
builds the environment anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.results import replace
from tools.scripts import ROOT
from tools.usage import UsageError, plain

PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<rest>.*)$")


def main(options: argparse.Namespace) -> int:
    """`python -m tools upgrade PACKAGE …`: 0, with the changes told; on GitHub also as outputs."""
    path = ROOT / "constraints.txt"
    text = path.read_text(encoding="utf-8")
    changed = upgraded(text, options.packages, resolve(text, options.packages))
    for name, (old, new) in changed.items():
        print(f"{name}: {old} -> {new}")
    if not changed:
        print(f"{', '.join(options.packages)}: there is nothing newer")
    replace(path, rewritten(text, changed).encode())
    if output := os.environ.get("GITHUB_OUTPUT"):
        pairs = [changed.get(name, ("", "")) for name in options.packages]
        old, new = (" ".join(pair[side] for pair in pairs) for side in (0, 1))
        with Path(output).open("a", encoding="utf-8") as file:
            file.write(f"changed={str(bool(changed)).lower()}\nold={old}\nnew={new}\n")
    return 0


def resolve(constraints: str, packages: list[str]) -> list[dict[str, Any]]:
    """What pip would install for the newest `packages` beside all else, as its report says.

    What the packages ask for themselves is free to change. Errors: UsageError with pip's words.
    """
    free = {normal(name) for name in [*packages, *_required(packages)]}
    kept = [
        line
        for line in constraints.splitlines()
        if (pin := PIN.match(line)) and normal(pin["name"]) not in free
    ]
    with tempfile.TemporaryDirectory() as scratch:
        bounds, report = Path(scratch) / "constraints.txt", Path(scratch) / "report.json"
        bounds.write_text("\n".join(kept), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        command += ["--dry-run", "--ignore-installed", "--report", str(report)]
        command += ["--constraint", str(bounds), *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = plain((done.stderr.strip().splitlines() or ["no reason given"])[0], 400)
            raise UsageError(f"upgrade: pip finds no versions that fit together: {told}")
        found: list[dict[str, Any]] = json.loads(report.read_bytes())["install"]
    return found


def _required(packages: list[str]) -> list[str]:
    """What the installed `packages` ask for, by name."""
    from importlib.metadata import PackageNotFoundError, requires

    found = []
    for package in packages:
        try:
            found += [re.split(r"[\s<>=!~;\[(]", each)[0] for each in requires(package) or ()]
        except PackageNotFoundError:
            continue
    return found


def upgraded(
    constraints: str, packages: list[str], report: list[dict[str, Any]]
) -> dict[str, tuple[str, str]]:
    """Name -> (old, new) version of each pin of `constraints` that the report changes.

    Errors: UsageError for a package that has no pin.
    """
    pins = {normal(pin["name"]): pin for pin in map(PIN.match, constraints.splitlines()) if pin}
    for package in packages:
        if normal(package) not in pins:
            raise UsageError(f"upgrade: constraints.txt has no line for {package}")
    found = {}
    for each in report:
        metadata = each["metadata"]
        pin = pins.get(normal(metadata["name"]))
        if pin and pin["version"] != metadata["version"]:
            found[pin["name"]] = (pin["version"], metadata["version"])
    return found


def rewritten(constraints: str, changed: dict[str, tuple[str, str]]) -> str:
    """`constraints` with the changed versions; every other line is as it was."""
    lines = []
    for line in constraints.splitlines(keepends=True):
        pin = PIN.match(line)
        old, new = changed.get(pin["name"], ("", "")) if pin else ("", "")
        lines.append(line.replace(f"=={old}", f"=={new}", 1) if new else line)
    return "".join(lines)


def normal(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
