"""What else belongs to a model: its class on other inputs, or a class that works beside it."""

from __future__ import annotations

import inspect
import unittest
from dataclasses import dataclass
from typing import Any

from templates import _story as story
from templates._basics import assert_gradients, assert_sensitive, assert_untouched
from templates._compare import Tensors, assert_agree, assert_golden, joined
from templates._random import set_weights
from templates._subject import Subject


@dataclass
class Part(Subject):
    """The class, configuration and inputs of `part`, tiny, beside its fp64 reference."""

    part: str = ""

    def built(self) -> tuple[Any, Any, Tensors]:
        """The class of the part, its configuration, its inputs."""
        found: tuple[Any, Any, Tensors] = story.build_parts(story.build_config(), self.seed)[
            self.part
        ]
        return found

    def make(self) -> Any:
        """The model in fp32 on the CPU, with random weights."""
        model_class, config, _ = self.built()
        model = model_class(config)
        set_weights(model, self.seed)
        return model

    def build(self, attention: str = "eager", dtype: str = "float32") -> Any:
        """A new model on the CPU with the attention it has by default: some know no other."""
        return super().build("default", dtype)

    def make_inputs(self, config: Any) -> Tensors:
        """The inputs of the part."""
        return self.built()[2]

    def call(self, model: Any, inputs: Tensors, **options: Any) -> Any:
        """Call `model` on `inputs`; on the numbers themselves where it takes a list of numbers."""
        takes = inspect.signature(model.forward).parameters
        listed = {n for n in inputs if n in takes and "list[int]" in str(takes[n].annotation)}
        tensors = {name: value for name, value in inputs.items() if name not in listed}
        return super().call(model, tensors, **{n: inputs[n].tolist() for n in listed}, **options)


def test_parts(subject: Subject) -> None:
    """Each further part gives what it should, reads all that it is given, and all of it learns."""
    if (subject.weights, subject.size) != ("random", "tiny"):
        raise unittest.SkipTest("further parts are checked with random tiny weights")
    for name in story.build_parts(story.build_config(), subject.seed):
        part = Part(subject.device, subject.dtype, seed=subject.seed, part=name)
        assert_untouched(part, part.inputs, name)
        assert_agree(part.outputs, part.expected, part.bounds, f"{name} against fp64")
        if subject.seed == story.SEED:
            assert_golden({name: joined(part.expected)})
        assert_sensitive(part, [*part.inputs])
        assert_gradients(part)
