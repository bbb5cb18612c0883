"""Running the checks from the command line: the report on the console, the record in JSON."""

from __future__ import annotations

import argparse
import datetime
import difflib
import hashlib
import itertools
import json
import math
import os
import platform
import re
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from templates import _story as story
from templates._browser import Saved, Web, write_bundle
from templates._compare import MEASURED
from templates._devices import (
    available_devices,
    be_exact,
    checks_on,
    describe_device,
    runtime_of,
    synchronize,
    why_unavailable,
)
from templates._graph import Graph
from templates._proof import (
    OPTIONAL,
    REQUIRED,
    Mocked,
    absent,
    prove,
    shape_of,
    stand_in,
    versions,
    why_mock,
)
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
        found = Subject(available_devices()[0], seed=story.SEED)
        try:
            prove(found)
        except Mocked as error:
            pytest.skip(f"nothing real can run: {error}")
        return found


def main(namespace: dict[str, Any]) -> int:
    """Run the checks in `namespace`; gives back the exit code that the docstring explains."""
    checks = {name[5:]: check for name, check in namespace.items() if name.startswith("test_")}
    options = parse_arguments(namespace["__doc__"], [*checks])
    if options.list:
        print(*options.checks, sep="\n")
        return 0
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # not all have all signs
    missing, mock = absent(REQUIRED), why_mock()
    device = options.device or ("cpu" if story.MISSING or mock else available_devices()[0])
    away = None if story.MISSING or mock or options.bundle else why_unavailable(device)
    facts: dict[str, Any] = {"observed": None, "name": None, "driver": None, "software": False}
    facts |= {"requested": device, "features": [], "memory_bytes": None}
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    subject = Subject(device, options.dtype, options.weights, options.size, options.seed)
    proof = None
    if not (story.MISSING or mock or away):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if options.bundle:
            subject.model.runtime = Saved
        proof, mock = proven(subject)
    sign = ("⛔", "NOT THERE", 31) if away else ("🔷", "MOCK", 34) if mock else ("🚀", "REAL", 32)
    print(f"{banner(*sign)}  {story.MODEL_CLASS} on {device}")
    if why_not := away or mock or story.MISSING:
        status = "skip" if away else "mock" if mock and not options.require_real else "error"
        results = [outcome(name, status, str(why_not)) for name in options.checks]
        print(f"  {status}: {why_not}")
        if mock:
            stand_in_runs()
    else:
        facts |= {} if options.bundle else {"observed": device} | describe_device(device)
        results = [run_check(name, checks[name], subject) for name in options.checks]
        results = with_proof(results, proof or {})
    if graph := graph_facts(subject):
        facts["observed"] = subject.model.observed
    script = Path(namespace["__file__"])
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    record = {"schema_version": 2, "family": story.FAMILY, "architecture": story.ARCHITECTURE}
    record |= {"model_class": story.MODEL_CLASS, "checkpoint": story.CHECKPOINT}
    record |= {"script": {"name": script.name, "sha256": digest}, "device": facts}
    record |= {"inference": "mock" if mock else "real", "proof": proof}
    record |= {"missing": missing + absent(story.REQUIRES)}
    known = options.weights in ("random", "pretrained")
    record |= {"weights": options.weights if known else "path", "size": options.size}
    record |= {"dtype": options.dtype, "seed": options.seed, "checks": results}
    record |= {"measurements": measure(subject, real=not why_not), "environment": environment()}
    record |= {"graph": graph}
    record |= {"started": started.isoformat(), "seconds": time.perf_counter() - clock}
    if options.bundle and not why_not:
        write_bundle(subject, record, options.bundle)
        print(f"python -m http.server --directory {options.bundle}  # then open the page it names")
        return 0
    record["seal"] = seal(record)
    report(record)
    if options.json:
        temporary = options.json.with_name(f".{options.json.name}.{os.getpid()}")
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        temporary.replace(options.json)  # so that no reader sees half a record
    failed = any(check["status"] in ("fail", "error") for check in results)
    return 4 if away else 1 if failed else 3 if mock else 0


def proven(subject: Subject) -> tuple[dict[str, Any] | None, str | None]:
    """The proof that the model is real, or what it raised instead; or why it is a mock."""
    try:
        return prove(subject), None
    except Mocked as error:
        return None, str(error)
    except Exception as error:  # most checks will tell of it too
        return {"failure": shortened(f"{type(error).__name__}: {error}")}, None


