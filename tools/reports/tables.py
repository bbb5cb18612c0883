"""The matrix for programs: JSON (described by a schema) and CSV (for spreadsheets)."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema_rs

from tools.reports import form
from tools.reports.data import DEFAULT_SETTING, Cell, Check, Column, Family, Matrix, ReportError

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).parent.parent / "schemas" / "matrix.schema.json"
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

CSV_COLUMNS = (
    "family",
    "architecture",
    "model_class",
    "device",
    "weights",
    "size",
    "dtype",
    "outcome",
    "status",
    "verdict",
    "passed",
    "failed",
    "total",
    "open_checks",
    "first_reason",
    "inference",
    "device_name",
    "latency_median",
    "latency_low",
    "latency_high",
    "peak_memory_bytes",
    "parameters",
    "seconds",
    "run_id",
    "complete",
)


def document(matrix: Matrix) -> dict[str, Any]:
    """The matrix as `matrix.json` has it, which the schema describes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "columns": [_column(matrix, column) for column in matrix.columns],
        "families": [_family(matrix, family) for family in matrix.families],
        "runs": [asdict(run) for run in matrix.runs],
    }


def render_json(matrix: Matrix) -> str:
    """`matrix.json`; a ReportError where it is not what the schema says."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    made = document(matrix)
    for error in jsonschema_rs.iter_errors(schema, made):
        where = "/".join(map(str, error.instance_path))
        raise ReportError(f"matrix.json: {where}: {form.shorten(error.message, 300)}")
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


def render_csv(matrix: Matrix) -> str:
    """`matrix.csv`: one line a cell, cells without a record included."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for family in matrix.families:
        for column in matrix.columns:
            cell = matrix.cells.get((family.name, column))
            outcome = matrix.outcome(family, column)
            setting = column.setting
            known: dict[str, Any] = {
                "family": family.name,
                "architecture": family.architecture,
                "model_class": family.model_class,
                "device": column.device,
                "weights": setting.weights,
                "size": setting.size,
                "dtype": setting.dtype,
                "outcome": outcome.word,
            }
            if cell:
                known |= {
                    "open_checks": " ".join(check.name for check in cell.open_checks),
                    "device_name": cell.environment.device_name if cell.environment else None,
                }
                known |= {name: getattr(cell, name) for name in CSV_COLUMNS if name not in known}
            writer.writerow([field(known.get(name)) for name in CSV_COLUMNS])
    return file.getvalue()


def field(value: Any) -> Any:
    """`value` for one field: one bounded line that no spreadsheet takes for a formula."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    line = form.one_line(value, 500)
    return f"'{line}" if line.startswith(_FORMULA) else line


def _column(matrix: Matrix, column: Column) -> dict[str, Any]:
    setting = column.setting
    return {
        "id": column.slug,
        "device": column.device,
        "weights": setting.weights,
        "size": setting.size,
        "dtype": setting.dtype,
        "default": setting == DEFAULT_SETTING,
        "counts": matrix.counts(column),
        "environments": [
            asdict(environment) | {"packages": dict(environment.packages), "cells": cells}
            for environment, cells in matrix.environments(column)
        ],
    }


def _family(matrix: Matrix, family: Family) -> dict[str, Any]:
    cells = {}
    for column in matrix.columns:
        if cell := matrix.cells.get((family.name, column)):
            cells[column.slug] = _cell(cell)
    settings = sorted({column.setting for column in matrix.columns})
    return {
        "family": family.name,
        "architecture": family.architecture,
        "model_class": family.model_class,
        "script": family.script_name,
        "confirmed": dict(matrix.confirmed.get(family.name, {})),
        "cells": cells,
        "recommendations": [
            asdict(setting) | asdict(matrix.recommend(family, setting)) for setting in settings
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "outcome": cell.outcome.key,
        "status": cell.status,
        "verdict": cell.verdict,
        "inference": cell.inference,
        "passed": cell.passed,
        "failed": cell.failed,
        "total": cell.total,
        "first_reason": cell.first_reason,
        "checkpoint": cell.checkpoint,
        "seconds": cell.seconds,
        "latency_median": cell.latency_median,
        "latency_low": cell.latency_low,
        "latency_high": cell.latency_high,
        "peak_memory_bytes": cell.peak_memory_bytes,
        "parameters": cell.parameters,
        "run_id": cell.run_id,
        "complete": cell.complete,
        "command": cell.command(),
        "passing_checks": cell.passing_checks,
        "open_checks": [_check(cell, check) for check in cell.open_checks],
    }


def _check(cell: Cell, check: Check) -> dict[str, Any]:
    return asdict(check) | {"outcome": check.outcome.key, "command": cell.command(check)}
