"""A run can be divided among machines, and only what is whole is put together again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tools_fixtures import Place, edit_json

from tools import results, schedule
from tools.__main__ import main

FAMILIES = ("alpha", "beta", "gamma", "delta", "epsilon")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three parts of a run of five families, of which one fails."""
    place = Place(tmp_path_factory.mktemp("shards"))
    for family in FAMILIES:
        place.script(family, forward="assert False, 'wrong'" if family == "gamma" else "")
    for index in (1, 2, 3):
        place.matrix("--shard", f"{index}/3", "--output", str(place.results.parent))
    return place


@pytest.fixture
def place(ran: Place, tmp_path: Path) -> Place:
    """A copy of the parts, to be damaged."""
    subprocess.run(["cp", "-r", f"{ran.results.parent}/.", str(tmp_path)], check=True)
    copy = object.__new__(Place)
    for name, path in vars(ran).items():
        setattr(copy, name, tmp_path / path.name)
    return copy


def part(place: Place, index: int) -> Path:
    """The run folder of a part."""
    for manifest in place.results.glob("*/manifest.json"):
        if json.loads(manifest.read_text()).get("shard", {}).get("index") == index:
            return manifest.parent
    raise AssertionError(index)


def combine(place: Place, *more: str) -> int:
    return main(["combine", *place.flags(*more)])


def test_the_parts_make_the_whole_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    names = [{p.stem for p in part(place, index).glob("*-cpu.json")} for index in (1, 2, 3)]
    assert sorted(map(len, names)) == [1, 2, 2]
    assert combine(place) == 1  # gamma fails, as it would in one run
    assert "fail forward: wrong" in capsys.readouterr().out
    run = place.run()
    assert run.complete
    assert run.records.keys() == {f"{family}-cpu" for family in FAMILIES}
    assert run.manifest["shards"] == [part(place, index).name for index in (1, 2, 3)]
    assert len(list((run.folder / "logs").iterdir())) == len(FAMILIES)
    rows = place.query(
        f"SELECT count(*), any_value(log) FROM records WHERE run_id = '{run.folder.name}'"
    )
    assert rows[0][0] == len(FAMILIES)
    assert (place.results / rows[0][1]).exists()


def test_parts_may_come_from_elsewhere(place: Place, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for index in (1, 2, 3):
        part(place, index).rename(downloads / f"part-{index}")
        folder = downloads / f"artifact-{index}"
        folder.mkdir()
        manifest = json.loads((downloads / f"part-{index}" / "manifest.json").read_text())
        (downloads / f"part-{index}").rename(folder / manifest["run_id"])
    assert combine(place, str(downloads)) == 1
    assert [path.name for path in place.results.iterdir()] == [place.run().folder.name]


def test_a_part_that_is_missing_is_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["rm", "-r", str(part(place, 2))], check=True)
    assert combine(place) == 2
    assert "of 3 parts are missing: --shard 2/3" in capsys.readouterr().err


def test_a_part_is_not_taken_twice(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.matrix("--shard", "2/3", "--output", str(place.results.parent))
    assert combine(place) == 2
    assert "part 2/3 is there twice" in capsys.readouterr().err


def test_parts_of_different_runs_are_not_mixed(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.matrix("--shard", "1/2", "--family", "alpha,beta")
    assert combine(place) == 2
    assert "of 2 parts are missing: --shard 2/2" in capsys.readouterr().err
    place.matrix("--shard", "2/2", "--family", "alpha,beta")
    assert combine(place) == 1
    combined = place.query(
        "SELECT asked FROM runs WHERE (manifest->'$.shards') IS NOT NULL ORDER BY asked"
    )
    assert combined == [(2,), (5,)]


def test_mixed_versions_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = part(place, 3) / "manifest.json"
    versions = json.loads(manifest.read_text())["versions"]
    edit_json(manifest, versions=versions | {"torch": "1.0"})
    assert combine(place) == 2
    assert "different software: torch" in capsys.readouterr().err


def test_jobs_in_two_parts_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = part(place, 1) / "manifest.json", part(place, 2) / "manifest.json"
    jobs = [json.loads(path.read_text())["jobs"] for path in (first, second)]
    edit_json(second, jobs=[*jobs[1], jobs[0][0]])
    assert combine(place) == 2
    assert "is in two parts" in capsys.readouterr().err


def test_a_part_that_has_not_ended_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (part(place, 1) / "footer.json").unlink()
    assert combine(place) == 2
    assert "has not ended" in capsys.readouterr().err


def test_a_record_that_is_lost_makes_no_complete_run(place: Place) -> None:
    next(part(place, 1).glob("*-cpu.json")).unlink()
    assert combine(place) == 1
    assert not place.run().complete


def test_what_is_no_part_is_said(
    tmp_path: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert combine(place, str(tmp_path / "empty")) == 2
    assert "no part of a run" in capsys.readouterr().err
    assert combine(place, str(tmp_path / "nowhere")) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_an_impossible_part_is_refused(place: Place, flag: str) -> None:
    with pytest.raises(SystemExit) as ended:
        place.matrix("--shard", flag)
    assert ended.value.code == 2


def test_more_parts_than_jobs_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.matrix("--shard", "1/9") == 2
    assert "only 5 jobs" in capsys.readouterr().err


def test_shares_take_about_as_long_as_each_other() -> None:
    seconds = {f"job {n}": float(n % 17 + 1) for n in range(200)}
    shares = schedule.shares(seconds, 8)
    assert sorted(name for share in shares for name in share) == sorted(seconds)
    totals = [sum(seconds[name] for name in share) for share in shares]
    assert max(totals) - min(totals) <= 1
    assert shares == schedule.shares(dict(reversed(seconds.items())), 8)


def test_published_durations_are_read_and_may_be_absent(tmp_path: Path) -> None:
    assert schedule.published_seconds(tmp_path) == {}
    cells = {"cpu": {"seconds": 2.5}, "cuda:1": {"seconds": None}}
    published = {"families": [{"family": "bert", "cells": cells}]}
    (tmp_path / "matrix.json").write_text(json.dumps(published))
    assert schedule.published_seconds(tmp_path) == {"bert-cpu": 2.5}


def test_only_the_changed_scripts_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        subprocess.run(command, cwd=place.scripts, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "scripts")
    assert place.matrix("--changed", "HEAD") == 0
    assert "no script that was asked for differs from HEAD" in capsys.readouterr().err
    place.script("beta", forward="1 + 1")
    assert place.matrix("--changed", "HEAD") == 0
    assert place.run().records.keys() == {"beta-cpu"}
    assert place.matrix("--changed", "nowhere") == 2
    assert "git fetch" in capsys.readouterr().err


def test_github_shows_what_is_unexpected_beside_the_script(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    place.script("gamma", forward="assert False, '100 % wrong' + chr(10) + '::error::more'")
    place.matrix("--family", "gamma")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert told == [
        "::error file=fixed_tests/test_hf_gamma.py,title=gamma-cpu::fail forward: 100 %25 wrong"
    ]
    assert results.worst(place.record("gamma-cpu")) == "fail"
