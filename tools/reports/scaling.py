"""How a run scales, as Markdown and as a picture: what it takes, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.reports import form, markdown, picture
from tools.simulation import KINDS, Kind, Model, Simulated

WORTH = 0.5  # of what a machine costs: less, and there are too many of them

CAUSES: dict[Kind, str] = {
    "planning": "all scripts are read before the first one runs",
    "start-up": "a machine imports torch before its first script",
    "scripts": "a script cannot be shared by several machines",
    "driver": "one driver starts the jobs and keeps their results, one at a time",
    "failures": "what crashed or was lost is done again",
    "ingest": "the database is rebuilt when all is done",
}
_COLOURS: dict[Kind, str] = {  # from the colour-blind safe set of Okabe and Ito
    "planning": "#56b4e9",
    "start-up": "#e69f00",
    "scripts": "#9fd8c6",
    "driver": "#d55e00",
    "failures": "#cc79a7",
    "ingest": "#0072b2",
}


@dataclass(frozen=True)
class Sweep:
    """The runs on a number of machines, one a seed, the quickest first."""

    machines: int
    runs: Sequence[Simulated]

    @property
    def typical(self) -> Simulated:
        """The run in the middle."""
        return self.runs[(len(self.runs) - 1) // 2]

    @property
    def seconds(self) -> float:
        """How long the run in the middle takes."""
        return self.typical.seconds

    def speedup(self, alone: Sweep) -> float:
        """How many times quicker it is than on one machine."""
        return alone.seconds / self.seconds

    def is_worth_it(self, alone: Sweep) -> bool:
        """Whether the machines give back enough of what they cost."""
        return self.speedup(alone) >= WORTH * self.machines


Fact = tuple[str, str, str]
"""What the model has, its value, and where that is from."""


@dataclass(frozen=True)
class Scaling:
    """What was simulated by `command`, for some numbers of machines.

    Beside them for one machine (`alone`), for one for each job (`full`), and for the `most` that
    are worth it, None where more than all `sweeps` have.
    """

    model: Model
    sweeps: Sequence[Sweep]
    alone: Sweep
    full: Sweep
    most: Sweep | None
    facts: Sequence[Fact]
    command: str


_TIMES = """\
Time is that of the run in the middle, when the runs of all seeds are ordered by their time. \
Utilisation is the share of the machines' time that is spent in scripts whose results count."""

_WAITS = """\
The critical path of the run in the middle: what it waits for, from its beginning to its end, in \
seconds that add up to its time."""


def render_scaling(scaling: Scaling) -> str:
    """The tables, and what follows from them."""
    times = ["machines", "time", "from – to", "speed-up", "utilisation", "lost work", "tried again"]
    times += ["given up"]
    waits = ["machines", *KINDS, "scripts in a row", "most of all"]
    parts = [
        f"`{scaling.command}`",
        markdown.table(times, [_times(each, scaling) for each in scaling.sweeps], len(times)),
        _TIMES,
        markdown.table(waits, [_waits(each) for each in scaling.sweeps], len(waits)),
        _WAITS,
        _end(scaling),
        markdown.table(["what goes in", "", "from"], scaling.facts),
    ]
    return "\n\n".join(part.strip() for part in parts)


def _times(sweep: Sweep, scaling: Scaling) -> list[str]:
    runs, places = sweep.runs, sweep.machines * scaling.model.at_once
    return [
        form.count(sweep.machines),
        form.seconds(sweep.seconds),
        f"{runs[0].seconds:.1f} – {runs[-1].seconds:.1f}",
        f"{sweep.speedup(scaling.alone):.1f}",
        f"{mean(run.useful / (run.seconds * places) for run in runs):.1%}",
        form.seconds(mean(run.lost for run in runs)),
        f"{mean(run.retries for run in runs):.1f}",
        f"{mean(run.given_up for run in runs):.1f}",
    ]


def _waits(sweep: Sweep) -> list[str]:
    run = sweep.typical
    path = [f"{run.path[kind]:.1f}" for kind in KINDS]
    return [form.count(sweep.machines), *path, form.count(run.in_a_row), _order(run)[0]]


def _order(run: Simulated) -> list[Kind]:
    """What a run has waited for, the longest first."""
    return sorted((kind for kind in KINDS if run.path[kind]), key=lambda kind: -run.path[kind])


def _end(scaling: Scaling) -> str:
    """Where scaling ends, and why."""
    most, full = scaling.most, scaling.full
    if most:
        speedup = f"{most.speedup(scaling.alone):.1f}"
        where = f"**Scaling ends at {most.machines} machines**, {speedup} times as quick as one: "
        where += "with more, less than half of what they cost comes back."
    else:
        last = scaling.sweeps[-1].machines
        where = f"**Scaling does not end at {last} machines**, the most that were simulated."
    run = full.typical
    reasons = [f"1. {run.path[kind]:.1f} s {kind}: {CAUSES[kind]}" for kind in _order(run)]
    jobs, seconds = form.count(len(scaling.model.jobs)), form.seconds(full.seconds)
    why = f"A machine for each of the {jobs} jobs takes {seconds}, and more have nothing to do."
    return "\n".join([f"{where} {why} What remains, the most of it first:", "", *reasons])


def render_picture(scaling: Scaling) -> bytes:
    """The picture as PNG: equal bytes for equal data (and version of matplotlib)."""
    with picture.style():
        figure = Figure(figsize=(11, 4.4), dpi=picture.DPI, facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_speedup(left, scaling)
        _draw_path(right, scaling)
        return picture.png(figure)


def _draw_speedup(axes: Axes, scaling: Scaling) -> None:
    """Speed-up against machines, from the slowest to the quickest run, below what is ideal."""
    alone, numbers = scaling.alone.seconds, [each.machines for each in scaling.sweeps]
    ends = [1, max(numbers)]
    axes.plot(ends, ends, color=picture.LINE, label="ideal")
    slowest = [alone / each.runs[-1].seconds for each in scaling.sweeps]
    quickest = [alone / each.runs[0].seconds for each in scaling.sweeps]
    colour = _COLOURS["ingest"]
    axes.fill_between(numbers, slowest, quickest, color=colour, alpha=0.25, linewidth=0)
    typical = [each.speedup(scaling.alone) for each in scaling.sweeps]
    axes.plot(numbers, typical, color=colour, marker="o", label="simulated")
    if scaling.most:
        axes.axvline(scaling.most.machines, color=_COLOURS["driver"], linestyle="--", linewidth=1)
        label = f" {scaling.most.machines} machines"
        axes.text(scaling.most.machines, 1, label, color=_COLOURS["driver"], size=9)
    axes.set(xscale="log", yscale="log", xlabel="machines", ylabel="speed-up")
    axes.set_xticks(numbers, list(map(str, numbers)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)


def _draw_path(axes: Axes, scaling: Scaling) -> None:
    """What the run in the middle has waited for, in shares."""
    names = [form.count(each.machines) for each in scaling.sweeps]
    below = [0.0] * len(names)
    for kind in KINDS:
        shares = [each.typical.path[kind] / each.seconds for each in scaling.sweeps]
        axes.bar(names, shares, bottom=below, color=_COLOURS[kind], label=kind)
        below = [a + b for a, b in zip(below, shares, strict=True)]
    axes.set(xlabel="machines", ylabel="share of the critical path", ylim=(0, 1))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
