"""The set-up: the one environment, and the commands that run in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import filelock
import nox.registry
import pytest

import noxfile
from tools.environment import OWN_PYTHON, ROOT, STAMP, Environment, SetupError, interpreter

ENSURE = (
    "import pathlib, sys; from tools.environment import Environment; "
    "Environment.of(pathlib.Path(sys.argv[1])).ensure()"
)
METADATA = "Metadata-Version: 2.1\nName: brick\nVersion: {}\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENDLESS = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


# The environment: built for real, by pip, from packages that lie in a folder.


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that needs `brick`, of which there are 1.0, 2.0, and a 3.0 that never ends."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for version in ("1.0", "2.0"):
        with zipfile.ZipFile(packages / f"brick-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("brick.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"brick-{version}.dist-info/METADATA", METADATA.format(version))
            wheel.writestr(f"brick-{version}.dist-info/WHEEL", WHEEL)
            wheel.writestr(f"brick-{version}.dist-info/RECORD", "")
    midway = str(tmp_path / "midway")
    backend = f"import pathlib, time\npathlib.Path({midway!r}).touch()\ntime.sleep(600)\n"
    sources = {"PKG-INFO": METADATA.format("3.0"), "pyproject.toml": ENDLESS, "backend.py": backend}
    with tarfile.open(packages / "brick-3.0.tar.gz", "w:gz") as archive:
        for name, text in sources.items():
            entry = tarfile.TarInfo(f"brick-3.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, BytesIO(text.encode()))
    root = tmp_path / "repository"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["brick"]\n[dependency-groups]\ndev = []\n'
    )
    pin(root, "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", packages.as_uri())
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return root


def pin(root: Path, version: str) -> None:
    """Make `version` the tested one of the `repository`."""
    (root / "constraints.txt").write_text(f"brick=={version}\n")


def brick(environment: Environment) -> str:
    """The version of the package in a built environment."""
    command = [environment.python, "-c", "import brick; print(brick.VERSION)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_two_at_once_build_once_and_a_third_finds_it_ready(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", ENSURE, str(repository)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = "".join(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("Building") == 1
    capfd.readouterr()
    environment = Environment.of(repository)
    assert environment.ensure() == environment.python
    assert brick(environment) == "1.0"
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process group")
def test_a_build_that_was_killed_is_done_again_from_scratch(repository: Path) -> None:
    pin(repository, "3.0")
    command = [sys.executable, "-c", ENSURE, str(repository)]
    building = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    patience = time.monotonic() + 60
    while not (repository.parent / "midway").exists():
        assert building.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.05)
    os.killpg(building.pid, signal.SIGKILL)
    building.wait()

    environment = Environment.of(repository)
    assert environment.python.exists()
    assert not environment.is_ready()
    stray = environment.folder / "stray"
    stray.touch()
    pin(repository, "2.0")
    environment.ensure()
    assert brick(environment) == "2.0"
    assert not stray.exists()

    pin(repository, "1.0")
    assert not environment.is_ready(), "other versions, another environment"
    pin(repository, "2.0")
    assert environment.is_ready()
    environment.python.unlink()
    assert not environment.is_ready(), "the Python behind it is gone"


def test_a_failed_install_says_what_to_do(repository: Path) -> None:
    pin(repository, "4.0")
    environment = Environment.of(repository)
    with pytest.raises(SetupError, match="could not install the packages") as failure:
        environment.ensure()
    assert f"{OWN_PYTHON}=/path/to/python" in str(failure.value)
    assert not environment.is_ready()
    with filelock.FileLock(environment.folder.with_suffix(".lock"), blocking=False):
        pass  # a failed build lets go of the lock


def test_an_environment_does_not_rebuild_itself(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment.of(repository)
    environment.folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(environment.folder))
    with pytest.raises(SetupError, match="cannot be rebuilt from the Python inside it"):
        environment.ensure()
    assert environment.folder.exists()


def test_fingerprint_follows_what_is_installed_and_nothing_else(repository: Path) -> None:
    environment = Environment.of(repository)
    before = environment.fingerprint
    (repository / "constraints.txt").write_text("# why\n\nbrick==1.0  # and why\n")
    assert environment.fingerprint == before
    (repository / "constraints.txt").write_text("brick==1.0\nmortar==1.0\n")
    assert environment.fingerprint != before
    pin(repository, "1.0")
    project = repository / "pyproject.toml"
    project.write_text(project.read_text().replace("dev = []", 'dev = ["mortar"]'))
    assert Environment.of(repository).fingerprint != before


def test_a_stamp_counts_only_with_these_requirements(repository: Path) -> None:
    environment = Environment.of(repository)
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    assert not environment.is_ready()
    stamp = environment.folder / STAMP
    stamp.write_text(environment.fingerprint[:20])
    assert not environment.is_ready()
    stamp.write_text(environment.fingerprint)
    assert environment.is_ready()


def test_own_python_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(OWN_PYTHON, sys.executable)
    assert interpreter() == sys.executable
    absent = tmp_path / "python"
    monkeypatch.setenv(OWN_PYTHON, str(absent))
    with pytest.raises(SetupError, match=f"{OWN_PYTHON}={re.escape(str(absent))} is not a program"):
        interpreter()


# The commands.


def test_every_session_says_what_it_does() -> None:
    assert [name for name, session in nox.registry.get().items() if not session.func.__doc__] == []


def test_sessions_that_change_files_are_not_the_default() -> None:
    assert nox.options.sessions == ["lint", "check", "tests"]
    assert set(nox.options.sessions) <= set(nox.registry.get())


def test_sessions_lie_in_the_shared_environment() -> None:
    assert nox.options.default_venv_backend == "none"
    assert Path(noxfile.__file__).parent == ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_help_lists_all_targets() -> None:
    command = ["make", "--no-print-directory", "help"]  # silent under another make, too
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert [line.split()[0] for line in done.stdout.splitlines()] == targets[1].split()


def test_make_wraps_sessions_that_exist() -> None:
    found = re.findall(r"^\t\$\(NOX\) -s ([a-z ]+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    assert {name for names in found for name in names.split()} <= set(nox.registry.get())
