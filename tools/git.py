"""Git, as the tools call it: what it refuses is an error of those who use them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.scripts import ROOT
from tools.usage import UsageError, plain


def git(
    *words: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    hint: str = "mend that, and call it again: nothing is lost",
) -> bytes:
    """What a Git command prints, run in `folder`, by default this repository.

    Errors: UsageError with what Git says, and the `hint`.
    """
    done = subprocess.run(
        ["git", *words],
        cwd=folder or ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        told = plain(done.stderr.decode(errors="replace").strip().replace("\n", " "), 400)
        raise UsageError(f"git {words[0]}: {told}; {hint}")
    return done.stdout
