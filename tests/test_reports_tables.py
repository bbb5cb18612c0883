"""The matrix as JSON and CSV."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.matrix_factory import EXPECTED, Results, check, full_results
from tools.reports.data import Matrix, ReportError
from tools.reports.tables import CSV_COLUMNS, SCHEMA, render_csv, render_json


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return full_results(tmp_path_factory.mktemp("full")).matrix(*EXPECTED)


def rows(matrix: Matrix) -> list[dict[str, str]]:
    return list(csv.DictReader(render_csv(matrix).splitlines()))


def family(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in document["families"] if row["family"] == name)
    return found


def test_the_json_follows_its_schema(matrix: Matrix) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema_rs.meta.validate(schema)
    document = json.loads(render_json(matrix))
    jsonschema_rs.validate(schema, document)
    assert document["schema_version"] == 1
    assert list(document) == ["schema_version", "columns", "families", "runs"]


def test_the_json_tells_what_the_matrix_tells(matrix: Matrix) -> None:
    document = json.loads(render_json(matrix))
    cpu, cuda = document["columns"]
    assert (cpu["id"], cpu["counts"]["pass"], cuda["counts"]["not_run"]) == ("cpu", 1, 6)
    assert cpu["environments"][0]["packages"]["transformers"] == "5.23.0"
    cell = family(document, "roberta")["cells"]["cpu"]
    assert (cell["outcome"], cell["passed"], cell["total"]) == ("expected", 5, 6)
    [golden] = cell["open_checks"]
    assert golden["expectation_cause"] == "transformers"
    assert golden["command"].endswith("--device cpu --checks golden")
    assert "cuda" not in family(document, "electra")["cells"], "absent is not a result"
    [run] = [run for run in document["runs"] if not run["complete"]]
    assert (run["asked"], run["finished"]) == (4, 3)
    [found] = family(document, "bert")["recommendations"]
    assert (found["device"], found["latency_median"]) == ("cuda", 0.002)


def test_a_document_against_the_schema_is_not_published(matrix: Matrix) -> None:
    wrong = Matrix(matrix.cells, (replace(matrix.runs[0], asked=-1),))
    with pytest.raises(ReportError, match=r"matrix\.json: runs/0/asked: -1"):
        render_json(wrong)


def test_the_csv_has_a_line_for_each_cell(matrix: Matrix) -> None:
    found = rows(matrix)
    assert list(found[0]) == list(CSV_COLUMNS)
    assert len(found) == len(matrix.families) * len(matrix.columns)
    by_cell = {(row["family"], row["device"]): row for row in found}
    assert by_cell["electra", "cpu"]["open_checks"] == "golden export"
    assert by_cell["electra", "cuda"]["outcome"] == "not run"
    assert by_cell["bert", "cuda"]["complete"] == "false"
    assert by_cell["bert", "cuda"]["latency_median"] == "0.002"
    assert by_cell["llava", "cpu"]["outcome"] == "mock"
    assert by_cell["llava", "cpu"]["latency_median"] == ""


@pytest.mark.parametrize(
    "reason",
    [
        "=HYPERLINK('http://evil')",
        "+1+cmd|' /C calc'!A0",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r\n=1",
        "\u200b=1",
        "\x1b[31m=1",
        "＝1",
    ],
)
def test_no_field_is_a_formula(tmp_path: Path, reason: str) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": [check("forward", "fail", reason)]})
    [row] = rows(made.matrix())
    assert row["first_reason"][0] == "'"


def test_long_and_many_lined_text_stays_one_short_line(tmp_path: Path) -> None:
    made = Results(tmp_path)
    reason = 'a, "b"\n' * 100_000
    made.run("20261123T183000Z-aaaaaa", {"bert": [check("forward", "fail", reason)]})
    text = render_csv(made.matrix())
    assert text.count("\n") == 2
    assert len(text) < 2000
