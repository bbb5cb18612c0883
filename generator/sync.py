"""Brings a folder of scripts in line with what was rendered, or says what is not: one code path.

The folder is compared file by file, byte by byte, and as a set. A file without our banner is
another's: it is neither overwritten nor deleted.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generator import BANNER, ROOT, GeneratorError

SCRIPTS = ROOT / "fixed_tests"
OURS_BY_HAND = {"README.md"}  # what may be in the folder without being generated
SHOWN_FILES, SHOWN_LINES = 5, 30  # how much of the differences is worth reading


class SyncError(GeneratorError):
    """A file in the way that was not generated."""


@dataclass(frozen=True)
class Change:
    """What has to happen to a file: `old` becomes `new`; None is the absence of the file."""

    path: Path
    old: str | None
    new: str | None


def changes(files: Mapping[str, str], folder: Path, complete: bool) -> list[Change]:
    """What brings `folder` in line with `files`; where they are `complete`, others are orphans.

    Raises:
        SyncError: a file that would have to change was not generated.
    """
    found = {path.name for path in folder.glob("[!.]*") if path.is_file()} - OURS_BY_HAND
    needed: list[Change] = []
    for name in sorted(files.keys() | found if complete else files):
        path, new = folder / name, files.get(name)
        old = path.read_bytes().decode(errors="replace") if path.exists() else None
        if old == new:
            continue
        if old is not None and not any(line.startswith(BANNER) for line in old.splitlines()):
            verb = "delete" if new is None else "overwrite"
            raise SyncError(f"Refusing to {verb} non-generated file {path}; move it away")
        needed.append(Change(path, old, new))
    return needed


def apply(needed: list[Change]) -> None:
    """Make the changes, each atomically."""
    for change in needed:
        if change.new is None:
            change.path.unlink()
            continue
        change.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = change.path.with_name(f".{change.path.name}.new")
        temporary.write_bytes(change.new.encode())
        temporary.replace(change.path)


def describe(needed: list[Change]) -> str:
    """The changes as a diff of bounded length."""
    lines: list[str] = []
    for change in needed[:SHOWN_FILES]:
        old, new = (change.old or "").splitlines(), (change.new or "").splitlines()
        if change.old is None or change.new is None:
            what = "is missing" if change.old is None else "belongs to no family"
            lines.append(f"{change.path.name} {what}")
            continue
        diff = list(
            difflib.unified_diff(old, new, f"{change.path.name}", "as rendered", n=1, lineterm="")
        )
        lines += diff[:SHOWN_LINES]
        lines += [f"… {len(diff) - SHOWN_LINES} more lines"] if len(diff) > SHOWN_LINES else []
    if len(needed) > SHOWN_FILES:
        lines.append(f"… {len(needed) - SHOWN_FILES} more files")
    return "\n".join(lines)
