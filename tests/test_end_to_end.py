"""The whole way of the data with real parts: a script, its record, the database, the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parents[1]
MARKERS = "<!-- matrix:begin (written by `nox -s publish`) -->\n\n<!-- matrix:end -->\n"


def run(*command: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `command`; the result with its output."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_the_script_to_the_report(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# Mine\n{MARKERS}")
    flags = ["--results", str(tmp_path / "results"), "--database", str(tmp_path / "m.duckdb")]
    matrix = run("-m", "tools", "matrix", "--family", "bert", "--device", "cpu", *flags)
    assert matrix.returncode == 0, matrix.stdout + matrix.stderr
    [record_path] = (tmp_path / "results").glob("*/bert-cpu.json")
    record = json.loads(record_path.read_text())
    assert record["inference"] == "real"
    assert record["device"]["observed"] == "cpu"
    assert {check["status"] for check in record["checks"]} == {"pass"}
    with duckdb.connect(str(tmp_path / "m.duckdb"), read_only=True) as database:
        cells = database.sql("SELECT family, device, verdict, passed, total FROM cells").fetchall()
    assert cells == [("bert", "cpu", "pass", len(record["checks"]), len(record["checks"]))]
    publish = run("-m", "tools", "publish", "--output", str(tmp_path), *flags)
    assert publish.returncode == 0, publish.stdout + publish.stderr
    report = (tmp_path / "compatibility_reports" / "README.md").read_text()
    assert f"{len(record['checks'])}/{len(record['checks'])}" in report
    assert "**cpu**: 1 of 1" in (tmp_path / "README.md").read_text()


def test_a_fault_in_transformers_turns_the_cell_red(tmp_path: Path) -> None:
    spoil = """
        import torch
        softmax = torch.nn.functional.softmax
        torch.nn.functional.scaled_dot_product_attention = (
            lambda q, k, v, **kwargs: softmax(q @ k.mT, -1) @ v  # no scaling, no mask
        )
    """
    site = tmp_path / "site"
    site.mkdir()
    lines = [line.strip() for line in spoil.strip().splitlines()]
    (site / "sitecustomize.py").write_text("\n".join(lines))
    flags = ["--results", str(tmp_path / "results"), "--database", str(tmp_path / "m.duckdb")]
    matrix = run(
        *("-m", "tools", "matrix", "--family", "bert", "--device", "cpu", *flags),
        PYTHONPATH=str(site),
    )
    assert matrix.returncode == 1, matrix.stdout + matrix.stderr
    assert "fail device_parity" in matrix.stdout
    assert "python fixed_tests/test_hf_bert.py" in matrix.stdout


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--list"], 0, "device_parity"),
        (["--checks", "forward,golden"], 0, "2 of 2 checks passed"),
        (["--checks", "golden", "--seed", "5"], 0, "skip"),
        (["--checks", "golen"], 2, "did you mean golden"),
        (["--dtype", "int8"], 2, "invalid choice"),
        (["--device", "cuda:99"], 4, "NOT THERE"),
        (["--device", "abacus"], 4, "none of cuda, xpu, mps, cpu"),
    ],
)
def test_a_script_alone_in_an_empty_folder(
    tmp_path: Path, flags: list[str], code: int, words: str
) -> None:
    shutil.copy(ROOT / "fixed_tests" / "test_hf_llama.py", tmp_path)
    done = run("test_hf_llama.py", "--json", "record.json", *flags, folder=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert (tmp_path / "record.json").exists() == (code != 2 and "--list" not in flags)


def test_a_script_without_torch_says_that_nothing_was_tested(tmp_path: Path) -> None:
    shutil.copy(ROOT / "fixed_tests" / "test_hf_llama.py", tmp_path)
    done = run("test_hf_llama.py", "--json", "record.json", folder=tmp_path, MOCK_TORCH="1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "MOCK" in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["inference"] == "mock"
    assert record["missing"] == ["torch"]
    assert {check["status"] for check in record["checks"]} == {"mock"}


def test_pytest_runs_a_script_from_anywhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / "fixed_tests" / "test_hf_vit.py", tmp_path)
    done = run("-m", "pytest", "-q", "test_hf_vit.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
