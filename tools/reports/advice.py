"""The page for those who choose a device and those who build one: `devices.md`.

Which device suits which models, and which operators stop which families where; from measured cells
only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.reports import form
from tools.reports.data import Matrix, Setting
from tools.reports.markdown import MARKER, table, text

NAME = "devices.md"
Rows = Sequence[Mapping[str, Any]]

INTRODUCTION = """\
[The matrix](README.md) has the cells that this comes from: the newest complete run of each script \
on each device. A number counts where the model itself ran, on hardware, and nothing failed. \
`n/a`: nothing was measured that could be compared.

- **Latency** is the median of repeated calls of one batch. With tiny configurations it mostly \
compares the overhead of a call: measure `--size full` before you decide for a model of real size.
- **Memory** is the peak of the whole process, torch and what made the graph included; on a GPU \
that of its own memory, so the two are not compared with each other blindly. Of a browser it is \
n/a: no page can measure it.
- **Throughput** is what [benchmarks](../docs/benchmarks.md) measured of models of the size that \
stands there, not of the matrix's: each device with its best batch, texts of equal length, the \
same type and kind of weights. Only devices that are sound in the matrix count; else it says why \
there is nothing.
- **Not to trust** is a device on which the numbers are off by more than rounding explains."""


def render_advice(matrix: Matrix) -> str:
    """The page."""
    parts = [MARKER, "# Which device to use, and what stops models on it", INTRODUCTION]
    settings = dict.fromkeys(_setting(row) for row in matrix.advice)
    for setting in settings:
        rows = [
            {**row, "throughput": _throughput(row, matrix.benchmarks)}
            for row in matrix.advice
            if _setting(row) == setting
        ]
        parts += [f"## Recommended ({text(setting.label)})", *_recommended(rows)]
    parts += ["## What stops models", *_stops(matrix.stops)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _setting(row: Mapping[str, Any]) -> Setting:
    return Setting(row["weights"], row["size"], row["dtype"])


@dataclass(frozen=True)
class Throughput:
    """The device of most calls a second by benchmarks, or none; the figure or the reason."""

    device: str | None
    words: str


def _throughput(row: Mapping[str, Any], benchmarks: Rows) -> Throughput:
    """The best of the devices on which the family of `row` is sound."""
    found = [
        each
        for each in benchmarks
        if all(each[name] == row[name] for name in ("family", "weights", "dtype"))
    ]
    if not found:
        return Throughput(None, "not benchmarked")
    measured = [each for each in found if each["status"] == "measured"]
    if not measured:
        states = Counter(each["status"] for each in found)
        told = ", ".join(f"{n} {status}" for status, n in states.items())
        return Throughput(None, f"no benchmark to go by: {told}")
    there = [each for each in measured if each["device"] in row["sound_devices"]]
    there = [each for each in there if each["device_facts"].get("software") is False]
    alike: dict[tuple[str, Any], dict[str, Mapping[str, Any]]] = {}
    for each in sorted(there, key=lambda each: float(each["throughput_per_second"])):
        alike.setdefault((each["size"], each["length"]), {})[each["device"]] = each
    best = max(alike.values(), key=len, default={})
    if len(best) < 2:
        only = ", ".join(sorted({each["device"] for each in measured}))
        sound = ", ".join(row["sound_devices"]) or "no device"
        return Throughput(None, f"benchmarked on {only}, sound on {sound}: no two to compare")
    most = max(best.values(), key=lambda each: float(each["throughput_per_second"]))
    figure = f"{most['throughput_per_second']:.3g}/s with batch {most['batch']}"
    return Throughput(most["device"], f"{figure}, {most['size']} (best of {len(best)})")


def _recommended(rows: Rows) -> Iterable[str]:
    """A table by architecture, then one by family."""
    compared = [row for row in rows if row["sound"] > 1]
    if not compared:
        yield (
            "n/a: no family passes on two devices of this setting, so there is nothing to compare. "
            "Measure another with `nox -s matrix publish -- --device DEVICE`."
        )
    architectures: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        architectures.setdefault(row["architecture"] or "unknown", []).append(row)
    lines = []
    for name, members in architectures.items():
        there = [row for row in members if row["sound"] > 1]
        wrong = Counter(each.split(" (")[0] for row in members for each in _untrusted(row))
        lines.append(
            [
                text(name),
                f"{len(there)} of {len(members)}",
                _most(Counter(row["fastest"] for row in there), len(there)),
                _most_calls([row["throughput"] for row in members]),
                _most(Counter(row["smallest"] for row in there), len(there)),
                ", ".join(f"{text(d)} ({n} of {len(members)})" for d, n in wrong.most_common()),
            ]
        )
    header = ["architecture", "compared", "latency", "throughput", "memory", "not to trust"]
    yield table(header, lines)
    if compared or any(row["untrusted"] for row in rows):
        yield "By family:"
        yield table(
            ["family", "latency", "throughput", "memory", "not to trust"],
            [
                [
                    text(row["family"]),
                    _best(row, "fastest", form.duration(row["latency_median"])),
                    _calls(row["throughput"]),
                    _best(row, "smallest", form.memory(row["peak_memory_bytes"])),
                    text("; ".join(_untrusted(row))),
                ]
                for row in rows
                if row["sound"] > 1 or row["untrusted"]
            ],
        )


def _untrusted(row: Mapping[str, Any]) -> list[str]:
    return row["untrusted"].split("; ") if row["untrusted"] else []


def _most(wins: Counter[str | None], total: int) -> str:
    """The device that is best for most, and for how many."""
    found = [(device, number) for device, number in wins.most_common() if device]
    if not found:
        return form.NOTHING
    return ", ".join(f"{text(device)} ({number} of {total})" for device, number in found)


def _most_calls(found: Sequence[Throughput]) -> str:
    """As `_most`; the reasons where no family has two devices to compare."""
    wins: Counter[str | None] = Counter(each.device for each in found if each.device)
    reasons = Counter(each.words.partition(":")[0] for each in found)
    told = ", ".join(f"{words} ({number})" for words, number in reasons.most_common(2))
    return _most(wins, wins.total()) if wins else f"{form.NOTHING}: {text(told)}"


def _calls(found: Throughput) -> str:
    """The device with its figure, or the reason why there is none."""
    return (
        f"{text(found.device or form.NOTHING)}{', ' if found.device else ': '}{text(found.words)}"
    )


def _best(row: Mapping[str, Any], which: str, value: str) -> str:
    """The best of two devices or more."""
    if row["sound"] < 2 or row[which] is None:
        return form.NOTHING
    return f"{text(row[which])}, {value} (best of {row['sound']})"


def _stops(rows: Rows) -> Iterable[str]:
    """One table a device: operators first, then errors that name none."""
    if not rows:
        yield "Nothing."
    yield (
        "An operator that a device lacks, or leaves to another one, with the families that it "
        "concerns; then the errors that name no operator. What has a reviewed reason shows its "
        "cause, else it is open."
    )
    for device in dict.fromkeys(row["device"] for row in rows):
        yield f"### {text(device)}"
        yield table(
            ["what", "", "cause", "families", "which"],
            [
                [
                    (
                        f"**{text(row['what'], 200)}**"
                        if row["is_operator"]
                        else text(row["what"], 200)
                    ),
                    text(row["effect"]),
                    text(row["causes"]),
                    str(row["number"]),
                    text(row["families"], 2000),
                ]
                for row in rows
                if row["device"] == device
            ],
        )
