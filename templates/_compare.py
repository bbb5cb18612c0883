"""Numeric comparison of model outputs."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from templates import _story as story
from templates._random import normals

Tensors: TypeAlias = "dict[str, torch.Tensor]"
MEASURED: list[tuple[float, float]] = []  # (value, bound) of each comparison in the running check


def note(value: float, bound: float) -> float:
    """Keep a measured `value` and its `bound` for the record; gives back `value`."""
    MEASURED.append((value, bound))
    return value


def flatten(output: Any, prefix: str = "") -> Tensors:
    """The tensors of a model output by name ("logits", "hidden_states.0"); a cache has none."""
    if isinstance(output, torch.Tensor):
        return {prefix or "output": output}
    if isinstance(output, (tuple, list)):
        output = {str(index): value for index, value in enumerate(output)}
    found: Tensors = {}
    for key, value in output.items() if isinstance(output, dict) else ():
        found |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return found


def unmasked(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with 0 for the least numbers of a type, with which models mask what cannot be."""
    return tensor.masked_fill(tensor.isfinite() & (tensor.abs() > 1e30), 0)


def rms(tensor: torch.Tensor) -> float:
    """Root of the mean square of all elements that are not masked."""
    return unmasked(tensor.detach().cpu().double()).square().mean().sqrt().item()


def rmse(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square error; NaN where either has a NaN."""
    assert actual.shape == expected.shape, f"shape {[*actual.shape]}, not {[*expected.shape]}"
    return rms(unmasked(actual.double()) - unmasked(expected.double()))


def assert_agree(actual: Tensors, expected: Tensors, bounds: dict[str, float], what: str) -> None:
    """Each output of `expected` is in `actual`, no further away (RMSE) than its bound."""
    assert actual.keys() >= expected.keys(), f"{what}: no {expected.keys() - actual.keys()}"
    for name, value in expected.items():
        error, bound = note(rmse(actual[name], value), bounds[name]), bounds[name]
        assert error <= bound, f"{what}: {name} is off by {error:.2e} (RMSE), allowed {bound:.2e}"


def fingerprint(tensor: torch.Tensor) -> tuple[float, float, float]:
    """RMS of `tensor` and its projections on two fixed random directions: any change shows."""
    flat = unmasked(tensor.double()).flatten()
    first, second = (normals(f"fingerprint {k}", flat.shape).double() @ flat for k in (1, 2))
    return rms(flat), first.item() / len(flat) ** 0.5, second.item() / len(flat) ** 0.5


def assert_golden(found: Tensors) -> None:
    """The fingerprints of these tensors are those that GOLDEN has: else behaviour has changed."""
    for name, value in found.items():
        golden = story.GOLDEN[name]
        fresh, bound = fingerprint(value), 1e-6 * golden[0]
        error = note(max(abs(a - b) for a, b in zip(fresh, golden, strict=True)), bound)
        assert error <= bound, f"{name} has the fingerprint {fresh}, stored is {golden}"


def joined(tensors: Tensors) -> torch.Tensor:
    """The values of all tensors, fp64, one after the other."""
    return torch.cat([value.double().flatten() for value in tensors.values()])


def row_of(tensors: Tensors, row: int) -> Tensors:
    """Row `row` of a batch of two, as a batch of one; a tensor may have several entries a row.

    A batch that is one sequence has its rows one after the other along the last dimension.
    """
    rows = {}
    for name, value in tensors.items():
        axis = 0 if len(value) > 1 else -1
        half = value.shape[axis] // 2
        rows[name] = value.narrow(axis, row * half, half)
    return rows


def row_like(batch: torch.Tensor, alone: torch.Tensor, row: int) -> torch.Tensor:
    """Row `row` of `batch`, along the axis that is half as long in `alone`, which has one row.

    All of `batch` where it is as large with one row, as points of a grid are.
    """
    if batch.shape == alone.shape:
        return batch
    halved = [n == 2 * m for n, m in zip(batch.shape, alone.shape, strict=False)]
    axis = halved.index(True) if True in halved else 0
    return batch.movedim(axis, 0).chunk(2)[row].movedim(0, axis)


def first(tensors: Tensors, length: int, width: int) -> Tensors:
    """The first `length` positions of each tensor whose second dimension counts `width` of them."""
    return {
        name: value[:, :length] if value.ndim > 1 and value.shape[1] == width else value
        for name, value in tensors.items()
    }


def within(tensors: Tensors, expected: Tensors) -> Tensors:
    """`expected`'s of `tensors`, up to the positions (second dimension) that `expected` has."""
    shapes = {name: value.shape for name, value in expected.items() if name in tensors}
    return {n: tensors[n][:, : s[1]] if len(s) > 1 else tensors[n] for n, s in shapes.items()}


def assert_loss(
    loss: torch.Tensor, expected: torch.Tensor, eps: float, what: str = "the loss"
) -> None:
    """The loss of the model is what its formula gives, up to some rounding errors `eps`."""
    bound = (100 if eps < 1e-6 else 4) * eps * max(1.0, abs(expected.item()))
    error = note(abs(loss.double() - expected).item(), bound)
    assert error <= bound, f"{what} is {loss.item():.8f}, its formula gives {expected.item():.8f}"
