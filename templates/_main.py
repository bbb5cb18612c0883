"""Running the checks from the command line: the report on the console, the record in JSON."""

from __future__ import annotations

import argparse
import datetime
import difflib
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from templates import _story as story
from templates._compare import MEASURED
from templates._devices import available_devices, describe_device, synchronize, why_unavailable
from templates._subject import Subject

try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(scope="module")
    def subject() -> Subject:
        """For pytest: the model on the best device of this machine."""
        if story.MISSING:
            pytest.skip(f"nothing real can run: {story.MISSING}")
        return Subject(available_devices()[0], seed=story.SEED)


def main(namespace: dict[str, Any]) -> int:
    """Run the checks in `namespace`; gives back the exit code that the docstring explains."""
    checks = {name[5:]: check for name, check in namespace.items() if name.startswith("test_")}
    options = parse_arguments(namespace["__doc__"], [*checks])
    if options.list:
        print("\n".join(checks))
        return 0
    missing = [story.MISSING.name] if isinstance(story.MISSING, ModuleNotFoundError) else []
    device = options.device or ("cpu" if story.MISSING else available_devices()[0])
    away = None if story.MISSING else why_unavailable(device)
    facts: dict[str, Any] = {"requested": device, "observed": None, "name": None, "driver": None}
    facts |= {"software": False, "features": [], "memory_bytes": None}
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    banner = "⛔ NOT THERE" if away else "🔷 MOCK" if missing else "🚀 REAL"
    print(f"{banner}  {story.MODEL_CLASS} on {device}")
    subject = Subject(device, options.dtype, options.weights, options.size, options.seed)
    if story.MISSING or away:
        status, reason = "skip" if away else "mock" if missing else "error", away or str(
            story.MISSING
        )
        results = [result(name, status, reason) for name in options.checks]
        print(f"  {status} {', '.join(options.checks)}\n  {reason}")
    else:
        quiet()
        facts |= {"observed": device, **describe_device(device)}
        results = [run_check(name, checks[name], subject) for name in options.checks]
    measurements = measure(subject)
    statuses = {check["status"] for check in results}
    seconds = time.perf_counter() - clock
    script = Path(namespace["__file__"])
    record = {"schema_version": 1, "family": story.FAMILY, "architecture": story.ARCHITECTURE}
    record |= {"model_class": story.MODEL_CLASS, "checkpoint": story.CHECKPOINT}
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    record |= {"script": {"name": script.name, "sha256": digest}, "device": facts}
    record |= {"inference": "mock" if missing else "real", "missing": missing}
    known = options.weights in ("random", "pretrained")
    record |= {"weights": options.weights if known else "path", "size": options.size}
    record |= {"dtype": options.dtype, "seed": options.seed, "checks": results}
    record |= {"measurements": measurements, "environment": environment()}
    record |= {"started": started.isoformat(), "seconds": seconds}
    print_environment(record)
    if options.json:
        temporary = options.json.with_name(f".{options.json.name}.{os.getpid()}")
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        temporary.replace(options.json)  # so that no reader sees half a record
    return 4 if away else 1 if statuses & {"fail", "error"} else 3 if missing else 0


