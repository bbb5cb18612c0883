"""What was not measured, estimated from what was: labelled as such, and never in a verdict.

The features of a family are its parameters, layers, positions and architecture, and how it does on
other devices compared with the families beside it. How far off estimates are is measured by
leaving cells out (cross-validation), and told beside each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from tools import scripts
from tools.reports.data import Column, Family, Matrix

Measured = Literal["latency", "memory"]
Key = tuple[str, Column]

MEASURES: tuple[Measured, ...] = ("latency", "memory")
FEWEST = 40  # measured cells: fewer teach nothing
FOLDS = 5


@dataclass(frozen=True)
class Estimates:
    """What cells probably need, in seconds or bytes, and how far off that is.

    `half` and `most` are factors: half, and nine tenths, of the cells that were left out in
    cross-validation came out within them, be it too high or too low.
    """

    values: Mapping[Key, float]
    half: float
    most: float


def estimate(matrix: Matrix, folder: Path, measure: Measured) -> Estimates | None:
    """Estimate `measure` of the cells that lack it, or None where too little was measured.

    `folder` has the scripts, which say what a model gives out.
    """
    known = {}
    for key, cell in matrix.cells.items():
        value = cell.latency_median if measure == "latency" else cell.peak_memory_bytes
        if value and cell.passes:
            known[key] = math.log(value)
    wanted = [
        (family.name, column)
        for family in matrix.families
        for column in matrix.columns
        if not _has(matrix, (family.name, column), measure)
    ]
    if len(known) < FEWEST:
        return None
    facts = {family.name: _facts(matrix, family, folder) for family in matrix.families}
    kinds = sorted({family.architecture for family in matrix.families})
    table = _Table(facts, kinds, matrix.columns)
    errors = [abs(error) for error in _left_out(table, known)]
    values: dict[Key, float] = {}
    devices = {column for _, column in known}
    wanted = [key for key in wanted if key[1] in devices]  # of others nothing is known at all
    if wanted:
        found = table.fit(known)(wanted)
        values = {key: math.exp(value) for key, value in zip(wanted, found, strict=True)}
    half, most = np.quantile(errors, [0.5, 0.9])
    return Estimates(values, math.exp(half), math.exp(most))


def _has(matrix: Matrix, key: Key, measure: Measured) -> bool:
    cell = matrix.cells.get(key)
    if cell is None:
        return False
    return (cell.latency_median if measure == "latency" else cell.peak_memory_bytes) is not None


def _left_out(table: _Table, known: Mapping[Key, float]) -> list[float]:
    """The errors of estimates of cells that were left out, each once, as logarithms."""
    keys = list(known)
    order = np.random.default_rng(0).permutation(len(keys))
    errors = []
    for fold in range(FOLDS):
        out = {keys[index] for index in order[fold::FOLDS]}
        model = table.fit({key: value for key, value in known.items() if key not in out})
        found = model(sorted(out, key=keys.index))
        pairs = zip(sorted(out, key=keys.index), found, strict=True)
        errors += [value - known[key] for key, value in pairs]
    return errors


class _Table:
    """Cells as rows of numbers; `facts` are those of a family."""

    def __init__(
        self, facts: Mapping[str, Sequence[float]], kinds: Sequence[str], columns: Sequence[Column]
    ) -> None:
        self._facts = facts
        self._kinds = {name: float(index) for index, name in enumerate(kinds)}
        self._columns = {column: float(index) for index, column in enumerate(columns)}

    def fit(self, known: Mapping[Key, float]) -> Any:
        """A function from cells to the logarithms of what they need."""
        from sklearn.ensemble import RandomForestRegressor

        groups: dict[Column, list[float]] = {}
        for (_, column), value in known.items():
            groups.setdefault(column, []).append(value)
        usual = {column: median(values) for column, values in groups.items()}
        beside: dict[str, dict[Column, float]] = {}
        for (family, column), value in known.items():
            beside.setdefault(family, {})[column] = value - usual[column]

        def rows(keys: Sequence[Key]) -> Any:
            return np.array([self._row(key, beside.get(key[0], {})) for key in keys])

        keys = list(known)
        targets = np.array([known[key] - usual[key[1]] for key in keys])
        regressor = RandomForestRegressor(60, min_samples_leaf=2, random_state=0)
        regressor.fit(rows(keys), targets)

        def predict(wanted: Sequence[Key]) -> Any:
            return regressor.predict(rows(wanted)) + np.array([usual[key[1]] for key in wanted])

        return predict

    def _row(self, key: Key, beside: Mapping[Column, float]) -> list[float]:
        """The device, the architecture and facts of a family, and how it does on other devices."""
        family, column = key
        others = [value for other, value in beside.items() if other != column]
        kind, *numbers = self._facts[family]
        return [self._columns[column], kind, *numbers, median(others) if others else math.nan]


def _facts(matrix: Matrix, family: Family, folder: Path) -> list[float]:
    """Number of the architecture, parameters, FLOPs, layers and values given out; NaN: unknown.

    A call costs about two operations for each parameter at each position.
    """
    kinds = sorted({each.architecture for each in matrix.families})
    cells = (matrix.cells.get((family.name, column)) for column in matrix.columns)
    parameters = next((c.parameters for c in cells if c and c.parameters), None)
    try:
        outputs = scripts.read(folder / family.script_name).constants.get("OUTPUTS", {})
    except OSError:
        outputs = {}
    shapes = [shape for shape in outputs.values() if isinstance(shape, tuple) and shape]
    layers = sum(".hidden_states." in f".{name}" for name in outputs)
    given = sum(math.prod(shape) for shape in shapes)
    positions = max((math.prod(shape[:-1]) for shape in shapes), default=0)
    flops = 2 * (parameters or 0) * positions
    numbers = [_log(parameters), _log(flops), float(layers) or math.nan, _log(given)]
    return [float(kinds.index(family.architecture)), *numbers]


def _log(value: float | None) -> float:
    return math.log(value) if value else math.nan
