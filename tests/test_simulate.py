"""The command `simulate`: what it learns from records, what it measures, and what it concludes."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools_fixtures import RUN_ID, Place, a_record, check

from tools import database, overhead, results, schedule
from tools import simulate as command
from tools.__main__ import main
from tools.overhead import Overhead
from tools.reports.scaling import Scaling, render_picture, render_scaling
from tools.results import Record
from tools.simulate import learn, study
from tools.usage import UsageError

FREE = Overhead(planning=0, preparing=0, starting=0, keeping=0, ingest=0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def took(family: str, seconds: float, *checks: dict[str, Any], **run: Any) -> dict[str, Any]:
    """A record of a script that took so long in a warm process; `run` is what the runner says."""
    record = a_record(family, *checks)
    record["run"] |= {"wall_seconds": seconds, "runner": "warm", "exit_code": 0, **run}
    return record


def retry(status: str) -> dict[str, Any]:
    facts = {"attempt": 1, "runner": None, "node": "east", "reason": "because", "exit_code": None}
    return {**facts, "status": status, "wall_seconds": None, "log": None}


def run_id(day: int) -> str:
    return f"{RUN_ID[:6]}{day:02}{RUN_ID[8:]}"


# What is learned.


def test_the_last_runs_tell_how_long_jobs_take(place: Place) -> None:
    place.write_run([took("alpha", 1), took("beta", 5)], run_id=run_id(1))
    place.write_run([took("alpha", 2)], run_id=run_id(2))
    place.write_run([took("alpha", 9)], run_id=run_id(3), checks=["forward"])
    history = learn(place.options("simulate"))
    assert history.seconds == {"alpha-cpu": [2, 1], "beta-cpu": [5]}, "not what a part of it took"
    assert history.ends == {"well": 3}


def test_what_did_not_run_or_is_not_asked_for_tells_nothing(place: Place) -> None:
    mock = took("mocked", 1, check("forward", "mock"), exit_code=3)
    mock |= {"inference": "mock", "missing": ["torch"], "proof": None}
    mock["measurements"] = {**mock["measurements"], "latency_seconds": []}
    place.write_run([mock, took("absent", 1, exit_code=4), took("alpha", 1), took("beta", 2)])
    assert learn(place.options("simulate")).seconds.keys() == {"alpha-cpu", "beta-cpu"}
    assert learn(place.options("simulate", "--family", "beta")).seconds.keys() == {"beta-cpu"}
    with pytest.raises(UsageError, match=r"no record of a script .* `nox -s matrix` makes some"):
        learn(place.options("simulate", "--device", "cuda"))


def test_warm_and_fresh_are_not_mixed(place: Place) -> None:
    place.write_run([took("alpha", 1), took("beta", 5, runner="fresh")])
    assert learn(place.options("simulate")).seconds == {"alpha-cpu": [1]}
    assert learn(place.options("simulate", "--runner", "fresh")).seconds == {"beta-cpu": [5]}


def test_start_up_is_what_passes_before_the_first_script(place: Place) -> None:
    first, second = took("alpha", 1), took("beta", 5)
    first["started"], second["started"] = "2026-01-01T12:00:09+00:00", "2026-01-01T12:00:07+00:00"
    crashed = took("gamma", 1, check("script", "crash"), exit_code=-11)  # it does not say when
    place.write_run([first, second, crashed])
    assert learn(place.options("simulate")).gaps == [(7, 3)]


def test_how_attempts_ended_is_counted(place: Place) -> None:
    records = [
        took("alpha", 3600, retries=[retry("crash"), retry("lost")]),
        took("beta", 3600, check("script", "timeout"), exit_code=-9),
        took("gamma", 0, check("script", "flaky"), retries=[retry("timeout")]),
    ]
    place.write_run(records)
    history = learn(place.options("simulate"))
    assert history.ends == {"well": 2, "crash": 1, "timeout": 2, "lost": 1}
    assert command._share(history, "timeout") == 2 / 5
    assert command._losses(history, at_once=2) == 1, "one in two hours of two jobs at once"


def test_a_broken_run_is_told_and_left_out(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write_run([took("alpha", 1)], run_id=run_id(1))
    (place.write_run([took("alpha", 9)], run_id=run_id(2)) / "manifest.json").write_text("{")
    assert learn(place.options("simulate")).seconds == {"alpha-cpu": [1]}
    assert f"{run_id(2)}/manifest.json: cannot be read" in capsys.readouterr().out


# What is measured.


def spent(place: Place, machines: int = 4) -> Overhead:
    """The overhead of three jobs."""
    records: dict[str, Record] = {name: took(name, 1) for name in ("a", "b", "c")}
    return overhead.measure(place.options("simulate"), records, machines, 1)


@pytest.mark.parametrize("machines", [1, 2, 4])
def test_the_real_runner_is_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    """Each part is made slower, which has to be seen in its number, and in no other."""
    for name in ("a", "b", "c"):
        place.script(name)
    place.results.mkdir()
    keep, place_job, ingest = results.write, schedule.assign, database.ingest
    kept = list[str]()

    def slow_keep(path: Path, document: Any, schema: str) -> None:
        if schema == "result":
            time.sleep(1)
            kept.append(document["family"])
        keep(path, document, schema)

    def slow_place(*arguments: Any) -> Any:
        placed = place_job(*arguments)
        time.sleep(2 * len(placed))
        return placed

    def slow_ingest(folder: Path, *arguments: Any) -> Any:
        time.sleep(3)
        found = ingest(folder, *arguments)
        assert not found.problems
        assert len(found.rows["records"]) == 3
        return found

    monkeypatch.setattr(results, "write", slow_keep)
    monkeypatch.setattr(schedule, "assign", slow_place)
    monkeypatch.setattr(database, "ingest", slow_ingest)
    found = spent(place, machines)
    assert sorted(kept) == ["a", "b", "c"]
    assert 1 <= found.keeping < 1.8
    assert 2 <= found.starting < 2.8
    assert 3 <= found.ingest < 6
    assert 0 < found.preparing <= found.planning < 2
    assert list(place.results.iterdir()) == [], "nothing is left"


# What is concluded.


def scaling(place: Place, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Scaling:
    """Of what is recorded, with a driver that costs nothing."""
    monkeypatch.setattr(overhead, "measure", lambda *_: FREE)
    options = place.options("simulate", "--jobs", "1", "--startup", "0", *flags)
    return study(options, learn(options))


@pytest.fixture
def four(place: Place) -> Place:
    """Four jobs of ten seconds each."""
    place.write_run([took(family, 10) for family in ("a", "b", "c", "d")])
    return place


def test_where_scaling_ends(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 times as quick with 4 machines or more: 8 give back half of what they cost, 9 less.
    found = scaling(four, monkeypatch, "--nodes", "1,4,64")
    assert [each.seconds for each in found.sweeps] == [40, 10, 10]
    assert found.most
    assert found.most.machines == 8
    text = render_scaling(found)
    assert "| 4 | 10.0 s | 10.0 – 10.0 | 4.0 | 100.0% | 0.0 s | 0.0 | 0.0 |\n" in text
    assert "| 4 | 0.0 | 0.0 | 10.0 | 0.0 | 0.0 | 0.0 | 1 | scripts |\n" in text
    assert "**Scaling ends at 8 machines**, 4.0 times as quick as one" in text
    assert "for each of the 4 jobs takes 10.0 s" in text
    assert "\n1. 10.0 s scripts: a script cannot be shared by several machines\n" in text
    assert "`nox -s simulate -- --nodes 1,4,64 --startup 0.0 --jobs 1`" in text


def test_where_scaling_does_not_end(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scaling(four, monkeypatch, "--nodes", "4,2")
    assert [each.machines for each in found.sweeps] == [2, 4]
    assert found.most is None
    assert "**Scaling does not end at 4 machines**" in render_scaling(found)


@pytest.mark.parametrize(
    ("costs", "reason"),
    [
        ({"keeping": 5}, "20.0 s driver: one driver starts the jobs and keeps their results"),
        ({"starting": 5}, "20.0 s driver: one driver"),
        ({"planning": 30}, "30.0 s planning: all scripts are read"),
        ({"ingest": 30}, "30.0 s ingest: the database is rebuilt"),
    ],
)
def test_why_scaling_ends(
    four: Place, monkeypatch: pytest.MonkeyPatch, costs: dict[str, float], reason: str
) -> None:
    costly = Overhead(**{**vars(FREE), **costs})
    monkeypatch.setattr(command.overhead, "measure", lambda *_: costly)
    options = four.options("simulate", "--jobs", "1", "--startup", "0", "--nodes", "1,16")
    text = render_scaling(study(options, learn(options)))
    assert f"\n\n1. {reason}" in text, "it is the first of the list"


def test_start_up_is_asked_for_or_recorded(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scaling(four, monkeypatch, "--startup", "90")
    assert found.model.startup == 90
    assert "\n\n1. 90.0 s start-up: a machine imports torch" in render_scaling(found)
    # The records say 12:00:00, as the run: nothing is left where a second went into each job.
    monkeypatch.setattr(overhead, "measure", lambda *_: Overhead(0, 4, 0, 0, 0))
    options = four.options("simulate", "--jobs", "1")
    assert study(options, learn(options)).model.startup == 0
    history = learn(options)
    history.gaps = [(11, 4), (12, 4), (90, 4)]
    assert study(options, history).model.startup == 8


def test_failures_that_are_asked_for_cost_time(
    four: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--crash-rate", "0.3", "--timeout-rate", "0.1", "--loss-rate", "30", "--replace", "5"]
    found = scaling(four, monkeypatch, "--nodes", "2", *flags)
    (sweep,) = found.sweeps
    assert len(sweep.runs) == command.SEEDS
    assert sweep.runs[0].seconds < sweep.typical.seconds < sweep.runs[-1].seconds
    assert sum(run.retries for run in sweep.runs) > 20
    assert min(run.seconds for run in sweep.runs) >= 20
    text = render_scaling(found)
    assert "| losses of a machine | 30 per hour | `--loss-rate` |\n" in text
    assert "| crashes | 30.0% of attempts | `--crash-rate`, 4 attempts |\n" in text
    assert "| until it is replaced | 5.0 s | `--replace` |\n" in text


def test_copies_stand_for_more_jobs(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scaling(four, monkeypatch, "--copies", "5", "--nodes", "1,10")
    assert [each.seconds for each in found.sweeps] == [200, 20]
    assert "| jobs | 4, 5 times each |" in render_scaling(found)


def test_few_records_are_told(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("a", "b", "x"):
        four.script(family)
    few = "| **not recorded** | 1 of 3 scripts | `nox -s matrix` would record them |"
    assert few in render_scaling(scaling(four, monkeypatch))
    assert "not recorded" not in render_scaling(scaling(four, monkeypatch, "--family", "a"))


def test_the_same_gives_the_same_bytes(four: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--nodes", "1,2,8", "--crash-rate", "0.2", "--loss-rate", "20", "--seeds", "5"]
    first, again = (scaling(four, monkeypatch, *flags) for _ in range(2))
    assert render_scaling(first) == render_scaling(again)
    picture = render_picture(first)
    assert picture == render_picture(again)
    with Image.open(io.BytesIO(picture)) as image:
        assert set(image.info) <= {"dpi"}
        assert image.width > 1000
    other = scaling(four, monkeypatch, "--nodes", "1,2,8")
    assert render_picture(other) != picture


# The command.


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The page that the results go to."""
    section, path = command.SECTION, tmp_path / "docs" / "scaling.md"
    path.parent.mkdir()
    path.write_text(f"# Mine\n\n{section.begin}\nold\n{section.end}\n\nThe end.\n")
    return path