def parse_arguments(description: str, checks: list[str]) -> argparse.Namespace:
    """The options of the command line; `checks` names what there is."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=style)
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, xpu or mps; default: the best there is"
    )
    parser.add_argument("--weights", default="random", help="random, pretrained or a folder")
    parser.add_argument("--size", default="tiny", choices=["tiny", "full"])
    parser.add_argument("--checks", help="names with commas between; default: all")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--seed", type=int, default=story.SEED, help="of weights and inputs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--list", action="store_true", help="name the checks and stop")
    options = parser.parse_args()
    options.checks = options.checks.split(",") if options.checks else checks
    for name in set(options.checks) - set(checks):
        near = difflib.get_close_matches(name, checks, 1) or checks
        parser.error(f"there is no check {name!r}; did you mean {', '.join(near)}?")
    return options


def quiet() -> None:
    """Keep the advice and the progress bars of transformers out of the report."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def run_check(name: str, check: Callable[[Subject], None], subject: Subject) -> dict[str, Any]:
    """Run one check, print its line, give back its entry in the record."""
    MEASURED.clear()
    status, reason, start = "pass", None, time.perf_counter()
    try:
        check(subject)
    except AssertionError as error:
        status, reason = "fail", str(error) or "an assertion without a message"
    except unittest.SkipTest as error:
        status, reason = "skip", str(error)
    except Exception as error:
        status, reason = "error", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    # Of all comparisons the one that failed, which is the last, or the one nearest to its bound.
    worst = max(MEASURED, key=lambda pair: pair[0] / (pair[1] or math.inf), default=(None, None))
    value, bound = MEASURED[-1] if MEASURED and status == "fail" else worst
    measured = f"{value:.1e} / {bound:.1e}" if MEASURED else ""
    print(
        f"  {status:5} {name:20} {measured:19} {seconds:6.2f} s  {reason or ''}".rstrip(),
        flush=True,
    )
    return result(name, status, reason, seconds, value, bound)


def result(
    name: str,
    status: str,
    reason: str | None,
    seconds: float = 0.0,
    value: float | None = None,
    bound: float | None = None,
) -> dict[str, Any]:
    """The entry of one check in the record; JSON has no NaN, so such a number becomes null."""
    value, bound = (x if x is not None and math.isfinite(x) else None for x in (value, bound))
    entry = {"name": name, "status": status, "reason": reason and reason[:2000]}
    return entry | {"value": value, "bound": bound, "seconds": seconds}


def measure(subject: Subject) -> dict[str, Any]:
    """Seconds to load, of the first call, of five more; peak memory in bytes; parameters."""
    names = ("load_seconds", "first_call_seconds", "peak_memory_bytes", "parameters")
    found: dict[str, Any] = dict.fromkeys(names) | {"latency_seconds": []}
    try:
        times = [time.perf_counter()]
        model = subject.fresh()
        for _ in range(7):
            synchronize(subject.device)
            times.append(time.perf_counter())
            subject.run(model, subject.inputs)
    except Exception:  # the checks have told why it does not run
        return found
    seconds = [after - before for before, after in itertools.pairwise(times)]
    found |= dict(zip(names, seconds[:2], strict=False)) | {"latency_seconds": seconds[2:]}
    kind = subject.device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        found["peak_memory_bytes"] = getattr(torch, kind).max_memory_allocated(subject.device)
    elif sys.platform != "win32":
        import resource  # macOS counts in bytes, Linux in KiB

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    return found | {"parameters": sum(p.numel() for p in model.parameters())}


def environment() -> dict[str, Any]:
    """Versions and platform; None for a package that is not installed."""
    packages: dict[str, str | None] = {}
    for name in (
        "torch",
        "transformers",
        "numpy",
        "tokenizers",
        "safetensors",
        "torchvision",
        "timm",
    ):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    threads = 0 if story.MISSING else torch.get_num_threads()
    facts = {"python": platform.python_version(), "platform": platform.platform()}
    return facts | {"threads": threads, "packages": packages}


def print_environment(record: dict[str, Any]) -> None:
    """What a bug report needs, to be pasted into it."""
    device, found, checks = record["device"], record["environment"], record["checks"]
    passed = sum(check["status"] == "pass" for check in checks)
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    print(f"{passed} of {len(checks)} checks passed in {record['seconds']:.1f} s")
    print("--- environment, for a bug report ---")
    print(f"{record['script']['name']}, sha256 {record['script']['sha256']}, seed {record['seed']}")
    print(
        f"{record['model_class']}, {record['weights']} weights, {record['size']}, {record['dtype']}"
    )
    print(f"{device['requested']}: {device['name']} {device['driver'] or ''} {device['features']}")
    print(f"Python {found['python']}, {versions}")
    print(f"{found['platform']}, {found['threads']} threads")
