"""The page for those who choose a device and those who build one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.matrix_factory import Results, check, checks, expectation
from tools.reports.advice import render_advice
from tools.reports.data import Matrix

RUN = "20261123T1{}3000Z-aaaaaa"


def a_graph(elsewhere: list[str]) -> dict[str, Any]:
    facts = {"software": "openvino 2026.4.1", "precision": "f32", "left_out": []}
    seconds = {"convert_seconds": 1.5, "compile_seconds": 0.2}
    return facts | seconds | {"operators": {"CPU": 90}, "elsewhere": elsewhere}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Results(tmp_path_factory.mktemp("advice"))
    made.run(RUN.format(1), {name: checks() for name in ("bert", "electra", "gpt2", "vit")})
    lacks = "No conversion rule found for operations: aten.nonzero_static.default"
    made.run(
        RUN.format(2),
        {
            "bert": checks(),
            "electra": [check("device_parity", "fail", "logits is off by 1e-2")],
            "gpt2": [check("forward", "error", lacks), check("placement", "skip", "no graph")],
            "vit": [check("forward", "error", "\"conv\" not implemented for 'Half'")],
        },
        device="openvino",
        latency=[0.001],
        graph=a_graph(["NonZero on nowhere"]),
    )
    made.run(RUN.format(3), {"bert": checks()}, device="webgpu", latency=[0.0001], software=True)
    known = expectation("gpt2", "forward", device="openvino", status="error", cause="device")
    return render_advice(made.matrix(known))


def test_the_best_device_is_among_sound_ones_on_hardware(page: str) -> None:
    """WebGPU on a software adapter is fastest, and does not count."""
    assert "| bert | openvino, 1 ms (best of 2) | n/a: not benchmarked | " in page
    assert "webgpu, " not in page


def test_a_device_that_is_wrong_is_not_to_be_trusted(page: str) -> None:
    assert "| electra | n/a | n/a: not benchmarked | n/a | openvino (device\\_parity) |" in page


def test_architectures_say_how_many_were_compared(page: str) -> None:
    assert (
        "| encoder\\_only | 1 of 2 | openvino (1 of 1) | n/a: not benchmarked (2) | cpu (1 of 1) | "
        "openvino (1 of 2) |" in page
    )
    assert "| vision | 0 of 1 | n/a | n/a: not benchmarked (1) | n/a |  |" in page


def test_operators_come_with_the_families_that_they_stop(page: str) -> None:
    assert "| **aten.nonzero\\_static.default** | stops | device | 1 | gpt2 |" in page
    assert "| **conv** | stops | open | 1 | vit |" in page
    assert "| **NonZero on nowhere** | leaves the device | device |" in page


def benchmark(device: str, rate: float, **changes: Any) -> dict[str, Any]:
    """A record of a benchmark of BERT, as far as the page reads it."""
    facts = {"family": "bert", "weights": "random", "size": "full", "dtype": "float32"}
    facts |= {"length": None, "batch": 1, "status": "measured", "device": device}
    return {**facts, "throughput_per_second": rate, "device_facts": {"software": False}, **changes}


THROUGHPUTS = {
    "| openvino, 30/s with batch 8, full (best of 2) |": [
        *(benchmark("cpu", 10.0), benchmark("cpu", 20.0, batch=8)),
        *(benchmark("openvino", 15.0), benchmark("openvino", 30.0, batch=8)),
        benchmark("webgpu", 99.0, device_facts={"software": True}),
        benchmark("cpu", 99.0, status="noisy"),
        benchmark("cpu", 99.0, length=8),  # shorter texts
    ],
    "| n/a: no benchmark to go by: 2 noisy |": [
        *(benchmark("cpu", 1.0, status="noisy"), benchmark("openvino", 1.0, status="noisy"))
    ],
    "| n/a: benchmarked on cpu, sound on cpu, openvino: no two to compare |": [
        benchmark("cpu", 1.0)
    ],
    "| n/a: not benchmarked |": [
        *(benchmark("cpu", 1.0, dtype="bfloat16"), benchmark("openvino", 1.0, weights="path")),
        *(benchmark("cpu", 1.0, family="gpt2"), benchmark("openvino", 1.0, family="gpt2")),
    ],
}


@pytest.mark.parametrize("cell", THROUGHPUTS)
def test_throughput_is_that_of_benchmarks_or_says_why_not(tmp_path: Path, cell: str) -> None:
    made = Results(tmp_path)
    made.run(RUN.format(1), {"bert": checks()})
    made.run(RUN.format(2), {"bert": checks()}, device="openvino")
    page = render_advice(replace(made.matrix(), benchmarks=THROUGHPUTS[cell]))
    assert cell in page


def test_throughput_of_a_software_adapter_counts_for_nothing(tmp_path: Path) -> None:
    """Neither where the matrix knows of the adapter nor where the benchmark does."""
    made = Results(tmp_path)
    made.run(RUN.format(1), {"bert": checks()})
    made.run(RUN.format(2), {"bert": checks()}, device="webgpu", software=True)
    known = [benchmark("cpu", 1.0), benchmark("webgpu", 99.0)]
    page = render_advice(replace(made.matrix(), benchmarks=known))
    assert "99/s" not in page
    assert "| n/a: benchmarked on cpu, webgpu, sound on cpu (1) |" in page


def test_with_one_device_nothing_is_recommended(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(RUN.format(1), {"bert": checks()})
    page = render_advice(made.matrix())
    assert "n/a: no family passes on two devices" in page
    assert "Nothing." in page


def test_without_cells_there_is_a_page(tmp_path: Path) -> None:
    assert "# Which device to use" in render_advice(Matrix({}, ()))
