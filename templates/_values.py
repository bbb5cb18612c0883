"""The values of tensors that decide how a model computes, for graphs that are made of it.

An export knows but the shapes of tensors. Where a model reads their values (`if mask.any()`, the
sizes of images, which tokens a mask leaves), its graph can be made for what it read in one run, and
then answers the inputs with which it reads the same.
"""

from __future__ import annotations

import functools
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

PASSING = re.compile(r"fake_tensor|torch.overrides|.exporters.")  # files that pass questions on


class Values:
    """What a model has read of its tensors: in order, by the line of code that asked."""

    def __init__(self) -> None:
        self.read: dict[str, list[Any]] = defaultdict(list)

    def keep(self) -> Any:
        """A context in which what is read is kept."""

        def read(line: str, ask: Callable[[], Any]) -> Any:
            self.read[line].append(ask())
            return self.read[line][-1]

        return reading(read)

    def hold(self) -> Any:
        """A context in which each line reads what was kept, in its order."""
        left = {line: iter(values) for line, values in self.read.items()}

        def read(line: str, ask: Callable[[], Any]) -> Any:
            found = next(left.get(line, iter(())), None)
            return ask() if found is None else found  # the export may ask what the run did not

        return reading(read)


def reading(read: Callable[[str, Callable[[], Any]], Any]) -> Any:
    """A context in which the values of tensors come from `read(the line that asks, ask)`."""
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        line = ""

        def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if f not in known:
                return f(*args, **(kwargs or {}))
            frame = sys._getframe(1)
            while frame.f_back and PASSING.search(frame.f_code.co_filename):
                frame = frame.f_back
            where = frame.f_code.co_filename.replace("\\", "/").rpartition("/site-packages/")[2]
            self.line = f"{where}:{frame.f_lineno}"
            return known[f](*args, **(kwargs or {}))

    mode = Mode()
    known = Answers(lambda ask: read(mode.line, ask)).by_function()
    return mode


class Answers:
    """What stands in for the functions of torch that read values: those come from `read(ask)`.

    Where the shape of a result follows from values, the indices are what is read.
    """

    def __init__(self, read: Callable[[Callable[[], Any]], Any]) -> None:
        self.read = read

    def by_function(self) -> dict[Any, Callable[..., Any]]:
        """All, by the function of torch."""
        tensor: Any = torch.Tensor
        known: dict[Any, Callable[..., Any]] = {torch.where: self.where, torch.tensor: self.tensor}
        makers: list[Any] = [torch.arange, torch.zeros, torch.ones, torch.full, torch.empty]
        for f in makers:
            known[f] = functools.partial(self.sized, f, 0)
        for f in (torch.nn.functional.pad, tensor.view, tensor.reshape, tensor.expand):
            known[f] = functools.partial(self.sized, f, 1)
        for f in (tensor.__getitem__, tensor.__setitem__):
            known[f] = functools.partial(self.indexed, f)
        known |= dict.fromkeys((tensor.item, tensor.__index__), self.item)
        known |= {tensor.tolist: self.tolist, tensor.__bool__: lambda value: bool(self.item(value))}
        known |= {tensor.__int__: lambda value: int(self.item(value))}
        known |= {tensor.__float__: lambda value: float(self.item(value))}
        for name in ("nonzero", "argwhere", "masked_select", "repeat_interleave"):
            known |= dict.fromkeys(
                (getattr(torch, name), getattr(tensor, name)), getattr(self, name)
            )
        return known

    def item(self, value: Any) -> Any:
        """The number that `value` is."""
        return self.read(value.item)

    def tolist(self, values: torch.Tensor) -> Any:
        """All numbers of `values`."""
        numbers = [self.item(each) for each in values.flatten()]
        return torch.tensor(numbers, dtype=values.dtype).reshape(values.shape).tolist()

    def sized(self, f: Any, first: int, *args: Any, **options: Any) -> Any:
        """What `f` gives, whose arguments from number `first` on are sizes."""
        sizes = {name: self.plain(value) for name, value in options.items()}
        return f(*args[:first], *map(self.plain, args[first:]), **sizes)

    def plain(self, size: Any) -> Any:
        """`size`, or what has it, as numbers."""
        if isinstance(size, slice):
            return slice(*map(self.plain, (size.start, size.stop, size.step)))
        if isinstance(size, (tuple, list)):
            return type(size)(map(self.plain, size))
        return self.item(size) if isinstance(size, torch.Tensor) and not size.ndim else size

    def places(self, mask: torch.Tensor) -> list[torch.Tensor]:
        """Where `mask` is true, by dimension."""
        found = self.read(lambda: [each.tolist() for each in mask.nonzero().unbind(1)])
        return [torch.tensor(each, dtype=torch.int64) for each in found]

    def nonzero(self, mask: torch.Tensor, *, as_tuple: bool = False) -> Any:
        """The places of `mask`."""
        places = self.places(mask)
        return tuple(places) if as_tuple else torch.stack(places, 1)

    argwhere = nonzero

    def where(self, condition: torch.Tensor, *values: Any, **options: Any) -> Any:
        """The places of `condition`, where there is nothing to choose from."""
        alone = not (values or options)
        return (
            tuple(self.places(condition)) if alone else torch.where(condition, *values, **options)
        )

    def masked_select(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The `values` where `mask` is true."""
        values, mask = torch.broadcast_tensors(values, mask)
        return values[tuple(self.places(mask))]

    def indexed(self, f: Any, values: torch.Tensor, index: Any, *new: Any) -> Any:
        """`values[index]`, or the same set to something new."""
        found: list[Any] = []
        for each in index if isinstance(index, tuple) else (index,):
            mask = isinstance(each, torch.Tensor) and each.dtype == torch.bool and each.ndim
            found += self.places(each) if mask else [self.plain(each)]
        return f(values, tuple(found), *new)

    def repeat_interleave(
        self, values: torch.Tensor, repeats: Any, dim: int | None = None, **options: Any
    ) -> Any:
        """Each of the `values` as often as `repeats` says."""
        if not isinstance(repeats, torch.Tensor):
            return torch.repeat_interleave(values, repeats, dim, **options)
        values = values.flatten() if dim is None else values
        each = repeats.expand(values.shape[dim or 0])
        found = self.read(lambda: torch.repeat_interleave(each).tolist())
        return values.index_select(dim or 0, torch.tensor(found, dtype=torch.int64))

    def tensor(self, data: Any, **options: Any) -> torch.Tensor:
        """A tensor of numbers, some of which may be tensors."""
        tensors = isinstance(data, list) and data and all(isinstance(x, torch.Tensor) for x in data)
        found = torch.stack(data) if tensors else torch.tensor(self.plain(data), **options)
        return found.to(options.get("dtype") or found.dtype)
