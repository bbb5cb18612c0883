"""Devices of this machine: which work, what they are, how to wait for them.

Inlined into the scripts by `generator`; imported by `tools.devices`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from templates._browser import Web
from templates._graph import GRAPH_CHECKS, Runtime
from templates._openvino import OpenVINO

TORCH_DEVICES = ("cuda", "xpu", "mps", "cpu")  # best first
# These run exported graphs; a graph of OpenVINO can keep its state while it reads a text in pieces,
# and be compiled for half precision too.
GRAPH_DEVICES = {"openvino": ("chunked_prefill", "dtype_bf16"), "webgpu": (), "webnn": ()}
RUNTIMES: dict[str, type[Runtime]] = {"openvino": OpenVINO, "webgpu": Web, "webnn": Web}


def runtime_of(device: str) -> type[Runtime] | None:
    """What runs graphs on `device` ("openvino:GPU"); None for a device of torch."""
    return RUNTIMES.get(device.partition(":")[0])


def checks_on(device: str, checks: list[str]) -> list[str]:
    """Those of the `checks` that are asked on `device`: all, but where a graph runs some."""
    more = GRAPH_DEVICES.get(device.partition(":")[0])
    return checks if more is None else [name for name in checks if name in GRAPH_CHECKS + more]


def why_unavailable(device: str) -> str | None:
    """Why nothing can run on `device` ("cuda:1", "openvino:GPU") here; None where it can."""
    if runtime := runtime_of(device):
        return runtime.why_unavailable(device)
    if device.partition(":")[0] not in TORCH_DEVICES:
        known = ", ".join([*TORCH_DEVICES, *GRAPH_DEVICES])
        return f"{device!r} is none of {known} (or cuda:1, openvino:GPU, ...)"
    try:
        assert torch.ones(2, device=device).sum().item() == 2, "1 + 1 is not 2 there"
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        words = str(error).splitlines()[0].split(". ")[0]  # what follows is advice for others
        return f"torch {torch.__version__} cannot use {device}: {words}"
    return None


def available_devices() -> list[str]:
    """The kinds of torch devices that work here, best first ("cpu" is the last)."""
    return [kind for kind in TORCH_DEVICES if why_unavailable(kind) is None]


def synchronize(device: str) -> None:
    """Wait until `device` has done its queued work, so that a clock read next is honest."""
    if not device.startswith("cpu") and not runtime_of(device):
        getattr(torch, device.partition(":")[0]).synchronize()


def be_exact() -> None:
    """Have GPUs compute in the type that was asked for, and the same in each run."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # which convolutions use by default
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


def describe_device(device: str) -> dict[str, Any]:
    """Name, driver, features ("avx2", "amx_tile", "neon", "sm_90") and memory (bytes)."""
    if runtime := runtime_of(device):
        return runtime.describe(device)
    kind = device.partition(":")[0]
    described = {"cuda": describe_cuda, "xpu": describe_xpu, "mps": describe_mps}
    found = {"driver": None, "software": False} | described.get(kind, describe_cpu)(device)
    falls_back = (
        f"PYTORCH_ENABLE_{kind.upper()}_FALLBACK"  # to the CPU, where operators are missing
    )
    found["features"] += [falls_back] if os.environ.get(falls_back, "0") != "0" else []
    return found


def describe_cuda(device: str) -> dict[str, Any]:
    """What torch says of a GPU of NVIDIA or AMD, and the version of its driver."""
    facts = torch.cuda.get_device_properties(device)
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    version = f"cuda {torch.version.cuda}" if torch.version.cuda else f"hip {torch.version.hip}"
    features = [f"sm_{facts.major}{facts.minor}", version, f"tf32 {'on' if tf32 else 'off'}"]
    query = "nvidia-smi --query-gpu=driver_version --format=csv,noheader"
    code, driver = subprocess.getstatusoutput(query)
    found = {"name": facts.name, "features": features, "memory_bytes": facts.total_memory}
    return found | {"driver": None if code else driver.splitlines()[0]}


def describe_xpu(device: str) -> dict[str, Any]:
    """What torch says of a GPU of Intel."""
    facts = torch.xpu.get_device_properties(device)
    features = [each for each in ("has_fp16", "has_fp64") if getattr(facts, each, False)]
    found = {"name": facts.name, "features": features, "memory_bytes": facts.total_memory}
    return found | {"driver": getattr(facts, "driver_version", None)}


def describe_mps(device: str) -> dict[str, Any]:
    """The chip of a Mac; macOS brings the driver."""
    memory, system = torch.mps.recommended_max_memory(), f"macOS {platform.mac_ver()[0]}"
    return describe_cpu(device) | {"driver": system, "memory_bytes": memory}


def describe_cpu(device: str) -> dict[str, Any]:
    """Name and vector instructions of the processor, and the memory of the machine."""
    found: dict[str, Any] = {"memory_bytes": None}
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    else:  # macOS says "hw.optional.neon: 1"; elsewhere there is no sysctl
        command = "sysctl machdep.cpu.brand_string hw.optional"
        text = subprocess.getoutput(command)
        text = re.sub(r"hw\.optional\.(?:arm\.)?(?:FEAT_)?(\w+): 1", r"\1", text)
    name = re.search(r"(?:model name\s*|brand_string): (.+)", text)
    # ARM's "asimd" is what everybody else calls NEON.
    words = set(re.findall(r"[a-z0-9_]+", text.lower().replace("asimd", "neon")))
    vectors = r"avx2(_0)?|avx512\w+|amx_\w+|neon|sve2?|sme2?"
    if hasattr(os, "sysconf"):  # not on Windows
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found | {
        "name": name[1] if name else platform.processor() or platform.machine(),
        "features": sorted(word for word in words if re.fullmatch(vectors, word)),
    }
