"""The history of runs: what changed, with what, which runs are kept, and what fails in CI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.matrix_factory import Results, checks, full_results
from tools.__main__ import main
from tools.history import ALL_FAMILIES, RECENT, Change, History, load

NIGHTS = 12


def run_id(night: int) -> str:
    return f"202611{night + 1:02}T020000Z-aaaaaa"


def nights(folder: Path, **latest: Any) -> Results:
    """Nights of one family; `latest` are the changes of the last RECENT ones."""
    made = Results(folder)
    random = np.random.default_rng(0)
    for night in range(NIGHTS):
        changes: dict[str, Any] = {"latency": (0.005 * np.exp(random.normal(0, 0.005, 3))).tolist()}
        found = checks()
        if night >= NIGHTS - RECENT:
            changes |= latest
            changes["latency"] = [x * latest.get("slower", 1) for x in changes["latency"]]
            changes.pop("slower", None)
            found = changes.pop("found", found)
        made.run(run_id(night), {"bert": found}, **changes)
    return made


def history(made: Results) -> History:
    made.matrix()
    return load(made.database)


def command(made: Results, *words: str) -> int:
    none = made.folder.parent / "expectations.toml"
    none.touch()
    where = ["--results", str(made.folder), "--database", str(made.database)]
    where += ["--expectations", str(none)]
    return main(["history", *where, *words])


def new_packages() -> dict[str, Any]:
    packages = {"torch": "2.14.1", "transformers": "5.24.0"}
    return {"python": "3.11.7", "platform": "Linux-6.1", "threads": 2, "packages": packages}


def test_a_slower_family_is_found_with_what_changed_in_its_environment(tmp_path: Path) -> None:
    past = history(nights(tmp_path, slower=1.2, environment=new_packages()))
    [change] = past.changes
    assert (change.family, change.measure, change.kind, change.worse) == (
        *("bert", "latency", "step"),
        True,
    )
    assert past.runs[change.run].run_id == run_id(NIGHTS - RECENT)
    assert past.runs[change.before_run].run_id == run_id(NIGHTS - RECENT - 1)
    assert change.causes == ("transformers 5.23.0 → 5.24.0",)
    assert change.text.startswith("latency is +")
    assert past.recent == [change]


def test_a_verdict_that_flips_is_told(tmp_path: Path) -> None:
    past = history(nights(tmp_path, found=checks(golden="fail")))
    [change] = past.changes
    assert (change.measure, change.text) == ("verdict", "verdict pass → unexpected")
    assert change.causes == ()
    assert past.recent == [change]


def test_what_gets_better_is_no_regression(tmp_path: Path) -> None:
    past = history(nights(tmp_path, slower=0.8))
    [change] = past.changes
    assert not change.worse
    assert past.recent == []


def test_a_slow_machine_is_told_once_and_not_for_each_family(tmp_path: Path) -> None:
    made = Results(tmp_path)
    random = np.random.default_rng(0)
    families = ("bert", "roberta", "electra", "gpt2", "llama", "t5")
    for night in range(NIGHTS):
        machine = 1.5 if night >= 6 else 1.0
        latency = [0.005 * machine * float(np.exp(random.normal(0, 0.003)))]
        made.run(run_id(night), dict.fromkeys(families, checks()), latency=latency)
    [change] = history(made).changes
    assert (change.family, change.measure) == (ALL_FAMILIES, "latency")
    assert change.text == "latency is +50.0%" or abs(change.after / change.before - 1.5) < 0.02


def test_regressions_fail_the_command_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = nights(tmp_path, slower=1.2)
    made.matrix()
    assert command(made) == 0
    assert command(made, "--fail-on-regression") == 1
    told = capsys.readouterr().out
    assert "1 regressions in the last 3 runs:\n  bert on cpu: latency is +" in told
    assert "changed with it: nothing else that the records know of" in told


def test_an_old_regression_does_not_fail_each_night_after_it(tmp_path: Path) -> None:
    made = nights(tmp_path, slower=1.2)
    for night in range(NIGHTS, NIGHTS + RECENT):
        made.run(run_id(night), {"bert": checks()}, latency=[0.006])
    made.matrix()
    assert command(made, "--fail-on-regression") == 0


def test_runs_are_tagged_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = nights(tmp_path)
    made.run("20261101T000000Z-bbbbbb", {"t5": checks()})  # old, but it decides a cell
    made.matrix()
    assert command(made, "--tag", "release-1.0", "--run", run_id(2)) == 0
    assert command(made, "--prune", "3") == 0
    kept = sorted(path.name for path in made.folder.iterdir())
    assert kept == ["20261101T000000Z-bbbbbb", run_id(2), *map(run_id, range(9, 12))]
    told = capsys.readouterr().out
    assert f"{run_id(2)} is tagged release-1.0" in told
    assert "1/1 on cpu: 1 pass [release-1.0]" in told
    assert told.count("deleted ") == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tag", "a b"], "--tag 'a b': use up to 40 letters"),
        (["--tag", "x", "--run", "../elsewhere"], "unknown run '../elsewhere'"),
        (["--prune", "-1"], "-1 is negative"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    made = full_results(tmp_path)
    made.matrix()
    before = sorted(made.folder.rglob("*"))
    try:
        code = command(made, *words)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert told in capsys.readouterr().err
    assert sorted(made.folder.rglob("*")) == before


def test_without_a_database_the_command_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(Results(tmp_path)) == 1
    assert "run `nox -s matrix` first" in capsys.readouterr().err


def test_an_unfinished_run_is_listed_as_such(tmp_path: Path) -> None:
    past = history(full_results(tmp_path))
    assert [run.state for run in past.runs] == ["complete", "complete", "incomplete"]
    assert not any(isinstance(change, Change) for change in past.changes)
