"""A model on a device that runs an exported graph instead of torch modules: OpenVINO, a browser."""

from __future__ import annotations

import copy
import functools
import time
import unittest
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from templates._compare import Tensors, flatten
from templates._values import Values

# What a graph can be asked: it has no weights to train or to save, and no other implementations.
GRAPH_CHECKS = ("forward", "device_parity", "placement", "determinism", "sensitivity")


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

    def __init__(self, program: Any, device: str, dtype: str) -> None:
        """Compile what `convert` gives; half precision is what the device does by default."""

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs by name, on the CPU; `inputs` has each of `names`."""

    @staticmethod
    def convert(model: Any, inputs: dict[str, Any], dynamic: bool = False) -> Any:
        """`model` as a graph for `inputs`; if `dynamic`, for longer ones too, keeping its state."""

    @staticmethod
    def why_unavailable(device: str) -> str | None:
        """Why nothing can run there; None where it can. Says what to install."""

    @staticmethod
    def describe(device: str) -> dict[str, Any]:
        """Name, driver, software, features and memory, as `describe_device` gives them."""


@dataclass
class Made:
    """A graph, the arguments that it was made for, and the seconds that it took.

    With `held` it is the model only for inputs with which the model reads the same values.
    """

    arguments: dict[str, Any]
    program: Any
    held: Values | None
    convert_seconds: float
    runtime: Runtime
    compile_seconds: float

    def serves(self, arguments: dict[str, Any], read: Callable[[], Values]) -> bool:
        """Whether the graph answers these: those that it takes may have other values.

        But not those which the model reads, by `read()`.
        """
        equal = True
        if arguments.keys() != self.arguments.keys():
            return False
        for name, value in self.arguments.items():
            other, variable = arguments[name], name in self.runtime.names
            if not isinstance(value, torch.Tensor):
                same = value == other
            else:
                same = (value.shape, value.dtype) == (other.shape, other.dtype)
                equal = same and equal and torch.equal(value, other)
                same = same and (variable or torch.equal(value, other))
            if not same:
                return False
        return not self.held or equal or read().read == self.held.read


class Graph:
    """Stands for `model`: exports and compiles it for inputs of each shape when they first come.

    Inputs and outputs are on the CPU and in fp32, whatever the graph computes in. A cache is no
    output of it, unless it is plain tensors (`keeps`).
    """

    def __init__(
        self, model: Any, runtime: type[Runtime], asked: str, precision: str, keeps: bool = False
    ) -> None:
        use_cache(model, keeps)
        self.model, self.config, self.device, self.dtype = model, model.config, "cpu", torch.float32
        self.runtime, self.asked, self.precision, self.keeps = runtime, asked, precision, keeps
        self.made: list[Made] = []
        self.failed = False

    def __call__(self, **arguments: Any) -> dict[str, Any]:
        """The outputs by name; arguments that are no tensors are constants of the graph."""
        from transformers.exporters.utils import prepare_for_export

        tensors = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        options = {k: v for k, v in arguments.items() if k not in tensors}
        if options.get("use_cache"):
            return self.step(tensors, options)
        if self.failed:  # as the check that came first has said
            raise unittest.SkipTest("the model could not be made a graph")
        self.failed = not self.made
        given = prepare_for_export(self.model, tensors)[1]
        inputs = {k: v for k, v in given.items() if isinstance(v, torch.Tensor)}
        options |= {k: v for k, v in given.items() if k not in inputs}  # sizes, as plain numbers
        asked = {**inputs, "": options}
        read = functools.cache(lambda: self.read(inputs, options))  # a run of the model
        made = next((each for each in self.made if each.serves(asked, read)), None)
        if made is None:
            start = time.perf_counter()
            program, held = self.converted(inputs, options, read)
            made = self.compiled(asked, program, held, time.perf_counter() - start)
        return made.runtime.run({name: inputs[name] for name in made.runtime.names})

    def step(self, inputs: Tensors, options: dict[str, Any]) -> Step:
        """What the next piece of a text gives; the graph that keeps the state is its cache."""
        names = [n for n, v in options.items() if v is None or isinstance(v, Decoder)]
        if len(names) != 1 or "input_ids" not in inputs:
            raise unittest.SkipTest("only text is read in pieces by a graph")
        decoder = options[names[0]] or Decoder(self, inputs["input_ids"])
        return Step(decoder.step(inputs) | {names[0]: decoder})

    def converted(
        self, inputs: Tensors, options: dict[str, Any], read: Callable[[], Values]
    ) -> tuple[Any, Values | None]:
        """The model as a graph that takes `inputs`, with the `options` of the call in it.

        Where it cannot be made for any values, it is made for those that the model reads, `read()`.
        """
        try:
            if not any(made.held for made in self.made):  # as long as no other needed them
                return self.exported(inputs, options, None), None
        except Exception:
            if not read().read:
                raise
        return self.exported(inputs, options, read()), read()

    def read(self, inputs: Tensors, options: dict[str, Any]) -> Values:
        """The values of tensors that the model reads."""
        values = Values()
        with torch.no_grad(), values.keep():
            self.model(**inputs, **options)
        return values

    def exported(self, inputs: Tensors, options: dict[str, Any], held: Values | None) -> Any:
        """The graph, with the values that are `held` in it."""
        forward = self.model.forward

        def traced(**given: Any) -> Tensors:
            with held.hold() if held else nullcontext():
                return flatten(forward(**(options | given)))

        self.model.forward = functools.wraps(forward)(traced)
        try:
            return self.runtime.convert(self.model, dict(inputs))
        finally:
            self.model.forward = forward

    def compiled(
        self, asked: dict[str, Any], program: Any, held: Values | None, seconds: float
    ) -> Made:
        """The graph `program` on the device."""
        start = time.perf_counter()
        runtime = self.runtime(program, self.asked, self.precision)
        self.failed = False
        took = time.perf_counter() - start
        self.made.append(Made(asked, program, held, seconds, runtime, took))
        return self.made[-1]

    def in_half(self) -> Graph:
        """The same in half precision; the graph that was made first is compiled anew."""
        half = copy.copy(self)
        half.precision, half.made = "bfloat16", []
        for first in self.made[:1]:
            half.compiled(first.arguments, first.program, first.held, first.convert_seconds)
        return half

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of the model that it stands for."""
        yield from self.model.parameters()

    @property
    def first(self) -> Made:
        """The graph that was made first. Errors: IndexError where none could be made."""
        return self.made[0]

    @property
    def left_out(self) -> list[str]:
        """The inputs that the first graph does not have; none where there is no graph."""
        return sorted(
            name
            for made in self.made[:1]
            for name in made.arguments.keys() - made.runtime.names
            if name
        )

    @property
    def observed(self) -> str:
        """Where most operators ran: what was asked for, or by its own name another device."""
        [(place, _)] = self.first.runtime.operators.most_common(1)
        as_asked = place.startswith(self.first.runtime.target)
        return self.asked if as_asked else f"{self.asked.partition(':')[0]}:{place}"

    def facts(self) -> dict[str, Any] | None:
        """For the record: of the first graph; None where there is none."""
        if not self.made:
            return None
        runtime = self.first.runtime
        return {
            "software": runtime.software,
            "precision": runtime.precision,
            "operators": dict(runtime.operators),
            "elsewhere": runtime.elsewhere[:20],
            "left_out": self.left_out,
            "held": sorted(self.first.held.read)[:20] if self.first.held else [],
            "convert_seconds": self.first.convert_seconds,
            "compile_seconds": self.first.compile_seconds,
        }


