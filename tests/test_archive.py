"""The runs of results/ go to a branch of a Git remote and come back, and none is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import archive
from tools.__main__ import main

RUNS = [f"202601{day:02}T120000Z-abcdef" for day in (1, 2, 3)]


def git(*words: str, cwd: Path) -> str:
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone(remote: Path, name: str) -> Path:
    folder = remote.parent / name
    git("clone", str(remote), str(folder), cwd=remote.parent)
    return folder


def add(clone: Path, *runs: str) -> None:
    for run in runs:
        folder = clone / "results" / run
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(run)
        (folder / "bert-cpu.json").write_text("{}")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "remote.git"
    git("init", "--bare", str(folder), cwd=tmp_path)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def call(place: Path, *flags: str) -> int:
        monkeypatch.setattr("tools.git.ROOT", place)
        return main(["archive", "--results", str(place / "results"), *flags])

    return call


def runs(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "results").glob("[!.]*"))


def test_runs_go_and_come_back(remote: Path, call) -> None:  # type: ignore[no-untyped-def]
    first, second = clone(remote, "first"), clone(remote, "second")
    assert call(first) == 0  # there is no history yet
    add(first, *RUNS[:2])
    assert call(first, "--push") == 0
    add(second, RUNS[2])
    assert call(second, "--push") == 0
    assert runs(second) == RUNS
    assert (second / "results" / RUNS[0] / "bert-cpu.json").read_text() == "{}"
    assert call(first) == 0
    assert runs(first) == RUNS
    assert git("rev-list", "--count", "history", cwd=remote) == "1"  # the repository does not grow


def test_only_the_newest_are_kept(remote: Path, call) -> None:  # type: ignore[no-untyped-def]
    first, second = clone(remote, "first"), clone(remote, "second")
    add(first, *RUNS)
    assert call(first, "--push", "--keep", "2") == 0
    assert call(second) == 0
    assert runs(second) == RUNS[1:]
    assert runs(first) == RUNS


def test_what_somebody_else_sent_meanwhile_is_not_overwritten(
    remote: Path, call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    first, second = clone(remote, "first"), clone(remote, "second")
    add(first, RUNS[0])
    add(second, RUNS[1])
    send = archive.send

    def late(*arguments: object) -> None:
        monkeypatch.setattr(archive, "send", send)
        assert call(second, "--push") == 0
        monkeypatch.setattr("tools.git.ROOT", first)
        send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(archive, "send", late)
    assert call(first, "--push") == 2
    assert "git push" in capsys.readouterr().err
    assert call(first, "--push") == 0
    assert runs(first) == RUNS[:2]


def test_nothing_to_send_is_said(
    remote: Path, call, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    assert call(clone(remote, "first"), "--push") == 2
    assert "nox -s matrix" in capsys.readouterr().err
