"""Values as short text, the same in every format of the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tools.reports.data import Check, Column, Environment, Matrix

NOTHING = "n/a"


def shorten(value: str, limit: int) -> str:
    """At most about `limit` characters of `value`, with a mark where something is left out."""
    return value if len(value) <= limit else f"{value[:limit].rstrip()} …"


def one_line(value: str, limit: int) -> str:
    """`value` as one bounded line."""
    return shorten(" ".join(value.split()), limit)


def path(name: str) -> str:
    """`name` as a part of a relative link."""
    return quote(name, safe="")


def seconds(value: float | None) -> str:
    """Seconds, as of a script."""
    return NOTHING if value is None else f"{value:.1f} s"


def duration(value: float | None) -> str:
    """`value` seconds as milliseconds, as of a call."""
    if value is None:
        return NOTHING
    milliseconds = value * 1000
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def interval(of: Mapping[str, Any]) -> str:
    """A median of durations with the bounds of its interval."""
    middle, low, high = (duration(of[key]) for key in ("median", "low", "high"))
    return f"{middle} [{low}, {high}]"


def memory(value: int | None) -> str:
    """`value` bytes in MiB, or GiB where there are many."""
    if value is None:
        return NOTHING
    mib = value / 2**20
    return f"{mib:,.0f} MiB" if mib < 10_000 else f"{mib / 1024:,.0f} GiB"


def count(value: int | None) -> str:
    """A number of things."""
    return NOTHING if value is None else f"{value:,}"


def measured(check: Check) -> str:
    """The value of `check` and its bound; empty where it measured nothing."""
    pairs = (("value", check.value), ("bound", check.bound))
    return ", ".join(f"{name} {number:.3g}" for name, number in pairs if number is not None)


def environment_facts(environment: Environment) -> dict[str, str]:
    """What is known about an environment, by the name of the fact."""
    kinds = {None: NOTHING, True: "software adapter", False: "hardware"}
    packages = dict(environment.packages)
    facts = {
        "hardware": environment.device_name or NOTHING,
        "kind": kinds[environment.software],
        "driver": environment.driver or NOTHING,
        "memory": memory(environment.memory_bytes),
        "features": ", ".join(environment.features) or NOTHING,
        "threads": count(environment.threads),
        "processes": environment.runner or NOTHING,
        "system": environment.platform or NOTHING,
        "Python": environment.python or NOTHING,
    }
    return facts | packages


def column_facts(matrix: Matrix, column: Column) -> dict[str, str]:
    """What is known about the environment of a column; where cells differ, how many say what."""
    found: dict[str, dict[str, int]] = {}
    for environment, cells in matrix.environments(column):
        for name, value in environment_facts(environment).items():
            values = found.setdefault(name, {})
            values[value] = values.get(value, 0) + cells
    return {name: _joined(values) for name, values in found.items()}


def _joined(values: dict[str, int]) -> str:
    known = {value: cells for value, cells in values.items() if value != NOTHING}
    if len(known) < 2:
        return next(iter(known), NOTHING)
    return "; ".join(f"{value} ({cells} families)" for value, cells in known.items())
