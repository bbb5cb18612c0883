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

KEYS = ("device", "dtype", "attention", "python", "loop", "passes")
PASSES = 20  # of the first in each call where the second is to do another number
PAIRS = (24, 48, 96, 192)  # of blocks, after which it is seen whether they are enough
REACH = 0.025  # that the interval may have on either side of the ratio
BLOCK_SECONDS, BLOCK_CALLS = 0.15, 3


def main(options: argparse.Namespace, requests: Sequence[dict[str, Any]]) -> int:
    """`python -m tools benchmark --vs KEY=VALUE`: 0 when all could be compared."""
    from tools.benchmark.run import Child, ChildFailed

    key, value = parse(options.vs)
    failed = 0
    for request in requests:
        one = {**request, "passes": PASSES} if key == "passes" else request
        usual = {"attention": "the usual", "python": "this", "loop": "ours"}.get(key) or one[key]
        try:
            with (
                Child(one, options.timeout) as first,
                Child(timeout=options.timeout, **other(one, first.facts, key, value)) as second,
            ):
                ratios = []
                for _ in range(options.repeats or 1):
                    ratio, times = in_turn(first, second)
                    what = f"{request['family']}: {key} {value} takes {told(ratio)} {usual}"
                    print(f"{what}: {verdict(ratio)} ({rests_on(ratio, times)})", flush=True)
                    ratios.append(ratio)
        except ChildFailed as error:
            failed += 1
            print(f"{request['family']}: {error}")
            continue
        if options.repeats:
            right = int(value) / PASSES if key == "passes" else None
            print(f"{request['family']}: {of_all(ratios, right)}", flush=True)
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
    if key == "loop" and value != "timeit":
        raise UsageError(f"--vs loop: {value!r} is not timeit")
    if key == "passes" and not (value.isdecimal() and int(value)):
        raise UsageError(f"--vs passes: {value!r} is no number of passes, such as {PASSES + 1}")
    return key, value


def other(request: dict[str, Any], facts: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """What the second `Child` is made with; `facts` are those of the first. Errors: UsageError."""
    if key == "python":
        return {"request": request, "python": value}
    if key == "loop":
        plain = {"device": "cpu", "dtype": "float32", "weights": "random", "size": "full"}
        if wrong := [name for name in plain if request[name] != plain[name]]:
            raise UsageError(f"--vs loop: timeit runs with --{wrong[0]} {plain[wrong[0]]} alone")
        seen = {name: facts[name] for name in ("model_class", "inputs")}
        return {"request": {**request, **seen}, "program": "plain.py"}
    return {"request": {**request, key: int(value) if key == "passes" else value}}


def in_turn(first: Child, second: Child) -> tuple[statistics.Ratio, list[list[float]]]:
    """The ratio of the times of the second to those of the first, and the times of each."""
    children = (first, second)
    for child in children:
        child.ask("warm_up")
    medians: tuple[list[float], list[float]] = ([], [])
    times: list[list[float]] = [[], []]
    for enough in PAIRS:
        for pair in range(len(medians[0]), enough):
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                block = children[which].ask("time", seconds=BLOCK_SECONDS, calls=BLOCK_CALLS)
                medians[which].append(float(np.median(block)))
                times[which].extend(block)
        ratio = statistics.compare(*medians)
        if ratio["high"] / ratio["low"] <= (1 + REACH) ** 2:
            break
    return ratio, times


def told(ratio: statistics.Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] times as long as"


def verdict(ratio: statistics.Ratio) -> str:
    """Whether there is a difference, and where none is seen, which would have been."""
    if ratio["differs"]:
        return "differs"
    unseen = (ratio["high"] / ratio["low"]) ** 0.5 - 1
    return "no difference seen" + (f", of {unseen:.0%} or less" if unseen > REACH else "")


def rests_on(ratio: statistics.Ratio, times: Sequence[Sequence[float]]) -> str:
    """What a comparison rests on: the pairs, and the median of either side."""
    medians = " and ".join(form.interval(statistics.summarise(each)) for each in times)
    return f"{form.count(ratio['pairs'])} pairs of blocks; {medians}"


def of_all(ratios: Sequence[statistics.Ratio], right: float | None) -> str:
    """Several comparisons of the same in a line; `right` is the ratio that is true, if known."""
    middle = np.median([ratio["ratio"] for ratio in ratios])
    differ = sum(ratio["differs"] for ratio in ratios)
    line = f"{len(ratios)} comparisons, {differ} differ; median ratio {middle:.3f}"
    if right is None:
        return line
    hold = sum(ratio["low"] <= right <= ratio["high"] for ratio in ratios)
    return f"{line}; {hold} intervals hold {right:.3f}, which is true"
