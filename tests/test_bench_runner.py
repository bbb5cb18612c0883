"""The comparison of ways to run scripts: what is counted, and that quick failures do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place, a_record, check

from tools import bench_runner, worker
from tools.__main__ import main
from tools.bench_runner import NotComparable, Taken, Way, compare, render, ways

FRESH = Way("fresh × 1", ("--runner", "fresh", "--jobs", "1"), 4, "fresh")
OTHER = Way("other", ("--runner", "fresh", "--jobs", "2"), 2, "fresh")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The page that the results go to."""
    section = bench_runner.SECTION
    path = tmp_path / "docs" / "runner.md"
    path.parent.mkdir()
    path.write_text(f"# Mine\n\n{section.begin}\nold\n{section.end}\n\nThe end.\n")
    return path


def taken(seconds: float, *cpu_seconds: float) -> Taken:
    """A run of that many scripts."""
    records = {}
    for number, each in enumerate(cpu_seconds):
        record = a_record(f"family{number}")
        record["run"]["cpu_seconds"] = each
        records[f"family{number}-cpu"] = record
    return Taken(seconds, records, Path())


def test_time_ratio_and_overhead() -> None:
    runs = {
        FRESH: [taken(10, 2, 3), taken(20, 2, 3), taken(12, 2, 3)],
        OTHER: [taken(5, 2, 2), taken(5, 2, 2), taken(9, 2, 2)],
    }
    text = render(runs, "nox -s bench_runner")
    # 4 cores × 12 s for 5 s; each repeat by itself: 5/10, 5/20, 9/12; 2 cores × 5 s for 4 s.
    assert "| fresh × 1 | 12.0 s | 10.0 – 20.0 | 1.00 | 1.00 – 1.00 | 5.0 s | 9.6 |\n" in text
    assert "| other | 5.0 s | 5.0 – 9.0 | 0.50 | 0.25 – 0.75 | 4.0 s | 2.5 |\n" in text
    assert "| CPU | A CPU |\n" in text
    assert "| transformers | 5.23.0 |\n" in text
    assert "| scripts | 2 |\n" in text


def test_scripts_that_do_not_pass_are_told() -> None:
    run = taken(10, 2, 3)
    run.records["family0-cpu"]["checks"] = [check("forward", "fail")]
    assert "| scripts | 2, of which 1 do not pass |\n" in render({FRESH: [run]}, "")


def test_each_runner_with_one_and_with_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ["warm, Ray, 1 × 1 core", "warm, Ray, 2 × 1 core"]
    here = ["fresh × 1", "fresh × 2", "warm × 1", "warm × 2"]
    found = ways(2)
    assert [way.name for way in found] == here + ray
    assert [way.cores for way in found] == [worker.cores()] * 4 + [1, 2]
    assert [way.name for way in ways(1)] == ["fresh × 1", "warm × 1", ray[0]]
    monkeypatch.setattr(bench_runner, "find_spec", lambda name: None)
    assert [way.name for way in ways(2)] == here, "without Ray"


def test_a_cluster_of_this_machine_is_a_way(place: Place) -> None:
    place.script("alpha")
    one, several = ways(2)[-2:]
    found = compare([one, several], place.options("bench_runner", "--repeats", "1"))
    assert [len(runs) for runs in found.values()] == [1, 1]


def test_ways_take_turns_and_each_knows_as_much(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, known = bench_runner._run, list[int]()

    def counted(way: Way, options: Any, folder: Path, turn: str) -> Taken:
        known.append(len(list(folder.glob("*/manifest.json"))))
        return run(way, options, folder, turn)

    monkeypatch.setattr(bench_runner, "_run", counted)
    there = tmp_path / "there"
    note = f"Path({str(there)!r}).open('a').write(f'{{FAMILY}} ')"
    place.script("quick", edit=note)
    place.script("slow", edit=f"time.sleep(0.5); {note}")
    options = place.options("bench_runner", "--repeats", "2")
    found = compare([FRESH, OTHER], options)
    turns = [line.rpartition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert turns == [
        "other, to begin with",
        *("fresh × 1, 1 of 2", "other, 1 of 2", "other, 2 of 2", "fresh × 1, 2 of 2"),
    ]
    assert known == [0, 1, 1, 1, 1], "runs, to learn from and to rebuild the database from"
    one_at_a_time = [there.read_text().split()[begin : begin + 2] for begin in (2, 8)]
    assert one_at_a_time == [["slow", "quick"]] * 2, "from the rehearsal"
    for way in (FRESH, OTHER):
        assert len(found[way]) == 2
        for run in found[way]:
            assert run.records.keys() == {"quick-cpu", "slow-cpu"}
            assert run.seconds > 0.5
            assert 0 < run.cpu_seconds < run.seconds * worker.cores()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            "checks[0] |= {'status': 'fail', 'reason': 'off'}; code = 1",
            "forward of alpha-cpu: fail with fresh × 1, pass with other",
        ),
        ("os.abort()", "script of alpha-cpu: crash with fresh × 1, no answer with other"),
    ],
)
def test_a_way_that_fails_is_an_error_however_quick(
    place: Place, tmp_path: Path, spoil: str, message: str
) -> None:
    passed = f"Path({str(tmp_path / 'passed')!r})"  # in the rehearsal, and then no more
    place.script("alpha", edit=f"if {passed}.exists(): {spoil}\n{passed}.touch()")
    with pytest.raises(NotComparable, match=message):
        compare([FRESH, OTHER], place.options("bench_runner", "--repeats", "1"))


def test_a_script_that_crashes_is_no_measure(place: Place) -> None:
    place.script("alpha", edit="os.abort()")
    with pytest.raises(NotComparable, match="alpha-cpu ends with crash: choose others"):
        compare([FRESH], place.options("bench_runner"))


def test_a_way_that_is_not_what_it_says_is_an_error(place: Place) -> None:
    place.script("alpha")
    way = Way("warm × 1", FRESH.flags, 1, "warm")
    with pytest.raises(NotComparable, match="warm × 1: alpha-cpu ran in a fresh process"):
        compare([way], place.options("bench_runner"))


def test_a_command_that_fails_says_why(place: Place) -> None:
    place.script("alpha")
    options = place.options("bench_runner", "--family", "alhpa")
    with pytest.raises(NotComparable, match=r"exit code 2:\nerror: unknown family .* 'alpha'"):
        compare([FRESH], options)


def test_the_page_gets_the_table_and_keeps_the_rest(
    place: Place, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_runner, "ways", lambda jobs: [FRESH])
    place.script("alpha")
    flags = place.flags("--output", str(document.parent.parent), "--repeats", "1")
    assert main(["bench_runner", *flags]) == 0
    text = document.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("\n\nThe end.\n")
    assert "old" not in text
    assert "`nox -s bench_runner -- --repeats 1`" in text
    assert "| fresh × 1 | " in text
    assert str(place.scripts) not in text


def test_without_markers_nothing_is_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha", edit=f"Path({str(tmp_path / 'ran')!r}).touch()")
    assert main(["bench_runner", *place.flags("--output", str(tmp_path))]) == 1
    assert "runner.md: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_nothing_is_left_in_the_results(place: Place) -> None:
    place.script("alpha")
    compare([FRESH], place.options("bench_runner", "--repeats", "1"))
    assert not place.results.exists()
