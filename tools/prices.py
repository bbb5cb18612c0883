"""What an hour of a device costs, from a price list, and so what calls and tokens cost.

The list is TOML: a table `[usd_per_hour]` with a line `device = price`.
"""

from __future__ import annotations

import math
from pathlib import Path

import tomli

from tools.usage import UsageError


def read(path: Path | None) -> dict[str, float]:
    """Device -> $ per hour; empty where there is no list. Errors: UsageError."""
    if path is None:
        return {}
    try:
        listed = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--prices {path}: cannot be read ({error})") from error
    table = listed.pop("usd_per_hour", None)
    if listed or not isinstance(table, dict):
        raise UsageError(
            f"--prices {path}: must hold one table, [usd_per_hour], with device = price"
        )
    for device, price in table.items():
        number = isinstance(price, (int, float)) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise UsageError(f"--prices {path}: [usd_per_hour] {device} = {price!r} is no price")
    return {device: float(price) for device, price in table.items()}


def of_calls(per_hour: float, seconds: float, calls: int = 1000) -> float:
    """$ for that many calls of so many seconds each."""
    return per_hour * seconds * calls / 3600
