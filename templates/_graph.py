"""A model on a device that runs an exported graph instead of torch modules: OpenVINO, a browser."""

from __future__ import annotations

import functools
import unittest
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from templates._compare import Tensors, flatten

# What a graph can be asked: it has no weights to train or to save, no cache, no implementations.
GRAPH_CHECKS = ("forward", "device_parity", "placement", "determinism", "sensitivity", "dtype_bf16")


class Runtime(Protocol):
    """A graph of a model for inputs of certain shapes, compiled for a device.

    `names` are the inputs that the graph has: what it lacks is a constant of it, or plays no part.
    `operators` says how many of its operators run where, `elsewhere` names those that do not run on
    `target`, the device that was asked for. `precision` is what it computes in.
    """

    software: str  # "openvino 2026.4.1"
    precision: str  # "f32"
    names: set[str]
    target: str  # "GPU"
    operators: Counter[str]
    elsewhere: list[str]
    convert_seconds: float
    compile_seconds: float

    def __init__(self, device: str, dtype: str, model: Any, inputs: dict[str, Any]) -> None:
        """Export `model`, whose outputs are a flat dict, for `inputs`; compile it for `device`.

        In half precision `dtype` it computes in whatever the device takes by default.
        """

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs by name, on the CPU; `inputs` has each of `names`."""

    @staticmethod
    def why_unavailable(device: str) -> str | None:
        """Why nothing can run there; None where it can. Says what to install."""

    @staticmethod
    def describe(device: str) -> dict[str, Any]:
        """Name, driver, software, features and memory, as `describe_device` gives them."""


class Graph:
    """Stands for `model`: exports and compiles it for inputs of each shape when they first come.

    Inputs and outputs are on the CPU and in fp32, whatever the graph computes in.
    """

    def __init__(self, model: Any, runtime: type[Runtime], device: str, dtype: str) -> None:
        for part in model.modules():  # a cache is no output of a graph
            if hasattr(getattr(part, "config", None), "use_cache"):
                part.config.use_cache = False
        self.model, self.config, self.device, self.dtype = model, model.config, "cpu", torch.float32
        self.asked, self.load = device, functools.partial(runtime, device, dtype)
        self.runtimes: list[tuple[dict[str, Any], Runtime]] = []  # and the arguments of the export
        self.failed = False

    def __call__(self, **arguments: Any) -> Tensors:
        """The outputs by name; arguments that are no tensors are constants of the graph."""
        from transformers.exporters.utils import prepare_for_export

        tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        options = {k: v for k, v in arguments.items() if k not in tensors}
        prepared = prepare_for_export(self.model, dict(tensors))[1]
        asked = prepared | {"": options}
        for known, runtime in self.runtimes:
            if known.keys() == asked.keys() and all(
                fits(known[k], asked[k], k in runtime.names) for k in known
            ):
                break
        else:
            runtime = self.export(prepared, options)
            self.runtimes.append((asked, runtime))
        return runtime.run({name: prepared[name] for name in runtime.names})

    def export(self, inputs: dict[str, Any], options: dict[str, Any]) -> Runtime:
        """The model as a graph that takes `inputs`, with the `options` of the call in it."""
        if self.failed:  # said once, by the check that came first
            raise unittest.SkipTest("the model could not be made a graph")
        forward, self.failed = self.model.forward, not self.runtimes
        call = functools.partial(forward, **options)
        self.model.forward = functools.wraps(forward)(lambda **given: flatten(call(**given)))
        try:
            runtime = self.load(self.model, dict(inputs))
        finally:
            self.model.forward = forward
        self.failed = False
        return runtime

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of the model that it stands for."""
        yield from self.model.parameters()

    @property
    def first(self) -> Runtime:
        """The graph that was made first. Errors: IndexError where none could be made."""
        return self.runtimes[0][1]

    @property
    def observed(self) -> str:
        """Where most operators ran: what was asked for, or by its own name another device."""
        [(place, _)] = self.first.operators.most_common(1)
        as_asked = place.startswith(self.first.target)
        return self.asked if as_asked else f"{self.asked.partition(':')[0]}:{place}"

    def facts(self) -> dict[str, Any] | None:
        """For the record: of the first graph; None where there is none."""
        if not self.runtimes:
            return None
        asked, runtime = self.runtimes[0]
        return {
            "software": runtime.software,
            "precision": runtime.precision,
            "operators": dict(runtime.operators),
            "elsewhere": runtime.elsewhere[:20],
            "left_out": sorted(asked.keys() - runtime.names - {""}),
            "convert_seconds": runtime.convert_seconds,
            "compile_seconds": runtime.compile_seconds,
        }


def fits(known: Any, asked: Any, variable: bool) -> bool:
    """Whether a graph made for the argument `known` serves `asked`; a `variable` one may differ."""
    if not isinstance(known, torch.Tensor):
        return bool(known == asked)
    same = (known.shape, known.dtype) == (asked.shape, asked.dtype)
    return same and (variable or torch.equal(known, asked))
