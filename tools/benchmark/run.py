"""Benchmark: plan what is asked, predict whether it fits, measure it, keep what came out.

One record (JSON) for each family, device, type and batch, in a folder for each call, below
`benchmarks/`. What does not fit is extrapolated from models of less depth, and labelled so; what
cannot be measured at all has a record that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tools import devices, plan, results, scripts
from tools.benchmark import statistics, vs
from tools.reports import form
from tools.usage import CannotWrite, UsageError, plain, unknown

HERE = Path(__file__).parent
SECONDS, CALLS = 5.0, 10  # at least, of the calls that count
TOKENS = 33  # of which the first is the prefill
SHARE = 0.9  # of the free memory that a model may need
STEAL, OTHERS = 0.02, 0.10  # shares of the processors' time: more, and the run is noisy
DEPTHS = (2, 4)  # layers of the deepest stack, from which a whole model is extrapolated


class ChildFailed(Exception):
    """The process that holds a model has ended; the message says why."""


class NotExtrapolated(Exception):
    """Models of less depth say nothing of this one; the message says why."""


class Child:
    """A process that holds a model (`child.py`), asked by `ask`; `facts` are what it was built.

    `python` is what runs the `program`.
    """

    def __init__(
        self,
        request: dict[str, Any],
        timeout: float,
        python: str = sys.executable,
        program: str = "child.py",
    ) -> None:
        threads = str(request.get("threads") or psutil.cpu_count(logical=False) or 1)
        offline = {"HF_HUB_OFFLINE": "1"} if request["weights"] != "pretrained" else {}
        self.timeout = timeout
        self.process = subprocess.Popen(
            [python, str(HERE / program), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": threads, **offline},
            text=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        reading = (self._read_answers, self._read_errors)
        self._readers = [threading.Thread(target=target, daemon=True) for target in reading]
        for reader in self._readers:
            reader.start()
        try:
            self.facts = self._answer()
        except ChildFailed:
            self.stop()
            raise

    def ask(self, command: str, **arguments: Any) -> Any:
        """What the child answers. Errors: ChildFailed."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # its end is told by `_answer`
            self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:  # what the process had open is closed, so they end
            reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):  # what was still to be sent
                if pipe:
                    pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _answer(self) -> Any:
        try:
            line = self._answers.get(timeout=self.timeout)
        except queue.Empty as error:
            raise ChildFailed(f"no answer within {self.timeout:.0f} s") from error
        if not line:
            code = self.process.wait()
            last = plain(self._errors[-1]) if self._errors else ""
            raise ChildFailed(f"its process ended with exit code {code}: {last}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise ChildFailed(plain(answer["error"]))
        return answer

    def _read_answers(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _read_errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._errors = [*self._errors[-20:], line.strip()]


def main(options: argparse.Namespace) -> int:
    """`python -m tools benchmark`: 0 when each was measured or says why not, 1 where one broke."""
    requests = {_name(request): request for request in asked(options)}
    if options.vs:
        return vs.main(options, [*requests.values()])
    folder = _folder(options)
    left = {
        name: request
        for name, request in requests.items()
        if not _is_done(folder / f"{name}.json", request)
    }
    there = f", {len(requests) - len(left)} of them are there" if len(left) < len(requests) else ""
    print(f"{len(requests)} measurements{there}, in {folder}", flush=True)
    broken, rooflines = 0, dict[tuple[str, str], dict[str, float]]()
    started = time.monotonic()
    for number, (name, request) in enumerate(left.items(), 1):
        record = measure(request, options.timeout, rooflines)
        results.write(folder / f"{name}.json", record, "benchmark")
        broken += record["status"] == "error"
        minutes = (time.monotonic() - started) / number * (len(left) - number) / 60
        print(f"[{number}/{len(left)}] {name}: {told(record)}; {minutes:.0f} min left", flush=True)
    print(f"`nox -s publish` renders benchmark_reports/ from {options.benchmarks}")
    return 1 if broken else 0


def _folder(options: argparse.Namespace) -> Path:
    """The folder for the records: a new one, or with `--resume` an earlier.

    Errors: UsageError, CannotWrite.
    """
    root: Path = options.benchmarks
    if options.resume is not None:
        earlier = {path.name: path for path in root.glob("*") if path.is_dir()}
        name = options.resume or max(earlier, default="")
        if name not in earlier:
            raise UsageError(f"--resume: {unknown('folder', name, earlier)} in {root}")
        return earlier[name]
    folder = root / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written ({error})") from error
    return folder


def _is_done(path: Path, request: dict[str, Any]) -> bool:
    """Whether there is a record that holds: of the script as it is, neither noisy nor an error."""
    try:
        record = results.read_benchmark(path)
    except results.BrokenRecord:  # or none
        return False
    same = record["script_sha256"] == scripts.read(Path(request["script"])).sha256
    return same and record["status"] not in ("noisy", "error")


def asked(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The measurements that the options ask for, as requests of `child.py`. Errors: UsageError."""
    families = plan.known_families(options.scripts, options.family)
    chosen = plan.choose_devices(options.device or ["cpu"], devices.probe)
    weights = options.weights or "random"
    if weights not in ("random", "pretrained") and not Path(weights).is_dir():
        raise UsageError(f"--weights: {weights!r} is neither random, pretrained nor a folder")
    for family, script in families.items():
        for device in chosen:
            for batch in options.batch or [1]:
                yield {
                    "family": family,
                    "script": str(script.resolve()),
                    "device": device,
                    "dtype": options.dtype or "float32",
                    "weights": weights,
                    "size": options.size or "full",
                    "seed": options.seed or 0,
                    "batch": batch,
                    "length": options.length,
                    "extrapolate": options.extrapolate,
                }


def measure(
    request: dict[str, Any], timeout: float, rooflines: dict[tuple[str, str], dict[str, float]]
) -> dict[str, Any]:
    """The record of a request: measured, extrapolated, or why neither could be."""
    record = described(request)
    needs = predict(request, timeout)
    record["predicted"] = needs
    free = psutil.virtual_memory().available
    record["free_bytes"] = free
    need = max(needs["build"], needs["run"] or needs["weights"]) if needs else None
    try:
        if need is not None and need > SHARE * free:
            short = f"needs {need / 1e9:.1f} GB, {free / 1e9:.1f} free"
            return {**record, **instead(request, timeout, short)}
        with Child(request, timeout) as child:
            record |= observe(child, request, rooflines)
        if request["extrapolate"]:
            with contextlib.suppress(NotExtrapolated):
                record["extrapolated"] = extrapolate(request, timeout)
    except ChildFailed as error:
        return {**record, "status": "error", "reason": str(error)}
    piped = record["pipeline"]
    if piped and piped["status"] == "fail":  # what is wrong has no speed
        return {**record, "status": "error", "reason": f"{piped['task']}: {piped['reason']}"}
    return {**record, "status": "noisy" if record["noise"] else "measured"}


def described(request: dict[str, Any]) -> dict[str, Any]:
    """What is known before anything runs."""
    facts = scripts.read(Path(request["script"]))
    constants = facts.constants
    kinds = ("random", "pretrained")
    weights = request["weights"]
    return {
        "schema_version": 1,
        "family": request["family"],
        "architecture": constants.get("ARCHITECTURE"),
        "model_class": constants.get("MODEL_CLASS"),
        "checkpoint": constants.get("CHECKPOINT"),
        "script_sha256": facts.sha256,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{key: request[key] for key in ("device", "dtype", "size", "batch", "length", "seed")},
        "weights": weights if weights in kinds else "path",
        "revision": None,
        "pipeline": None,
        "host": platform.node(),
        "versions": plan.versions(),
        "status": "measured",
        "reason": None,
        "noise": [],
    }


def predict(request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
    """What the child says that the model needs, in bytes; None where it cannot be built so."""
    return _predicted(json.dumps({**request, "device": "meta"}), timeout)


@functools.lru_cache(maxsize=8)  # the same on each device that is asked for
def _predicted(request: str, timeout: float) -> dict[str, Any] | None:
    command = [sys.executable, str(HERE / "child.py"), "--predict", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError):
        return None
    return found


def observe(
    child: Child, request: dict[str, Any], rooflines: dict[tuple[str, str], dict[str, float]]
) -> dict[str, Any]:
    """What the child's model does: times, memory, operations, and the noise meanwhile."""
    facts = child.facts
    with Watch(child.process.pid) as watch:
        warm = child.ask("warm_up")
        times = child.ask("time", seconds=SECONDS, calls=CALLS)
    latency = statistics.summarise(times)
    noise = watch.noise()
    if latency["iqr"] > statistics.SPREAD * latency["median"]:
        spread = latency["iqr"] / latency["median"]
        noise.append(f"half of the calls differ by more than {spread:.0%} of the median")
    found = {**facts, "latency": latency, "warm_up_calls": len(warm), "noise": noise}
    found["throughput_per_second"] = request["batch"] / latency["median"]
    found["memory"] = child.ask("memory")
    if request["weights"] != "random":
        found["pipeline"] = child.ask("pipeline")
    if facts["generates"]:
        with contextlib.suppress(ChildFailed):  # a model that cannot generate from these inputs
            child.ask("generate", tokens=2)
            first = [child.ask("generate", tokens=1) for _ in range(3)]
            whole = [child.ask("generate", tokens=TOKENS) for _ in range(3)]
            prefill = statistics.summarise(first)["median"]
            step = (statistics.summarise(whole)["median"] - prefill) / (TOKENS - 1)
            found["generation"] = {
                "first_token_seconds": prefill,
                "token_seconds": step,
                "tokens_per_second": request["batch"] / step,
            }
    if child.process.poll() is None:
        found["flops"] = child.ask("flops")
        key = (request["device"], request["dtype"])
        if key not in rooflines:
            rooflines[key] = child.ask("roofline")
        found["roofline"] = rooflines[key]
    return found


def instead(request: dict[str, Any], timeout: float, short: str) -> dict[str, Any]:
    """What a record says of a model that does not fit, which is told by `short`."""
    try:
        found = extrapolate(request, timeout)
    except NotExtrapolated as error:
        return {"status": "skip", "reason": f"{short}; {error}"}
    return {"status": "extrapolated", "reason": short, "extrapolated": found}


def extrapolate(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Latency and memory of a model from two of less depth. Errors: NotExtrapolated.

    Both are linear in the number of layers, where all stacks are cut by the same share.
    """
    layers = deepest(request, timeout)
    if layers is None or layers <= DEPTHS[-1]:
        raise NotExtrapolated("it has no layers to leave out")
    points = []
    for depth in DEPTHS:
        less = {**request, "depth": depth / layers}
        needs, free = predict(less, timeout), psutil.virtual_memory().available
        if needs is None or max(needs["build"], needs["run"] or 0) > SHARE * free:
            raise NotExtrapolated(f"nor do {depth} of {layers} layers fit")
        with Child(less, timeout) as child:
            child.ask("warm_up")
            times = child.ask("time", seconds=SECONDS, calls=CALLS)
            latency = statistics.summarise(times)["median"]
            points.append((depth, latency, child.ask("memory")["resident"]))
    (d0, t0, m0), (d1, t1, m1) = points
    share = (layers - d1) / (d1 - d0)
    return {
        "layers": layers,
        "depths": [d0, d1],
        "latency_seconds": t1 + (t1 - t0) * share,
        "resident_bytes": round(m1 + (m1 - m0) * share),
    }


def deepest(request: dict[str, Any], timeout: float) -> int | None:
    """The number of layers of the deepest stack of the model."""
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import child\n"
        "script = child.load_script(pathlib.Path(sys.argv[1]))\n"
        "config = getattr(script, script.MODEL_CLASS).config_class()\n"
        "print(max(child.layer_counts(config), default=0))"
    )
    command = [sys.executable, "-c", code, request["script"], str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    words = done.stdout.split()
    return int(words[-1]) or None if done.returncode == 0 and words else None


class Watch:
    """Sees what else the processors do meanwhile: other processes, and the host of this machine."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.load = psutil.getloadavg()[0]

    def __enter__(self) -> Watch:
        self.before = self._times()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # else the process may be gone
            self.after = self._times()

    def _times(self) -> tuple[float, float, float, float]:
        """Seconds of: the wall, all processors at work, the child, the host at other work."""
        total, own = psutil.cpu_times(), self.process.cpu_times()
        busy = total.user + total.system + total.nice
        return time.monotonic(), busy, own.user + own.system, getattr(total, "steal", 0.0)

    def noise(self) -> list[str]:
        """What makes the times doubtful, in words."""
        wall, busy, own, steal = (b - a for a, b in zip(self.before, self.after, strict=True))
        capacity = wall * (psutil.cpu_count() or 1)
        found = []
        if (others := (busy - own) / capacity) > OTHERS:
            found.append(f"other processes took {others:.0%} of the processors")
        if (share := steal / capacity) > STEAL:
            found.append(f"the host took {share:.0%} of the processors")
        return found


def told(record: dict[str, Any]) -> str:
    """A record in one line."""
    status = record["status"]
    if status in ("measured", "noisy"):
        more = f" ({'; '.join(record['noise'])})" if record["noise"] else ""
        piped = record["pipeline"]
        told = f", pipeline {piped['task']}: {piped['status']}" if piped else ""
        return f"{status}, {form.interval(record['latency'])}{told}{more}"
    if status == "extrapolated":
        return f"extrapolated, {form.duration(record['extrapolated']['latency_seconds'])}"
    return f"{status}: {record['reason']}"


def _name(request: dict[str, Any]) -> str:
    """What the record of a request is called."""
    usual = {"weights": "random", "size": "full"}
    special = [Path(request[k]).name for k, value in usual.items() if request[k] != value]
    length = [f"l{request['length']}"] if request["length"] else []
    what = (request["family"], request["device"], request["dtype"], f"b{request['batch']}")
    return "-".join([*what, *length, *special]).replace(":", "-")