def test_from_a_real_run_to_the_page(
    place: Place, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for family in ("alpha", "beta"):
        place.script(family, edit="time.sleep(0.2)")
    assert place.matrix() == 0
    flags = place.flags("--output", str(document.parent.parent), "--nodes", "1,4", "--seeds", "3")
    assert main(["simulate", *flags]) == 0
    text = document.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("\n\n![Scaling](scaling.png)\n\n" + command.SECTION.end + "\n\nThe end.\n")
    assert "old" not in text
    assert "| jobs | 2 | recorded in fresh processes on A CPU |\n" in text
    assert "| start-up of a machine | 0.0 s |" in text, "it is part of what a fresh process takes"
    assert document.with_name("scaling.png").exists()
    assert "| 4 | " in capsys.readouterr().out
    assert len(list(place.results.iterdir())) == 1, "the measurement has left nothing"


def test_without_records_the_command_that_makes_some_is_told(
    place: Place, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = place.flags("--output", str(document.parent.parent))
    assert main(["simulate", *flags]) == 2
    told = capsys.readouterr().err
    assert str(place.results) in told
    assert "`nox -s matrix` makes some" in told
    assert "old" in document.read_text()


def test_without_markers_nothing_is_simulated(
    four: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *four.flags("--output", str(tmp_path))]) == 1
    captured = capsys.readouterr()
    assert "scaling.md: cannot be read" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nodes", "4,0"], "0 is not at least 1"),
        (["--nodes", "four"], "'four' is not a whole number"),
        (["--crash-rate", "1.5"], "1.5 is more than 1"),
        (["--loss-rate", "-1"], "-1 is not a number of at least 0"),
        (["--startup", "nan"], "nan is not a number of at least 0"),
        (["--startup", "soon"], "'soon' is not a number"),
        (["--node", "4"], "unknown flag '--node' (did you mean '--nodes'?)"),
    ],
)
def test_wrong_numbers_are_told(
    place: Place, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", *place.flags(*flags)])
    assert message in capsys.readouterr().err
