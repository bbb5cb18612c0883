"""What a peer is, and the model of transformers that it is compared with."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]
Rule = tuple[str, str | Callable[["re.Match[str]"], str]]  # pattern -> what takes its place
Compare = Callable[["Ours"], Tensors]  # the values of the peer, by the names of our outputs


@dataclass(frozen=True)
class Peer:
    """An implementation of `family` in `package`, a distribution on PyPI.

    `changes` are made to the configuration of the family's script, where the peer knows but one
    value of a field, `inputs` are those of the script's that it takes.
    """

    family: str
    package: str
    compare: Compare
    changes: Mapping[str, Any]
    inputs: Sequence[str] | None


PEERS: dict[str, Peer] = {}


def peer(
    package: str,
    *families: str,
    changes: Mapping[str, Any] | None = None,
    inputs: Sequence[str] | None = None,
) -> Callable[[Compare], Compare]:
    """Register the decorated function as the peer of `families`."""

    def register(compare: Compare) -> Compare:
        for family in families:
            PEERS[family] = Peer(family, package, compare, changes or {}, inputs)
        return compare

    return register


class Ours:
    """The tiny model of a script, in fp64, its inputs and what it gives."""

    def __init__(self, script: ModuleType, known: Peer) -> None:
        import transformers

        self.script, self.family = script, known.family
        self.config = script.build_config()
        for path, value in known.changes.items():
            *parts, name = path.split(".")
            part = functools.reduce(getattr, parts, self.config)
            if hasattr(part, name):
                setattr(part, name, value)
        self.config._attn_implementation = "eager"
        with script.fp64_throughout():  # rotary frequencies and other constants too
            self.model = getattr(transformers, script.MODEL_CLASS)(self.config).double().eval()
        if script.EXPERTS:  # the default implementation has no fp64
            self.model.set_experts_implementation("eager")
        script.set_weights(self.model, script.SEED)
        with tempfile.TemporaryDirectory() as folder:  # weights are saved as on the Hub
            self.model.save_pretrained(folder)
            self.saved = load_file(Path(folder, "model.safetensors"))
        given = script.build_inputs(self.config, script.SEED)
        self.inputs: Tensors = {
            name: value.double() if value.is_floating_point() else value
            for name, value in given.items()
            if known.inputs is None or name in known.inputs
        }
        subject = script.Subject("cpu", seed=script.SEED)
        self.outputs: Tensors = subject.run(self.model, self.inputs)

    def instead(self, ours: Tensors, theirs: Tensors) -> Tensors:
        """Compare these outputs of our model instead, where there is a token (`attention_mask`)."""
        real = self.inputs["attention_mask"].bool()
        self.outputs = {name: value[real] for name, value in ours.items()}
        return {name: value[real] for name, value in theirs.items()}

    def state(self, module: str = "") -> Tensors:
        """The weights of the model in fp64, or those of a part of it, by their names in it."""
        part = self.model.get_submodule(module) if module else self.model
        return dict(part.state_dict())

    def theirs(self, module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Any:
        """`module` with these weights, which have to be all that it has, in fp64."""
        module = module.eval().double()
        found = module.load_state_dict({k: v.double() for k, v in weights.items()}, strict=False)
        buffers = {name for name, _ in module.named_buffers()}
        missing = set(found.missing_keys) - buffers
        assert not missing, f"nothing for {sorted(missing)[:9]}"
        assert not found.unexpected_keys, f"nowhere to put {sorted(found.unexpected_keys)[:9]}"
        return module

    def exact(self, run: Callable[[], Any]) -> Any:
        """What `run()` gives, all of it in fp64."""
        with torch.no_grad(), self.script.fp64_throughout():
            return run()


def renamed(weights: Tensors, rules: Iterable[Rule]) -> Tensors:
    """`weights` with `(pattern, replacement)` applied to their names, in order.

    A name that becomes empty is left out; several that become one, such as query, key and value,
    are laid one below the other.
    """
    made: dict[str, list[torch.Tensor]] = {}
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    for name, value in weights.items():
        for pattern, new in compiled:
            name = pattern.sub(new, name)  # noqa: PLW2901
        if name:
            made.setdefault(name, []).append(value)
    return {
        name: torch.cat(values) if len(values) > 1 else values[0] for name, values in made.items()
    }
