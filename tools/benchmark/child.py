"""The process that holds one model and times it: `python child.py [--predict] REQUEST` (JSON).

It answers commands on standard input, each a line of JSON, with a line of JSON: so two of them can
take turns. It needs nothing but torch and the script, so any environment's Python can run it. What
the model prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

LAYERS = (  # what configurations call the number of layers of a stack
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers", "num_decoder_layers", "depth",
)  # fmt: skip


class Model:
    """The model of a script on a device, as a request asks for it.

    Keys of a request: script, device, dtype, weights, size, seed, batch, length; optional
    attention, depth (the share of the layers of each stack that the model has), and passes (how
    many forward passes are timed as one call).
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.script = load_script(Path(request["script"]))
        self.device, self.kind = request["device"], request["device"].partition(":")[0]
        forget_peak()
        self.started = resident_bytes()
        start = time.perf_counter()
        self.model = self.build()
        self.synchronize()
        self.load_seconds = time.perf_counter() - start
        self.loading_bytes = forget_peak() - self.started
        self.inputs = self.placed(sized(self.script, self.config, request))
        start = time.perf_counter()
        self.call()
        self.first_call_seconds = time.perf_counter() - start

    def build(self) -> Any:
        """The model on its device; where that runs graphs, the graph that stands for it."""
        request, script = self.request, self.script
        if request.get("depth"):
            cut_layers(script, request["depth"])
        if request["weights"] == "random":
            model = script.build_model("random", request["size"], request["seed"])
        else:
            made = checkpoint_config(script, request["weights"]).architectures[0]
            model = script.pretrained(getattr(transformers, made), request["weights"])
        prove_origin(script, model.eval())
        self.config, self.model_class = model.config, type(model).__name__
        if request.get("attention"):
            model.set_attn_implementation(request["attention"])
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        runtime = script.runtime_of(self.device)
        self.is_graph = runtime is not None
        if runtime:
            return script.Graph(model, runtime, self.device, request["dtype"])
        return model.to(self.device, getattr(torch, request["dtype"]))

    def placed(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`inputs` where the model is, floating point ones in its type."""
        found: dict[str, torch.Tensor] = self.script.placed(inputs, self.model)
        return found

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        if not self.is_graph:
            self.script.synchronize(self.device)

    def call(self) -> Any:
        """One forward pass."""
        with torch.no_grad():
            result = self.model(**self.inputs, **self.script.OPTIONS)
        self.synchronize()
        return result

    def facts(self) -> dict[str, Any]:
        """What was built, and what it took."""
        runtime = self.model.first.runtime if self.is_graph else None
        tensors = [*self.model.parameters()] + ([] if self.is_graph else [*self.model.buffers()])
        return {
            "model_class": self.model_class,
            "revision": self.revision(),
            "load_seconds": self.load_seconds,
            "first_call_seconds": self.first_call_seconds,
            "parameters": self.parameters,
            "model_bytes": sum(t.numel() * t.element_size() for t in tensors),
            "inputs": {name: list(value.shape) for name, value in self.inputs.items()},
            "generates": not self.is_graph and self.model.can_generate(),
            "layers": max(layer_counts(self.config), default=None),
            "precision": runtime.precision if runtime else self.request["dtype"],
            "device_facts": self.script.describe_device(self.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def revision(self) -> str | None:
        """The commit of the checkpoint, where it comes from the hub's cache."""
        if self.request["weights"] == "random":
            return None
        place = self.script.checkpoint_of(self.request["weights"])
        file = Path(transformers.utils.cached_file(place, "config.json"))
        return file.parent.name if file.parent.parent.name == "snapshots" else None

    def time(self, seconds: float, calls: int) -> list[float]:
        """Seconds of each of at least `calls` calls that take at least `seconds` in all."""
        passes = range(self.request.get("passes", 1))
        gc.collect()
        gc.disable()
        found: list[float] = []
        try:
            while len(found) < calls or sum(found) < seconds:
                start = time.perf_counter()
                for _ in passes:
                    self.call()
                found.append(time.perf_counter() - start)
        finally:
            gc.enable()
        return found

    def warm_up(self, limit: float = 30.0) -> list[float]:
        """Call until the last five calls are no faster than the five before; at most `limit` s."""
        found: list[float] = []
        while sum(found) < limit:
            found += self.time(0, 1)
            before, last = sorted(found[-10:-5]), sorted(found[-5:])
            if len(found) >= 10 and last[2] >= 0.98 * before[2]:
                break
        return found

    def generate(self, tokens: int) -> float:
        """Seconds of greedy decoding of just `tokens` tokens."""
        exact = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
        inputs = {name: value.clone() for name, value in self.inputs.items()}
        start = time.perf_counter()
        with torch.no_grad():
            self.model.generate(**inputs, **exact)
        self.synchronize()
        return time.perf_counter() - start

    def pipeline(self) -> dict[str, Any]:
        """How the pipeline of the checkpoint does: see `pipelines.check`."""
        if self.is_graph:
            why = "pipelines take no graphs"
            return {"task": None, "status": "skip", "reason": why, "output": None}
        pipelines = importlib.import_module("pipelines")  # beside this file
        place = self.script.checkpoint_of(self.request["weights"])
        found: dict[str, Any] = pipelines.check(self.model, place)
        return found

    def flops(self) -> int | None:
        """Floating point operations of a forward pass as torch counts them; None for graphs."""
        from torch.utils.flop_counter import FlopCounterMode

        if self.is_graph:
            return None
        with FlopCounterMode(display=False) as counter:
            self.call()
        return int(counter.get_total_flops())

    def roofline(self) -> dict[str, float]:
        """What the device does at best: FLOP/s of a matrix product, byte/s of a copy."""
        place = "cpu" if self.is_graph else self.device
        kind = torch.float32 if self.is_graph else getattr(torch, self.request["dtype"])
        square = torch.ones(2048, 2048, dtype=kind, device=place)
        block = torch.ones(1 << 26, dtype=torch.float32, device=place)  # 256 MiB
        target = torch.empty_like(block)
        return {
            "flops_per_second": 2 * 2048**3 / self.best(lambda: square @ square),
            "bytes_per_second": 2 * 4 * block.numel() / self.best(lambda: target.copy_(block)),
        }

    def best(self, work: Callable[[], object]) -> float:
        """Seconds of the fastest of ten times `work`."""
        found = []
        for _ in range(10):
            start = time.perf_counter()
            work()
            self.synchronize()
            found.append(time.perf_counter() - start)
        return min(found)

    def memory(self) -> dict[str, int | None]:
        """Peak bytes while loading and since: of the process beyond torch, and of the device."""
        on_device = None
        if self.kind in ("cuda", "xpu"):
            on_device = getattr(torch, self.kind).max_memory_allocated(self.device)
        return {
            "loading": self.loading_bytes,
            "resident": peak_bytes() - self.started,
            "device": on_device,
        }


def load_script(path: Path) -> Any:
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("script", path)
    assert specification, f"{path} is no Python file"
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules["script"] = module
    specification.loader.exec_module(module)
    return module


def checkpoint_config(script: Any, weights: str) -> Any:
    """The configuration of a checkpoint, which names a class of the family. Errors: ValueError."""
    place = script.checkpoint_of(weights)
    config = transformers.AutoConfig.from_pretrained(place)
    names = config.architectures or []
    made = getattr(transformers, names[0], None) if names else None
    if f".{script.FAMILY}." not in getattr(made, "__module__", ""):
        said = f"holds a {names[0]}" if names else "does not say of which class it is"
        raise ValueError(f"{place} {said}, no model of {script.FAMILY}")
    return config


def prove_origin(script: Any, model: Any) -> None:
    """Refuse a stand-in: all code of the model is that of torch and transformers."""
    script.prove_torch()
    for module in model.modules():
        script.prove_code(module, Path(transformers.__file__).parent)


def sized(script: Any, config: Any, request: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The inputs of the script, as many rows as the `batch`; texts alone as long as `length`.

    Nothing is padded: each row is the script's first, which has no padding; masks are ones.
    """
    inputs: dict[str, torch.Tensor] = script.build_inputs(config, request["seed"])
    batch, length = request["batch"], request.get("length")
    width = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    text = all(value.shape == (2, width) for value in inputs.values())
    found = {}
    for name, value in inputs.items():
        if len(value) == 1:  # a batch that is one sequence stays as it is
            found[name] = value
            continue
        rows = value[: len(value) // 2]
        if text and length:
            rows = rows.repeat(1, -(-length // width))[:, :length]
        if name.endswith("mask") and not rows.is_floating_point():
            rows = torch.ones_like(rows)
        found[name] = rows.repeat(batch, *[1] * (rows.ndim - 1))
    return found


def parts(config: Any) -> list[Any]:
    """A configuration and all that it holds."""
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    return [config, *(part for value in inner for part in parts(value))]


def layer_counts(config: Any) -> list[int]:
    """The numbers of layers of its stacks."""
    values = [getattr(part, name, None) for part in parts(config) for name in LAYERS]
    return [value for value in values if isinstance(value, int)]


def cut_layers(script: Any, depth: float) -> None:
    """Have the script build its full-size model with that share of each stack's layers.

    Stacks of less than four layers stay whole.
    """
    config_class = getattr(script, script.MODEL_CLASS).config_class

    def cut() -> Any:
        config = config_class()
        for part in parts(config):
            for name in LAYERS:
                count = getattr(part, name, None)
                if isinstance(count, int) and count >= 4:
                    setattr(part, name, max(1, round(count * depth)))
                    if isinstance(kinds := getattr(part, "layer_types", None), list):
                        part.layer_types = kinds[: getattr(part, name)]
        return config

    setattr(script, config_class.__name__, cut)


def resident_bytes() -> int:
    """What the process has in memory now, libraries apart; its peak where that cannot be read."""
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") - library_bytes()
    return peak_bytes()


def peak_bytes() -> int:
    """The most that the process had in memory since `forget_peak`, on Linux; elsewhere ever.

    On Linux without the code of libraries, which is read from their files as it is first run.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 - library_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def library_bytes() -> int:
    """What of the libraries' files is in memory."""
    found, of_library = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # the head of a mapping
            of_library = ".so" in words[-1]
        elif of_library and words[0] == "Rss:":
            found += int(words[1]) * 1024
    return found


def forget_peak() -> int:
    """The peak so far; from now on it is counted anew where the system can.

    What has been freed is given back to the system before, or it would count from now on.
    """
    peak, clear = peak_bytes(), Path("/proc/self/clear_refs")
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim:
        trim(0)
    if clear.exists():
        clear.write_text("5")
    return peak


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes of weights, of the most that is alive in a forward pass, and of building it.

    Found before anything is built: on torch's meta device, which has shapes but no values, by
    torch's memory tracker.

    `run` is None where the model looks at values while it runs: on the meta device there are none.
    """
    from torch.distributed._tools.mem_tracker import MemTracker

    script = load_script(Path(request["script"]))
    model_class = getattr(script, script.MODEL_CLASS)
    if request.get("depth"):
        cut_layers(script, request["depth"])
    if request["weights"] != "random":
        config = checkpoint_config(script, request["weights"])
        model_class = getattr(transformers, config.architectures[0])
    elif request["size"] == "full":
        config = getattr(script, model_class.config_class.__name__)()
    else:
        config = script.build_config()
    inputs = sized(script, config, request)
    kind = getattr(torch, request["dtype"])
    found: dict[str, Any] = {"run": None, "error": None}
    with torch.device("meta"):
        model = model_class(config).eval()
    built = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    model.to(kind)
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    placed = {
        name: value.to("meta", kind if value.is_floating_point() else None)
        for name, value in inputs.items()
        if not (name.endswith("mask") and bool(value.all()))  # models would look whether it is
    }
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # as the tracker's hooks want it
    tracker = MemTracker()
    tracker.track_external(model, *placed.values())
    try:
        with torch.no_grad(), tracker:
            model(**placed, **script.OPTIONS)
        snapshot = tracker.get_tracker_snapshot("peak")
        found["run"] = sum(int(kinds["Total"]) for kinds in snapshot.values())
    except Exception as error:  # it looks at values, or an operator has no meta kernel
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"weights": weights, "build": max(built, weights), **found}


def main() -> int:
    """Answer commands until there are no more; or, with `--predict`, what the model needs."""
    if sys.argv[1] == "--predict":
        print(json.dumps(predict(json.loads(sys.argv[2]))))
        return 0
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        model = Model(json.loads(sys.argv[1]))
        answers.write(json.dumps(model.facts()) + "\n")
        for line in sys.stdin:
            command = json.loads(line)
            answer = getattr(model, command.pop("do"))(**command)
            answers.write(json.dumps(answer) + "\n")
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        answers.write(json.dumps({"error": told}) + "\n")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