def with_proof(results: list[dict[str, Any]], proof: dict[str, Any]) -> list[dict[str, Any]]:
    """The `results`; where nothing but the proof has failed, what passes is an error."""
    statuses = {each["status"] for each in results}
    if "failure" not in proof or not statuses <= {"pass", "skip"}:
        return results
    reason = f"passes, but the model is not shown to be real: {proof['failure']}"
    return [
        (
            each | {"status": "error", "reason": shortened(reason)}
            if each["status"] == "pass"
            else each
        )
        for each in results
    ]


def stand_in_runs() -> None:
    """Have a stand-in keep the contract of the outputs, and say so."""
    made = {name: stand_in(shape) for name, shape in story.OUTPUTS.items()}
    assert {name: shape_of(value) for name, value in made.items()} == story.OUTPUTS
    print(f"  stand-in: {len(made)} outputs of zeros, in the shapes of the contract")


def banner(sign: str, word: str, color: int) -> str:
    """`word` behind its sign where the console knows that, coloured where it is a terminal."""
    try:
        sign.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        sign = "*"
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\033[{color}m{sign} {word}\033[0m" if colored else f"{sign} {word}"


def seal(record: dict[str, Any]) -> str:
    """A hash of the script's and of all that the record says: what is edited later shows."""
    said = {key: value for key, value in record.items() if key != "seal"}
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(f"{record['script']['sha256']} {text}".encode()).hexdigest()


def parse_arguments(description: str, checks: list[str]) -> argparse.Namespace:
    """The options of the command line; `checks` names what there is."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--device",
        help="cpu, cuda, cuda:1, xpu, mps, openvino, openvino:GPU, webgpu, webnn, webnn:npu; "
        "default: the best of torch",
    )
    add("--weights", default="random", help="random (default), pretrained or a folder")
    add("--size", default="tiny", choices=["tiny", "full"])
    add("--checks", help="names with commas between; default: all")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--seed", type=int, default=story.SEED, help="of weights and inputs")
    add("--json", type=Path, metavar="FILE", help="write the record there")
    add("--browser", metavar="PATH", help="a Chromium, or http://HOST:PORT of one that runs")
    add("--ort-web", metavar="DIR", help="with the files of onnxruntime-web, for browsers")
    add("--bundle", type=Path, metavar="DIR", help="write a page for any browser there, and stop")
    add("--require-real", action="store_true", help="a mock is an error (exit code 1)")
    add("--list", action="store_true", help="name the checks and stop")
    options = parser.parse_args()
    if options.bundle and not options.device:
        options.device = "webgpu"
    for name in ("browser", "ort_web"):
        if value := getattr(options, name):
            os.environ[f"PROVING_GROUND_{name.upper()}"] = value
    checks = checks_on(options.device or "", checks)
    options.checks = options.checks.split(",") if options.checks else checks
    for name in set(options.checks) - set(checks):
        near = difflib.get_close_matches(name, checks, 1) or checks
        where = f" on {options.device}" if options.device else ""
        parser.error(f"there is no check {name!r}{where}; did you mean {', '.join(near)}?")
    if options.bundle:  # its page asks
        options.checks = []
    return options


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
        packages = dict.fromkeys((*OPTIONAL, *story.REQUIRES))
        named = [n for n in packages if n in story.REQUIRES or n in str(error).lower()]
        # transformers imports nothing that it lacks, so that its name is unknown where it is used.
        if isinstance(error, (ImportError, NameError)) and (lacking := absent(tuple(named))):
            status, reason = "skip", f"needs {', '.join(lacking)}, not installed"
    seconds = time.perf_counter() - start
    # Of all comparisons the one that failed, which is the last, or the one nearest to its bound.
    worst = max(MEASURED, key=lambda pair: pair[0] / (pair[1] or math.inf), default=(None, None))
    value, bound = MEASURED[-1] if MEASURED and status == "fail" else worst
    measured = f"{value:.1e} / {bound:.1e}" if MEASURED else ""
    print(f"  {status:5} {name:18} {measured:19} {seconds:6.2f} s  {reason or ''}", flush=True)
    return outcome(name, status, reason, value, bound, seconds)


def outcome(name: str, status: str, reason: str | None, *numbers: float | None) -> dict[str, Any]:
    """The entry of one check in the record; JSON has no NaN, so such a number becomes null."""
    finite = [
        x if x is not None and math.isfinite(x) else None for x in numbers or (None, None, 0.0)
    ]
    entry = {"name": name, "status": status, "reason": reason and shortened(reason)}
    return entry | dict(zip(("value", "bound", "seconds"), finite, strict=True))


def shortened(reason: str) -> str:
    """A reason for the record, without the folder of installed packages.

    That is the machine's affair, and makes the same reason another one.
    """
    return re.sub(r"[^\s\"']*[\\/]site-packages[\\/]", "", reason)[:2000]


def measure(subject: Subject, real: bool) -> dict[str, Any]:
    """Seconds to load, of the first call, of five more; peak memory in bytes; parameters."""
    found: dict[str, Any] = {"load_seconds": None, "first_call_seconds": None}
    found |= {"latency_seconds": [], "peak_memory_bytes": None, "parameters": None}
    if not real:
        return found
    times, kind = [], subject.device.partition(":")[0]
    try:
        found["parameters"] = sum(parameter.numel() for parameter in subject.model.parameters())
        if runtime_of(subject.device) and not graph_facts(subject):  # no check has made a graph
            return found
        _, model = subject.outputs, subject.model  # behind the first call
        for _ in range(6):
            synchronize(subject.device)
            times.append(time.perf_counter())
            subject.run(model, subject.inputs)
    except Exception:  # the checks have told why it does not run
        return found
    found |= {f"{what}_seconds": seconds for what, seconds in subject.seconds.items()}
    found["latency_seconds"] = [after - before for before, after in itertools.pairwise(times)]
    if isinstance(model, Graph):  # made when first called
        load = model.first.convert_seconds + model.first.compile_seconds
        found |= {"load_seconds": load, "first_call_seconds": None}
    here = runtime_of(subject.device) is not Web  # a browser has its memory elsewhere
    if kind in ("cuda", "xpu"):
        found["peak_memory_bytes"] = getattr(torch, kind).max_memory_allocated(subject.device)
    elif here and sys.platform != "win32":
        import resource  # macOS counts in bytes, Linux in KiB

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_memory_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    return found


def graph_facts(subject: Subject) -> dict[str, Any] | None:
    """What is known of the graph that ran; None where none did, as on devices of torch."""
    model = vars(subject).get("model")
    return model.facts() if isinstance(model, Graph) else None


def environment() -> dict[str, Any]:
    """Versions and platform; None for a package that is not installed."""
    packages = tuple(dict.fromkeys((*REQUIRED, *story.REQUIRES, *OPTIONAL)))
    threads = 0 if story.MISSING or why_mock() else torch.get_num_threads()
    facts = {"python": platform.python_version(), "platform": platform.platform()}
    return facts | {"threads": threads, "packages": versions(packages)}


def report(record: dict[str, Any]) -> None:
    """Print the sum, and what a bug report needs, to be pasted into it."""
    device, found, checks = record["device"], record["environment"], record["checks"]
    passed = sum(check["status"] == "pass" for check in checks)
    there = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)
    lacking = ", ".join(name for name, version in found["packages"].items() if not version)
    print(f"{passed} of {len(checks)} checks passed in {record['seconds']:.1f} s")
    print("--- environment, for a bug report ---")
    print(f"{record['script']['name']} {record['script']['sha256']}, seed {record['seed']}")
    print(f"{record['model_class']}: {record['size']}, {record['weights']}, {record['dtype']}")
    print(f"{device['requested']}: {device['name']}, {device['driver']}, {device['features']}")
    proof = record["proof"] or {}
    if "failure" in proof:
        print(f"not shown to be real: {proof['failure']}")
    elif proof:
        ran = f"{proof['modules']} modules of {proof['class']} ran"
        print(f"{ran}, {proof['origin']}: {proof['file']}, commit {proof['commit']}")
    print(f"Python {found['python']}, {found['platform']}, {found['threads']} threads")
    print(f"{there}; not installed: {lacking or 'none of those known'}")