class Decoder:
    """A graph that reads a text in pieces of any length and keeps its state in between."""

    def __init__(self, graph: Graph, ids: torch.Tensor) -> None:
        from transformers.exporters.utils import decompose_prefill_decode

        use_cache(graph.model, True)
        parts = decompose_prefill_decode(graph.model, {"input_ids": ids}, multi_token_decode=True)
        model, inputs = parts["decode"]
        program = graph.runtime.convert(model, inputs, dynamic=True)
        self.runtime, self.seen = graph.runtime(program, graph.asked, graph.precision), 0
        use_cache(graph.model, graph.keeps)

    def step(self, inputs: Tensors) -> Tensors:
        """The outputs of the next piece; `attention_mask` is of all that was read so far."""
        rows, length = inputs["input_ids"].shape
        places = torch.arange(self.seen, self.seen + length)
        self.seen += length
        known = {"cache_position": places, "position_ids": places.expand(rows, -1)}
        known |= {"beam_idx": torch.arange(rows, dtype=torch.int32)} | inputs
        return self.runtime.run({name: known[name] for name in self.runtime.names})


class Step(dict[str, Any]):
    """Outputs by name, also as attributes."""

    __getattr__ = dict.__getitem__


def use_cache(model: Any, wanted: bool) -> None:
    """Let the model and its parts give a cache, or none, also when they generate."""
    for part in model.modules():
        for name in ("config", "generation_config"):
            config: Any = getattr(part, name, None)
            if hasattr(config, "use_cache"):
                config.use_cache = wanted
