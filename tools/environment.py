"""The one virtual environment of this repository, `.nox/env`: built if needed, kept while it fits.

Every Nox session runs in it. It fits as long as the requirements (`pyproject.toml`), the tested
versions (`constraints.txt`) and the kind of Python are those that it was built for; they are
hashed into a stamp, which is written last. So an interrupted build has no stamp, and is done again
from scratch. Imported by `noxfile.py`, hence needs no more than what comes with Nox.

As a program it prints the versions that its Python has, as the lines of `constraints.txt`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import filelock
import nox.project
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
OWN_PYTHON = "PROVING_GROUND_PYTHON"
STAMP = "proving-ground.stamp"


class SetupError(Exception):
    """There is no environment to run in; the message says why, and what to do next."""


def interpreter() -> str:
    """Path of the Python that all sessions run: the user's own, or the one of `.nox/env`.

    Raises:
        SetupError: the user's own is no program, or `.nox/env` could not be built.
    """
    own = os.environ.get(OWN_PYTHON)
    if not own:
        return str(Environment.of(ROOT).ensure())
    found = shutil.which(str(Path(own).expanduser()))
    if found is None:
        raise SetupError(
            f"{OWN_PYTHON}={own} is not a program. Give the path of a Python that has the packages "
            "of pyproject.toml, or unset it to have .nox/env built"
        )
    return str(Path(found).absolute())


@dataclass(frozen=True)
class Environment:
    """What `.nox/env` of a repository has to be, and how to make it so."""

    folder: Path
    requirements: tuple[str, ...]
    constraints: Path

    @classmethod
    def of(cls, root: Path) -> Environment:
        """The environment that the `pyproject.toml` and `constraints.txt` in `root` ask for."""
        project = nox.project.load_toml(root / "pyproject.toml")
        requirements = (
            *project["project"]["dependencies"],
            *nox.project.dependency_groups(project, "dev"),
        )
        return cls(root / ".nox" / "env", requirements, root / "constraints.txt")

    @property
    def python(self) -> Path:
        """The interpreter of the environment, whether built yet or not."""
        windows = sys.platform == "win32"
        return self.folder / ("Scripts/python.exe" if windows else "bin/python")

    @property
    def fingerprint(self) -> str:
        """Hash of all that the environment depends on; comments and order make no difference."""
        lines = self.constraints.read_text(encoding="utf-8").splitlines()
        pins = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
        facts = {
            "requirements": sorted(self.requirements),
            "constraints": sorted(filter(None, pins)),
            "python": [sys.implementation.cache_tag, sysconfig.get_platform()],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def is_ready(self) -> bool:
        """Whether a finished build for just these requirements is there, with its interpreter."""
        stamp = self.folder / STAMP
        # The interpreter is a link, which dangles when the Python behind it was removed.
        return (
            self.python.exists() and stamp.exists() and stamp.read_text("utf-8") == self.fingerprint
        )

    def ensure(self) -> Path:
        """Build the environment unless it is ready; return its interpreter.

        Two at once are safe: the second waits, then finds it ready.

        Raises:
            SetupError: the build failed.
        """
        if not self.is_ready():
            self.folder.parent.mkdir(exist_ok=True)
            lock = filelock.FileLock(self.folder.with_suffix(".lock"))
            try:
                held = lock.acquire(blocking=False)
            except filelock.Timeout:
                print(f"Waiting for another build of {self.folder} …", flush=True)
                held = lock.acquire()
            with held:
                if not self.is_ready():
                    self._build()
        return self.python

    def _build(self) -> None:
        if Path(sys.prefix).resolve() == self.folder.resolve():
            raise SetupError(
                f"{self.folder} no longer fits pyproject.toml and constraints.txt, and cannot be "
                "rebuilt from the Python inside it. Use `make`, or a Nox of another environment"
            )
        print(f"Building {self.folder}: once, some minutes and gigabytes (torch) …", flush=True)
        fingerprint = self.fingerprint  # of what is installed, even if the files change meanwhile
        (self.folder / STAMP).unlink(missing_ok=True)  # first: to remove the rest takes a while
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._step("create the environment", [sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install"]
        self._step(
            "install the packages",
            [*pip, "--constraint", str(self.constraints), *self.requirements],
        )
        (self.folder / STAMP).write_text(fingerprint, encoding="utf-8")

    def _step(self, purpose: str, command: list[str]) -> None:
        status = subprocess.run(command, check=False).returncode
        if status:
            raise SetupError(
                f"could not {purpose} (exit code {status}, the cause is above)\n"
                "- Network or disk space: mend it and run the same command again; what was "
                "downloaded is not downloaded twice.\n"
                "- A package that this Python or system does not have: install the packages of "
                "pyproject.toml into an environment of your own and name its Python, "
                f"{OWN_PYTHON}=/path/to/python"
            )


def overlay(name: str, packages: Sequence[str]) -> Path:
    """A folder with these packages (`timm==1.0`) alone, to be put on the path of a Python.

    For what cannot be in the environment: other versions of what it has, packages whose ranges
    exclude its versions though they work with them. What they need is taken from the environment.

    Raises:
        SetupError: pip could not install them.
    """
    folder = ROOT / ".nox" / "overlays" / name
    stamp, wanted = folder / STAMP, "\n".join(sorted(packages))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"Installing {', '.join(packages)} into {folder} …", flush=True)
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
            options = ["--quiet", "--no-deps", "--target", str(folder)]
            if subprocess.run([*command, *options, *packages], check=False).returncode:
                raise SetupError(f"could not install {', '.join(packages)}: the cause is above")
            stamp.write_text(wanted, encoding="utf-8")
    return folder


def pins() -> Iterator[str]:
    """The installed versions; a pin that Python 3.10 could not follow holds from 3.11 on."""
    for package in distributions():
        name, python = package.metadata["Name"], package.metadata["Requires-Python"] or ""
        if name != "pip":
            newer = "3.10.99" not in SpecifierSet(python)
            yield f"{name}=={package.version}" + ' ; python_version >= "3.11"' * newer


if __name__ == "__main__":
    print(*sorted(pins(), key=str.lower), sep="\n")
