"""Where a series of measurements changes its level, and where a verdict flips.

A machine that is busy slows everything down in a run, which says nothing about a model: so what
all families of a device have in common in a run is taken out of each of their series, and is a
series of its own. In what remains, ruptures finds the change points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import ruptures
from numpy.typing import NDArray

Values = NDArray[np.float64]

FEWEST = 6  # runs: three before a change, and three after it
SEGMENT = 3  # runs that a level must hold for
LEAST = 0.03  # relative: smaller changes are not told
PENALTY = 20.0  # of a change point, in units of the noise's variance
NOISE = 0.004  # relative: no series is quieter than that
TOGETHER = 5  # families that a device must have, to tell what they have in common
PRIOR = 10  # runs that what is known of the noise of a device's other families counts for


@dataclass(frozen=True)
class Step:
    """A change at the run `at` (its position in the series) from `before` to `after`.

    A drift has no single such run: `at` is the middle of it, between its first and last level.
    """

    at: int
    before: float
    after: float
    kind: Literal["step", "drift"]

    @property
    def ratio(self) -> float:
        """What the value was multiplied by."""
        return self.after / self.before


def split(table: Values) -> tuple[Values, Values]:
    """What all rows have in common, and what remains of each: `table` is their product.

    Shapes: (families, runs) with NaN where nothing was measured, to (runs,) and (families, runs).
    The common part is NaN in a run where too few families were measured.
    """
    with np.errstate(invalid="ignore"):
        logs = np.log(table)
    common = np.zeros(table.shape[1])
    enough = np.isfinite(logs).sum(axis=0) >= TOGETHER
    if enough.any():
        for _ in range(3):  # by turns, as in Tukey's median polish
            levels = _nanmedian(logs - common, axis=1)[:, None]
            common = np.where(enough, _nanmedian(logs - levels, axis=0), 0.0)
    return np.where(enough, np.exp(common), np.nan), np.exp(logs - common)


def noise(values: Values) -> float:
    """The relative standard deviation of `values` from run to run, whatever their level does."""
    differences = np.diff(np.log(values))
    if len(differences) < 2:
        return float("nan")
    return float(1.4826 * np.median(np.abs(differences - np.median(differences))) / 2**0.5)


def find_steps(values: Values, usual_noise: float | None = None) -> list[Step]:
    """The changes of level in `values`, positive numbers in the order of their runs.

    `usual_noise` is that of similar series, which matters where `values` are few. A single run
    that is off is no change.
    """
    if len(values) < FEWEST:
        return []
    logs = np.log(values)
    own = noise(values)
    if usual_noise is not None and np.isfinite(usual_noise):
        own = float(
            np.sqrt((len(values) * own**2 + PRIOR * usual_noise**2) / (len(values) + PRIOR))
        )
    sigma = max(own, NOISE)
    calm = _without_outliers(logs, sigma) / sigma
    found = ruptures.KernelCPD(kernel="linear", min_size=SEGMENT).fit(calm[:, None])
    edges = [0, *map(int, found.predict(pen=PENALTY))]
    levels = [float(np.median(logs[a:b])) for a, b in itertools.pairwise(edges)]
    steps: list[Step] = []
    for position, at in enumerate(edges[1:-1]):
        before, after = levels[position], levels[position + 1]
        if abs(after - before) >= np.log1p(LEAST):
            steps.append(Step(at, float(np.exp(before)), float(np.exp(after)), "step"))
    return _drifts(steps, logs, edges)


def _drifts(steps: list[Step], logs: Values, edges: Sequence[int]) -> list[Step]:
    """Put one drift for neighbouring `steps` in one direction that a slope explains better."""
    told: list[Step] = []
    group: list[Step] = []
    for step in steps:
        if group and (step.ratio > 1) != (group[-1].ratio > 1):
            told += _as_drift(group, logs, edges)
            group = []
        group.append(step)
    return told + _as_drift(group, logs, edges)


def _as_drift(group: list[Step], logs: Values, edges: Sequence[int]) -> list[Step]:
    if len(group) < 2:
        return group
    begin = edges[edges.index(group[0].at) - 1]
    end = edges[edges.index(group[-1].at) + 1]
    part, position = logs[begin:end], np.arange(end - begin)
    slope, start = np.polyfit(position, part, 1)
    line = np.square(part - start - slope * position).sum()
    inner = [edge - begin for edge in edges if begin < edge < end]
    levels = sum(np.square(each - each.mean()).sum() for each in np.split(part, inner))
    if line > levels * 1.5:  # a line has two parameters, the levels have more
        return group
    middle = (group[0].at + group[-1].at) // 2
    return [Step(middle, group[0].before, group[-1].after, "drift")]


def _without_outliers(logs: Values, sigma: float) -> Values:
    """`logs` drawn to the median of five neighbours, as far as they are 3 `sigma` off it."""
    padded = np.pad(logs, 2, constant_values=np.nan)
    around = _nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    return np.clip(logs, around - 3 * sigma, around + 3 * sigma)


def _nanmedian(values: Values, axis: int) -> Values:
    """As numpy's, without its warning where there is no number."""
    empty = np.isnan(values).all(axis=axis)
    filled = np.where(np.expand_dims(empty, axis), 0.0, values)
    return np.asarray(np.where(empty, np.nan, np.nanmedian(filled, axis=axis)))
