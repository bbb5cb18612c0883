"""Two things compared so that it holds: measured in turn, A B B A A B …, with one ratio.

What slows the machine down for a while slows both down, so it does not count as a difference.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.benchmark import statistics
from tools.reports import form
from tools.usage import UsageError, unknown

if TYPE_CHECKING:
    from tools.benchmark.run import Child

KEYS = ("device", "dtype", "attention", "python")
PAIRS = 24  # of blocks
BLOCK_SECONDS, BLOCK_CALLS = 0.15, 3


def main(options: argparse.Namespace, requests: Sequence[dict[str, Any]]) -> int:
    """`python -m tools benchmark --vs KEY=VALUE`: 0 when all could be compared."""
    from tools.benchmark.run import Child, ChildFailed

    key, value = parse(options.vs)
    failed = 0
    for request in requests:
        other, python = {**request}, {}
        if key == "python":
            python = {"python": value}
        else:
            other[key] = value
        try:
            with (
                Child(request, options.timeout) as first,
                Child(other, options.timeout, **python) as second,
            ):
                ratio = in_turn(first, second)
        except ChildFailed as error:
            failed += 1
            print(f"{request['family']}: {error}")
            continue
        print(f"{request['family']}: {told(ratio, request, key, value)}", flush=True)
    return 1 if failed else 0


def parse(text: str) -> tuple[str, str]:
    """What is to differ, and its other value. Errors: UsageError."""
    key, equals, value = text.partition("=")
    if key not in KEYS:
        raise UsageError(f"--vs: {unknown('key', key, KEYS)}; it is one of {', '.join(KEYS)}")
    if not equals or not value:
        raise UsageError(f"--vs {key}: say with what, as in --vs {key}=…")
    if key == "python" and shutil.which(value) is None:
        raise UsageError(f"--vs python: {value} is not a program")
    return key, value


def in_turn(first: Child, second: Child, pairs: int = PAIRS) -> statistics.Ratio:
    """The ratio of the times of the second to those of the first."""
    children = (first, second)
    for child in children:
        child.ask("warm_up")
    medians: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            times = children[which].ask("time", seconds=BLOCK_SECONDS, calls=BLOCK_CALLS)
            medians[which].append(float(np.median(times)))
    return statistics.compare(*medians)


def told(ratio: statistics.Ratio, request: dict[str, Any], key: str, value: str) -> str:
    """A comparison in one line."""
    usual = {"attention": "the usual", "python": "this"}.get(key) or request[key]
    interval = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
    verdict = "differs" if ratio["differs"] else "no difference seen"
    return (
        f"{key} {value} takes {ratio['ratio']:.3f} {interval} times as long as {usual}: {verdict} "
        f"({form.count(ratio['pairs'])} pairs of blocks)"
    )
