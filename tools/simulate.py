"""How the matrix scales: recorded scripts, replayed on other numbers of machines (`simulate`).

What scripts take, how long a machine starts up and how often something fails is learned from the
last runs; what the driver takes is measured now. Flags put other numbers in their place.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from tools import overhead, results, schedule, scripts, worker
from tools.expectations import SCRIPT_CHECK
from tools.reports import form
from tools.reports.scaling import Fact, Scaling, Sweep, render_picture, render_scaling
from tools.reports.section import Section, update
from tools.results import BrokenManifest, Record, Run
from tools.simulation import Chance, Model, simulate
from tools.usage import UsageError, command

NODES = (1, 4, 16, 64, 256)
SEEDS = 20
REPLACING = 60.0  # seconds, until another machine takes the place of a lost one
FLAGS = (
    *("nodes", "seeds", "copies", "startup", "loss_rate", "replace", "crash_rate", "timeout_rate"),
    *("family", "device", "weights", "size", "dtype", "runner", "jobs"),
)
SECTION = Section("scaling", "simulate")


@dataclass
class History:
    """What the last runs say of the jobs that were asked for, by job name, the newest first.

    `gaps` are the seconds from the beginning of a run to its first script, each with the number of
    jobs that were prepared meanwhile; `ends` counts how attempts ended.
    """

    runner: str
    records: dict[str, Record] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    gaps: list[tuple[float, int]] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)


def main(options: argparse.Namespace) -> int:
    """`python -m tools simulate`: 0. Errors: UsageError, ReportError."""
    document = options.output / "docs" / "scaling.md"
    SECTION.put("", document)  # an error there is to be told before the work, not after it
    scaling = study(options, learn(options))
    text = render_scaling(scaling)
    print(f"\n{text}\n")
    picture = document.with_suffix(".png")
    update(picture, render_picture(scaling))
    update(document, SECTION.put(f"{text}\n\n![Scaling]({picture.name})", document))
    print(f"{document} and {picture.name} say so")
    return 0


def learn(options: argparse.Namespace) -> History:
    """What the last runs in `options.results` say. Errors: UsageError where that is nothing."""
    found: list[tuple[Run, dict[str, Record]]] = []
    for folder in schedule.last_runs(options.results):
        try:
            run = results.read_run(folder)
        except BrokenManifest as error:
            print(error)
            continue
        if run.manifest["checks"] is None:  # else its scripts did not run whole
            found.append((run, {n: r for n, r in run.records.items() if _is_asked(r, options)}))
    runner = options.runner
    if runner == "auto":
        runners = {record["run"]["runner"] for _, records in found for record in records.values()}
        runner = "fresh" if runners == {"fresh"} else "warm"
    history = History(runner)
    for run, records in found:
        fitting = {n: r for n, r in records.items() if r["run"]["runner"] == runner}
        for name, record in fitting.items():
            history.records.setdefault(name, record)
            history.seconds.setdefault(name, []).append(record["run"]["wall_seconds"])
            history.ends.update(_ends(record))
        if runner == "warm" and (gap := _gap(run, fitting)) is not None:
            history.gaps.append((gap, len(run.manifest["jobs"])))
    if not history.records:
        raise UsageError(
            f"{options.results}: the last {schedule.RUNS} runs have no record of a script that ran "
            f"whole in a {runner} process and is asked for; `nox -s matrix` makes some"
        )
    return history


def study(options: argparse.Namespace, history: History) -> Scaling:
    """Simulate the asked numbers of machines, and find the number at which it ends to scale.

    Errors: UsageError.
    """
    numbers = sorted(set(options.nodes or NODES))
    copies = [f"-copy-{number + 1}" for number in range(options.copies or 1)]
    names = [(name, name + copy * (len(copies) > 1)) for copy in copies for name in history.records]
    records = {copy.replace("-", "_"): history.records[name] for name, copy in names}
    at_once = options.jobs or worker.usual_jobs(list(map(results.job_of, records.values())))
    print(f"measuring the driver with {len(records)} jobs that take no time", flush=True)
    costs = overhead.measure(options, records, numbers[-1], at_once)
    startups = [gap - jobs * costs.preparing / len(records) for gap, jobs in history.gaps]
    model = Model(
        {copy: history.seconds[name] for name, copy in names},
        at_once,
        planning=costs.planning,
        starting=costs.starting,
        keeping=costs.keeping,
        ingest=costs.ingest,
        startup=_given(options.startup, max(0.0, statistics.median(startups or [0.0]))),
        losses=_given(options.loss_rate, _losses(history, at_once)),
        replacing=_given(options.replace, REPLACING),
        crashes=_given(options.crash_rate, _share(history, "crash")),
        timeouts=_given(options.timeout_rate, _share(history, "timeout")),
        timeout=options.timeout,
        retries=options.retries,
    )
    seeds = range(options.seeds or SEEDS)

    @cache
    def sweep(machines: int) -> Sweep:
        print(f"simulating {machines} machines", flush=True)
        runs = [simulate(model, machines, Chance(model, seed)) for seed in seeds]
        return Sweep(machines, sorted(runs, key=lambda run: run.seconds))

    return Scaling(
        model,
        [sweep(number) for number in numbers],
        alone=sweep(1),
        full=sweep(len(model.jobs)),
        most=_most(sweep, numbers),
        facts=_facts(options, history, model),
        command=command("simulate", options, FLAGS),
    )


def _most(sweep: Callable[[int], Sweep], numbers: Sequence[int]) -> Sweep | None:
    """The most machines that are worth it; None where all the `numbers` are."""
    too_many = next((n for n in numbers if not sweep(n).is_worth_it(sweep(1))), None)
    if too_many is None:
        return None
    enough = max((n for n in numbers if n < too_many), default=1)
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if sweep(middle).is_worth_it(sweep(1)):
            enough = middle
        else:
            too_many = middle
    return sweep(enough)


def _is_asked(record: Record, options: argparse.Namespace) -> bool:
    """Whether a script ran, of those that the flags name."""
    one_of = ((record["family"], options.family), (record["device"]["requested"], options.device))
    settings = ("weights", "size", "dtype")
    same = ((record[key], getattr(options, key)) for key in settings)  # type: ignore[literal-required]
    return (
        record["run"]["exit_code"] not in (3, 4)  # a stand-in, or no device
        and all(not asked or value in asked for value, asked in one_of)
        and all(not asked or value == asked for value, asked in same)
    )


def _ends(record: Record) -> list[str]:
    """How the attempts of a job ended: in a crash, a timeout, lost with the machine, or well."""
    checks = [check["status"] for check in record["checks"] if check["name"] == SCRIPT_CHECK]
    last = checks[0] if checks and checks[0] in ("crash", "timeout") else "well"
    return [last, *(retry["status"] for retry in record["run"].get("retries", ()))]


def _gap(run: Run, records: dict[str, Record]) -> float | None:
    """How long after the run the first of its scripts began; None where no script says when."""
    began = [record["started"] for record in records.values() if _ends(record)[0] == "well"]
    if not began:
        return None
    first = min(map(datetime.fromisoformat, began))
    return (first - datetime.fromisoformat(run.manifest["started"])).total_seconds()


def _share(history: History, end: str) -> float:
    """How many attempts had this `end`, of those whose machine was not lost."""
    return history.ends[end] / (history.ends.total() - history.ends["lost"])


def _losses(history: History, at_once: int) -> float:
    """How often a machine was lost, per hour in which it was busy."""
    hours = sum(map(sum, history.seconds.values())) / 3600 / at_once
    return history.ends["lost"] / hours


def _facts(options: argparse.Namespace, history: History, model: Model) -> list[Fact]:
    """What the model is made of, and where that is from."""
    lasting = {name: seconds[0] for name, seconds in history.seconds.items()}
    longest, total = max(lasting, key=lambda name: lasting[name]), sum(lasting.values())
    hardware = {record["device"]["name"] or "?" for record in history.records.values()}
    tried = form.count(history.ends.total() - history.ends["lost"])
    recorded, measured = f"recorded in {history.runner} processes", "measured here, on empty jobs"
    times = f", {options.copies} times each" if options.copies else ""

    def asked(flag: str, otherwise: str = recorded) -> str:
        return otherwise if getattr(options, flag) is None else f"`--{flag.replace('_', '-')}`"

    facts = [
        ("jobs", form.count(len(lasting)) + times, f"{recorded} on {', '.join(sorted(hardware))}"),
        (
            "scripts",
            f"{form.seconds(total)}, of which {longest} {lasting[longest]:.1f} s",
            recorded,
        ),
        ("at once on a machine", form.count(model.at_once), asked("jobs", "as on this machine")),
        ("start-up of a machine", form.seconds(model.startup), asked("startup")),
        ("before the first job", form.seconds(model.planning), measured),
        ("to start a job", form.duration(model.starting), measured),
        ("to keep a result", form.duration(model.keeping), measured),
        ("to rebuild the database", form.seconds(model.ingest), measured),
        ("losses of a machine", f"{model.losses:.3g} per hour", asked("loss_rate")),
        ("until it is replaced", form.seconds(model.replacing), "`--replace`"),
        ("crashes", f"{model.crashes:.1%} of attempts", f"{asked('crash_rate')}, {tried} attempts"),
        (
            "timeouts",
            f"{model.timeouts:.1%} of attempts",
            f"{asked('timeout_rate')}, {tried} attempts",
        ),
        ("retries", form.count(model.retries), "`--retries`"),
        ("seeds", form.count(options.seeds or SEEDS), "`--seeds`"),
    ]
    known = scripts.find(options.scripts)
    lacking = known.keys() - {record["family"] for record in history.records.values()}
    if lacking and not options.family:
        few = f"{len(lacking)} of {len(known)} scripts"
        facts.insert(1, ("**not recorded**", few, "`nox -s matrix` would record them"))
    return facts


def _given(asked: float | None, known: float) -> float:
    return known if asked is None else asked
