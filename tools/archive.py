"""Archive: the runs in results/ are kept on a branch of the Git remote, where a CI has no disk.

The branch holds the newest runs in one commit without parents, so that the repository does not grow
with each night. Nobody's runs are lost: what is on the branch and not here is fetched first, and a
branch that somebody else has changed meanwhile is not overwritten.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
from pathlib import Path

from tools.git import git
from tools.usage import UsageError

REMOTE = "origin"
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Proving Ground"), ("EMAIL", "proving-ground@localhost"))
}


def main(options: argparse.Namespace) -> int:
    """`python -m tools archive [--push]`: fetch the runs; with `push` also send them."""
    there = _remote_head(options.branch)
    fetched = fetch(there, options.results) if there else 0
    print(f"{fetched} runs fetched from the branch {options.branch} of {REMOTE}")
    if options.push:
        runs = sorted(path.parent.name for path in options.results.glob("*/manifest.json"))
        kept = runs[-options.keep :]
        if not kept:
            raise UsageError(f"{options.results} has no run; `nox -s matrix` makes one")
        send(kept, options.results, options.branch, there)
        print(f"{len(kept)} runs on the branch {options.branch} of {REMOTE}, {kept[-1]} the last")
    return 0


def fetch(commit: str, folder: Path) -> int:
    """Add the runs of `commit` that are not in the results `folder`; how many there were."""
    git("fetch", "--quiet", "--depth", "1", REMOTE, commit)
    folder.mkdir(parents=True, exist_ok=True)
    names = set(git("ls-tree", "--name-only", commit).decode().split())
    fresh = sorted(name for name in names if not (folder / name).exists())
    if fresh:
        data = git("archive", commit, "--", *fresh)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder, filter="data")  # refuses what would land elsewhere
    return len(fresh)


def send(runs: list[str], folder: Path, branch: str, there: str | None) -> None:
    """Make the `branch` of the remote hold the `runs`, if it still is at commit `there`.

    Errors: UsageError where somebody else has changed it.
    """
    folder = folder.resolve()
    location = {"GIT_DIR": git("rev-parse", "--absolute-git-dir").decode().strip()}
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index"), **location, **IDENTITY}
        files = {"GIT_WORK_TREE": str(folder), **index}
        git("add", "--force", "--", *runs, folder=folder, environment=files)
        tree = git("write-tree", environment=index).decode().strip()
        message = f"{len(runs)} runs of the matrix, {runs[-1]} the last"
        commit = git("commit-tree", tree, "-m", message, environment=index).decode().strip()
    lease = f"--force-with-lease=refs/heads/{branch}:{there or ''}"
    git("push", "--quiet", lease, REMOTE, f"{commit}:refs/heads/{branch}")


def _remote_head(branch: str) -> str | None:
    """The commit of the remote's `branch`; None where it has none of that name."""
    found = git("ls-remote", REMOTE, f"refs/heads/{branch}").decode().split()
    return found[0] if found else None
