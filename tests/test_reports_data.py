"""What the reports show of the database: outcomes, commands, recommendations, harmless text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.matrix_factory import CHECKS, EXPECTED, Results, check, checks, expectation, full_results
from tools.reports.data import Cell, Column, Matrix, Setting, plain

RUN = "20261123T183000Z-aaaaaa"
CPU = Column("cpu", Setting("random", "tiny", "float32"))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return full_results(tmp_path_factory.mktemp("full")).matrix(*EXPECTED)


def test_each_cell_is_seen_against_the_expectations(matrix: Matrix) -> None:
    outcomes = {family: cell.outcome.key for (family, c), cell in matrix.cells.items() if c == CPU}
    assert outcomes == {
        "bert": "pass",
        "roberta": "expected",
        "electra": "error",  # fail and error: the worst
        "gpt2": "crash",
        "llama": "unexpected_pass",
        "mamba": "timeout",
        "t5": "error",
        "vit": "expected",  # skipped by the script, which says why
        "llava": "mock",
    }


def test_an_unexpected_pass_beside_an_expected_failure_is_told(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(RUN, {"bert": checks(golden="fail")})
    cell = made.matrix(expectation("bert", "golden"), expectation("bert", "export")).cells
    assert cell["bert", CPU].outcome.key == "unexpected_pass"


def test_a_stand_in_is_counted_but_never_judged(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(RUN, {"bert": [check(name, "mock") for name in CHECKS]}, inference="mock")
    matrix = made.matrix()
    cell = matrix.cells["bert", CPU]
    assert matrix.counts(CPU)["mock"] == 1
    assert (cell.passed, cell.open_checks, cell.passing_checks) == (0, [], [])
    assert (cell.latency_median, cell.parameters) == (None, None)
    assert cell.text == "🔷 mock"


def test_counts_cover_families_without_a_result(matrix: Matrix) -> None:
    cuda = next(column for column in matrix.columns if column.device == "cuda")
    found = {key: count for key, count in matrix.counts(cuda).items() if count}
    assert found == {"pass": 2, "skip": 1, "not_run": 6}


def test_incomplete_runs_and_their_cells_are_known(matrix: Matrix) -> None:
    [run] = [run for run in matrix.runs if not run.complete]
    assert (run.asked, run.finished, run.cells) == (4, 3, 4)
    assert "--resume 20261123T190000Z-cccccc" in run.advice
    assert all(cell.complete == (cell.column == CPU) for cell in matrix.cells.values())
    assert matrix.cells["bert", matrix.columns[1]].text == "✅ pass 6/6 ⚠ incomplete"


def test_commands_repeat_one_check_in_its_setting(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(RUN, {"bert": checks(golden="fail")}, device="cuda:1", size="full", dtype="bfloat16")
    [cell] = made.matrix().cells.values()
    setting = "--device cuda:1 --size full --dtype bfloat16"
    assert cell.command() == f"python fixed_tests/test_hf_bert.py {setting}"
    assert cell.command(cell.open_checks[0]) == f"{cell.command()} --checks golden"


def test_a_script_that_died_is_repeated_whole(matrix: Matrix) -> None:
    cell = matrix.cells["gpt2", CPU]
    expected = "python fixed_tests/test_hf_gpt2.py --device cpu"
    assert cell.command(cell.open_checks[0]) == expected


def recommended(made: Results, family: str = "bert") -> tuple[str | None, str]:
    matrix = made.matrix()
    row = next(row for row in matrix.families if row.name == family)
    found = matrix.recommend(row, matrix.columns[0].setting)
    return found.device, found.reason


def test_the_fastest_passing_device_is_recommended(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()}, latency=[0.002])
    made.run("20261123T183001Z-aaaaaa", {"bert": checks()}, device="cuda", latency=[0.001])
    failing, adapter = {"bert": checks(golden="fail")}, {"bert": checks()}
    made.run("20261123T183002Z-aaaaaa", failing, device="xpu", latency=[0.0001])
    made.run("20261123T183003Z-aaaaaa", adapter, device="mps", latency=[0.0001], software=True)
    assert recommended(made) == ("cuda", "fastest of 2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"latency": []}, "no latency was measured"),
        ({"software": True}, "passes only on software adapters"),
    ],
)
def test_without_a_fair_measurement_no_device_is_recommended(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()}, **change)
    made.run("20261123T183001Z-aaaaaa", {"bert": checks(golden="fail")}, device="cuda")
    assert recommended(made) == (None, reason)


def test_with_one_device_none_is_recommended(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()})
    assert recommended(made) == (None, "only cpu was measured")


def test_a_family_that_passes_nowhere_has_no_recommended_device(matrix: Matrix) -> None:
    rows = {row.name: row for row in matrix.families}
    setting = CPU.setting
    assert matrix.recommend(rows["electra"], setting).reason == "passes on no measured device"
    assert matrix.recommend(rows["llava"], setting).reason == "not measured"


def test_only_equal_settings_are_compared(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()})
    made.run("20261123T183001Z-aaaaaa", {"bert": checks()}, device="cuda", size="full")
    assert made.matrix().compared_settings == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07", "red link"),
        ("a\u202eb\u2066c\u200bd\ufeff", "abcd"),
        ("a\r\nb\rc\u2028d\x00\x07", "a\nb\nc\nd"),
        ("a\tb", "a    b"),
        ("lone \ud800 half", "lone  half"),
        ("grüße 模型 ✅", "grüße 模型 ✅"),
    ],
)
def test_foreign_text_becomes_plain(text: str, clean: str) -> None:
    assert plain(text) == clean


def test_long_text_is_cut_and_says_so() -> None:
    cut = plain("x" * 1_000_000, 100)
    assert cut == "x" * 100 + " … (999,900 more characters)"


def test_the_matrix_holds_no_unbounded_text(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(RUN, {"bert": [check("forward", "fail", "y" * 1_000_000)]})
    cell: Cell = made.matrix().cells["bert", CPU]
    assert len(cell.first_reason or "") < 2100
    assert len(cell.checks[0].reason or "") < 2100
