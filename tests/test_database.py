"""The database says what the JSON says, and marks what cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from tools_fixtures import RUN_ID, Place, a_record, check, damage

from tools import database, publish
from tools.__main__ import main
from tools.reports.data import ReportError
from tools.results import STATUSES

NEWER = "20260102T120000Z-abcdef"
REAL = [status for status in STATUSES if status != "mock"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def ingest(place: Place) -> int:
    return main(["ingest", *place.flags()])


def cells(place: Place, columns: str) -> list[tuple[Any, ...]]:
    return place.query(f"SELECT {columns} FROM cells ORDER BY family")


def test_each_table_says_what_the_files_say(place: Place) -> None:
    text = "off by 3 \x00 🚀 'quoted'"
    checks = [check("forward"), check("export", "fail") | {"value": 2.5e-7, "reason": text}]
    place.write_run([a_record("alpha", *checks)])
    assert ingest(place) == 0
    (run,) = place.query("SELECT run_id, started::VARCHAR, complete, asked, finished FROM runs")
    assert run == (RUN_ID, "2026-01-01 12:00:00", True, 1, 1)
    assert place.query("SELECT family, device, weights, path FROM jobs") == [
        ("alpha", "cpu", "random", f"{RUN_ID}/alpha-cpu.json")
    ]
    assert place.query(
        "SELECT device_name, features, latency_seconds, packages->>'torch', seconds, wall_seconds,"
        " command, log, status, verdict FROM records"
    ) == [
        (
            *("A CPU", ["avx2"], [0.01, 0.02, 0.06], "2.14.1", 1.5, 2.5),
            *("python fixed_tests/test_hf_alpha.py --device cpu", f"{RUN_ID}/logs/alpha-cpu.txt"),
            *("fail", "unexpected"),
        )
    ]
    assert place.query("SELECT name, status, reason, value, expected FROM checks") == [
        ("forward", "pass", None, None, True),
        ("export", "fail", text, 2.5e-7, False),
    ]
    assert place.query("SELECT name, verdict FROM open_checks") == [("export", "unexpected")]
    columns = "status, verdict, passed, failed, total, first_reason, latency_median, complete"
    assert cells(place, columns) == [("fail", "unexpected", 1, 1, 2, text, 0.02, True)]


@pytest.mark.parametrize("worse", range(len(REAL) - 1))
def test_the_status_of_a_cell_is_the_worst_of_its_checks(place: Place, worse: int) -> None:
    checks = [check(f"check_{status}", status) for status in reversed(REAL[worse:])]
    place.write_run([a_record("alpha", *checks)])
    assert ingest(place) == 0
    expected = (REAL[worse], f"check_{REAL[worse]} ends with {REAL[worse]}")
    assert cells(place, "status, first_reason") == [expected]


def test_a_mock_is_no_verdict_and_displaces_none(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    mock = a_record("beta", check("forward", "mock"), inference="mock", missing=["torch"])
    place.write_run([a_record("alpha")])
    later = a_record("alpha", check("forward", "mock"), inference="mock", missing=["torch"])
    place.write_run([later, mock], run_id="20260102T120000Z-abcdef")
    assert ingest(place) == 0
    assert "2 runs, 1 records, 2 mocks" in capsys.readouterr().out
    assert place.query("SELECT family FROM records") == [("alpha",)]
    assert place.query("SELECT DISTINCT family FROM checks") == [("alpha",)]
    columns = "family, status, verdict, passed, total, inference, latency_median"
    assert cells(place, columns) == [
        ("alpha", "pass", "pass", 1, 1, "real", 0.02),
        ("beta", "mock", "mock", 0, 0, "mock", None),
    ]
    with pytest.raises(ReportError, match=r"1 cells are mocks \(beta on cpu\).* nothing is publ"):
        publish.main(place.options("publish"))
    with pytest.raises(duckdb.Error), duckdb.connect(place.database) as writable:
        writable.execute("UPDATE checks SET status = 'mock'")


def test_expectations_are_beside_the_checks(place: Place) -> None:
    place.script("alpha")
    place.expectations.write_text(
        '[[expectation]]\nfamily = "alpha"\ncheck = "export"\ndevice = "*"\nstatus = "fail"\n'
        'cause = "device"\nreason = "no such operator"\n'
    )
    place.write_run([a_record("alpha", check("export", "fail"))])
    place.write_run([a_record("alpha", check("export"))], run_id=NEWER)
    assert ingest(place) == 0
    columns = "status, expected, expectation_status, expectation_reason, expectation_cause"
    assert place.query(f"SELECT {columns} FROM checks ORDER BY run_id") == [
        ("fail", True, "fail", "no such operator", "device"),
        ("pass", False, "fail", "no such operator", "device"),
    ]
    reason = "export passes, but is expected to end with fail"
    assert cells(place, "status, verdict, first_reason") == [("pass", "unexpected", reason)]
    assert place.query("SELECT name, status FROM open_checks") == [("export", "pass")]


def test_the_newest_run_that_asked_for_a_cell_decides_it(place: Place) -> None:
    place.write_run([a_record("alpha", check("x", "fail")), a_record("beta", check("x", "fail"))])
    place.write_run([a_record("alpha")], run_id=NEWER)
    assert ingest(place) == 0
    assert cells(place, "family, run_id, verdict") == [
        ("alpha", NEWER, "pass"),
        ("beta", RUN_ID, "unexpected"),
    ]


def test_what_was_asked_but_has_no_record_is_not_run(place: Place) -> None:
    both = [a_record("alpha"), a_record("beta")]
    place.write_run(both)
    place.write_run(both[:1], run_id=NEWER, asked=both, interrupted=True)
    assert ingest(place) == 0
    columns = "family, architecture, run_id, status, verdict, passed, total, first_reason, complete"
    ended = "the run ended before this job"
    assert cells(place, columns) == [
        ("alpha", "encoder_only", NEWER, "pass", "pass", 1, 1, None, False),
        ("beta", "encoder_only", NEWER, "not run", "not run", 0, 0, ended, False),
    ]
    assert place.query("SELECT interrupted, asked, finished FROM runs ORDER BY run_id DESC") == [
        (True, 2, 1),
        (False, 2, 2),
    ]


def test_a_run_of_some_checks_decides_no_cell(place: Place) -> None:
    place.write_run([a_record("alpha", check("x", "fail"))])
    place.write_run([a_record("alpha")], run_id=NEWER, checks=["forward"])
    assert ingest(place) == 0
    assert cells(place, "run_id, verdict") == [(RUN_ID, "unexpected")]
    assert place.query("SELECT partial FROM runs ORDER BY run_id") == [(False,), (True,)]


def test_cells_differ_by_weights_size_and_type(place: Place) -> None:
    place.write_run([a_record(), a_record(size="full"), a_record(dtype="bfloat16")])
    assert ingest(place) == 0
    assert len(cells(place, "*")) == 3


def test_a_run_without_footer_is_marked(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write_run([a_record()], footer=False)
    assert ingest(place) == 1
    assert "footer.json: is missing" in capsys.readouterr().out
    assert place.query("SELECT complete, ended FROM runs") == [(False, None)]
    assert place.query("SELECT kind, path FROM problems") == [
        ("MissingFooter", f"{RUN_ID}/footer.json")
    ]
    assert cells(place, "verdict, complete") == [("pass", False)]


def test_a_truncated_record_is_reported_and_its_cell_is_not_run(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.write_run([a_record("alpha"), a_record("beta")])
    damage(folder / "alpha-cpu.json")
    assert ingest(place) == 1
    assert f"{folder / 'alpha-cpu.json'}: cannot be read" in capsys.readouterr().out
    assert place.query("SELECT complete, finished FROM runs") == [(False, 1)]
    alpha, beta = cells(place, "family, verdict, first_reason")
    assert alpha[:2] == ("alpha", "not run")
    assert alpha[2].startswith("cannot be read")
    assert beta == ("beta", "pass", None)


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_run_without_manifest_is_reported(place: Place, how: str) -> None:
    place.write_run([a_record("alpha")])
    broken = place.write_run([a_record("beta")], run_id=NEWER) / "manifest.json"
    damage(broken) if how == "truncated" else broken.unlink()
    assert ingest(place) == 1
    assert place.query("SELECT run_id, complete, started FROM runs WHERE started IS NULL") == [
        (NEWER, False, None)
    ]
    assert place.query("SELECT kind FROM problems") == [("BrokenManifest",)]
    assert cells(place, "family") == [("alpha",)]


def test_without_results_the_database_is_empty(place: Place) -> None:
    assert ingest(place) == 0
    assert cells(place, "*") == []


def test_a_failed_ingest_leaves_the_old_database_and_nothing_else(place: Place) -> None:
    place.write_run([a_record()])
    assert ingest(place) == 0
    before, files = place.database.read_bytes(), set(place.database.parent.iterdir())
    place.write_run([a_record()], run_id=NEWER)
    place.expectations.write_text("[[expectation]]")
    assert ingest(place) == 2
    assert place.database.read_bytes() == before
    place.expectations.write_text("")
    place.database.unlink()
    place.database.mkdir()
    assert ingest(place) == 5
    assert set(place.database.parent.iterdir()) == files


def test_readers_keep_what_they_opened_while_it_is_replaced(place: Place) -> None:
    place.write_run([a_record("alpha")])
    assert ingest(place) == 0
    with database.connect(place.database) as reader:
        place.write_run([a_record("beta")], run_id=NEWER)
        assert ingest(place) == 0
        assert reader.execute("SELECT family FROM cells").fetchall() == [("alpha",)]
    assert cells(place, "family") == [("alpha",), ("beta",)]


def test_a_missing_database_says_how_to_make_it(place: Place) -> None:
    with pytest.raises(FileNotFoundError, match="python -m tools ingest"):
        database.connect(place.database)
