"""The layer of torch devices, against a surface of torch that is faked here: no GPU is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from templates import _basics, _devices, _main, _story, encoder_only
from templates._compare import rms
from templates._subject import Subject, operators_by_device

Patch = pytest.MonkeyPatch


def test_the_best_device_comes_first(monkeypatch: Patch) -> None:
    ones = torch.ones

    def some(*shape: int, device: str) -> torch.Tensor:
        if device.partition(":")[0] in ("xpu", "mps"):
            return ones(*shape)
        if device == "cpu":
            return ones(*shape)
        raise RuntimeError("no driver\nand a long explanation")

    monkeypatch.setattr(torch, "ones", some)
    assert _devices.available_devices() == ["xpu", "mps", "cpu"]
    why_not = _devices.why_unavailable("cuda:1")
    assert why_not == f"torch {torch.__version__} cannot use cuda:1: no driver"
    told = _devices.why_unavailable("tpu")
    assert told is not None
    assert "'tpu' is none of cuda, xpu, mps, cpu, openvino" in told


def test_a_device_that_computes_wrong_is_not_there(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2))
    assert "1 + 1 is not 2" in str(_devices.why_unavailable("mps"))


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_clocks_are_read_when_the_device_has_done_its_work(kind: str, monkeypatch: Patch) -> None:
    """Between a call of the model and the reading of a clock there is a wait for the device."""
    told: list[str] = []
    clock = _main.time.perf_counter
    waits = SimpleNamespace(
        synchronize=lambda *_: told.append("wait"), max_memory_allocated=lambda _: 7
    )
    monkeypatch.setattr(torch, kind, waits)
    monkeypatch.setattr(_main.time, "perf_counter", lambda: told.append("clock") or clock())
    model = torch.nn.Linear(2, 3)
    subject = Subject(f"{kind}:0")
    monkeypatch.setattr(Subject, "fresh", lambda _: model)
    monkeypatch.setattr(Subject, "run", lambda *_: told.append("call") or {})
    subject.inputs = {}
    measured = _main.measure(subject, real=True)
    assert told.count("call") == 7
    assert " ".join(told).count("call wait clock") == 6, told  # the last call is not timed
    assert len(measured["latency_seconds"]) == 5
    assert kind == "mps" or measured["peak_memory_bytes"] == 7


def test_tf32_is_off_also_in_convolutions() -> None:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    cuda.allow_tf32 = cudnn.allow_tf32 = True
    try:
        _devices.be_exact()
        assert not cuda.allow_tf32
        assert not cudnn.allow_tf32
        assert cudnn.deterministic
        assert not cudnn.benchmark
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def a_gpu(**more: Any) -> Callable[[str], SimpleNamespace]:
    """What torch says of a device."""
    return lambda _: SimpleNamespace(name="A GPU", total_memory=2**33, **more)


def test_cuda_is_described(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", a_gpu(major=9, minor=0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    answers = {"nvidia-smi": (0, "580.95.05\n580.95.05")}
    monkeypatch.setattr(
        _devices.subprocess, "getstatusoutput", lambda command: answers[command.split()[0]]
    )
    _devices.be_exact()
    found = _devices.describe_device("cuda:1")
    assert found["name"] == "A GPU"
    assert found["driver"] == "580.95.05"
    assert found["features"] == ["sm_90", "cuda 13.0", "tf32 off"]
    assert found["memory_bytes"] == 2**33
    answers["nvidia-smi"] = (127, "command not found")
    assert _devices.describe_device("cuda")["driver"] is None


def test_xpu_is_described(monkeypatch: Patch) -> None:
    facts = a_gpu(driver_version="1.6.33578", has_fp16=True, has_fp64=False)
    monkeypatch.setattr(torch.xpu, "get_device_properties", facts)
    found = _devices.describe_device("xpu")
    assert (found["driver"], found["features"]) == ("1.6.33578", ["has_fp16"])


def test_mps_is_described_with_its_fallback(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**34)
    monkeypatch.setattr(_devices.platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    found = _devices.describe_device("mps")
    assert (found["driver"], found["memory_bytes"]) == ("macOS 15.5", 2**34)
    assert "PYTORCH_ENABLE_MPS_FALLBACK" not in found["features"]
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    assert "PYTORCH_ENABLE_MPS_FALLBACK" in _devices.describe_device("mps")["features"]


def test_operators_that_fall_back_are_named(monkeypatch: Patch) -> None:
    """Also where torch warns once only and another check has had that warning."""
    what = (
        "The operator 'aten::cummax' is not supported on MPS and will fall back to run on the CPU."
    )

    def run() -> None:
        if torch.is_warn_always_enabled():  # else C++ would have warned before
            warnings.warn(what, stacklevel=1)
        torch.ones(2).sum()

    count, elsewhere = operators_by_device(run)
    assert elsewhere == [what]
    assert count["cpu"] == 2
    assert not torch.is_warn_always_enabled()
    monkeypatch.setattr(_story, "active", encoder_only)
    monkeypatch.setattr(_basics, "operators_by_device", lambda _: (count, elsewhere))
    entry = _main.run_check("placement", _basics.test_placement, Subject("cpu"))
    assert entry["status"] == "fail"
    assert "aten::cummax" in entry["reason"]


class NoDoubles(torch.Tensor):
    """Stands for a tensor on a device without fp64, as MPS is."""

    def double(self, *_: object, **__: object) -> torch.Tensor:
        """Refuse."""
        raise TypeError("the MPS framework doesn't support float64")

    def cpu(self, *_: object, **__: object) -> torch.Tensor:
        """The same, where there is fp64."""
        return self.as_subclass(torch.Tensor)


def test_nothing_is_fp64_on_the_device() -> None:
    assert rms(torch.full((3,), 2.0).as_subclass(NoDoubles)) == 2.0
