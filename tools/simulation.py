"""A run of the matrix in virtual time: its own driver loop, on machines that do not exist.

What goes where is decided by `tools.schedule`, as in a real run. Simulated is what surrounds it:
scripts that take as long as recorded ones, machines that import torch before their first script and
are lost now and then, and a driver that does one thing at a time.

To each moment leads a `Step`, and to that another one. So the last one tells what the run has
waited for, from its beginning to its end: its critical path.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Literal, get_args

from tools.schedule import LOSSES, Queue, Room, drive

Kind = Literal["planning", "start-up", "scripts", "driver", "failures", "ingest"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TO_COME = "a machine to come"


@dataclass(frozen=True)
class Model:
    """What a run is made of, whatever the number of machines; in seconds if nothing else is said.

    `jobs` has the durations that a job may have, by its name; the policy expects the first one.
    """

    jobs: Mapping[str, Sequence[float]]
    at_once: int = 1  # on a machine
    planning: float = 0.0  # before the first job
    starting: float = 0.0  # of the driver, for each job
    keeping: float = 0.0  # of the driver, for each result
    ingest: float = 0.0  # after the last job
    startup: float = 0.0  # of a machine, before its first script
    losses: float = 0.0  # of a machine, per hour
    replacing: float = 60.0  # until another takes the place of a lost machine
    crashes: float = 0.0  # share of attempts
    timeouts: float = 0.0  # share of attempts
    timeout: float = 600.0
    retries: int = 1  # of a crash or timeout


@dataclass(frozen=True)
class Stay:
    """How a job goes on a machine that is not lost: `seconds` that count, after `wasted` ones."""

    seconds: float
    wasted: float = 0.0
    retries: int = 0


class Chance:
    """What `seed` lets happen: the same with each number of machines."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._seed = model, seed

    def life(self, machine: str) -> float:
        """How long a machine is there."""
        if not self._model.losses:
            return math.inf
        return self._random(machine).expovariate(self._model.losses / 3600)

    def stay(self, name: str, start: int) -> Stay:
        """How the job `name` goes where it is started for the `start`-th time.

        As the worker does it: what crashes or hangs is tried again in a fresh process, which has to
        import what the machine has imported already.
        """
        model, random = self._model, self._random(f"{name} {start}")
        seconds, wasted = random.choice(model.jobs[name]), 0.0
        for retries in itertools.count():
            fate, spent = random.random(), seconds
            if fate < model.crashes:
                spent *= random.random()
            elif fate < model.crashes + model.timeouts:
                spent = model.timeout
            else:
                break
            if retries == model.retries:
                break
            wasted += spent + model.startup
        return Stay(spent, wasted, retries)

    def _random(self, of: str) -> Random:
        return Random(f"{self._seed} {of}")


@dataclass(frozen=True, eq=False)
class Step:
    """What took `seconds` up to the moment `end`, and began when the step `before` was over."""

    kind: Kind
    seconds: float
    end: float
    before: Step | None = None

    def then(self, kind: Kind, seconds: float) -> Step:
        """The step that follows; this one where it takes no time."""
        return Step(kind, seconds, self.end + seconds, self) if seconds > 0 else self

    def path(self) -> Iterator[Step]:
        """The steps that led here, the last one first."""
        step: Step | None = self
        while step:
            yield step
            step = step.before


@dataclass(frozen=True)
class Simulated:
    """What a run came to; `placed` is which job went where, in order.

    `useful` and `lost` are seconds of scripts: of attempts that count, and of the others. Jobs are
    `given_up` that have lost as many machines as the matrix lets them.
    `path` is what was waited for, its sum `seconds`; `in_a_row` is how many scripts are on it.
    """

    seconds: float
    useful: float
    lost: float
    retries: int
    given_up: int
    path: Mapping[Kind, float]
    in_a_row: int
    placed: Sequence[tuple[str, str]]


def simulate(model: Model, machines: int, chance: Chance) -> Simulated:
    """Run all jobs of `model`."""
    return _Run(model, machines, chance).simulated()


@dataclass(eq=False)
class _Attempt:
    """A job on a machine: when it was `asked` for, and when its script `began`."""

    asked: Step
    began: Step
    stay: Stay
    lost: bool = False


@dataclass
class _Machine:
    """A machine that lives; `warm` is when it has imported what scripts need."""

    running: list[_Attempt] = field(default_factory=list)
    warm: Step | None = None


class _Run:
    """The driver's clock stands at the end of `_now`; `_events` are what is to happen, and when."""

    def __init__(self, model: Model, machines: int, chance: Chance) -> None:
        self._model, self._chance = model, chance
        self._now = Step("planning", model.planning, model.planning)
        self._events: list[tuple[float, int, Callable[[], Step]]] = []
        self._count = itertools.count()
        self._machines: dict[str, _Machine] = {}
        self._coming = machines
        expected = {name: seconds[0] for name, seconds in model.jobs.items()}
        self._queue = Queue(dict.fromkeys(model.jobs, "any"), expected)
        self._starts: Counter[str] = Counter()
        self._ended: list[_Attempt] = []
        self._placed: list[tuple[str, str]] = []
        self._useful = self._lost = 0.0
        self._retries = self._given_up = 0
        for number in range(machines):
            self._join(f"machine {number + 1}", self._now)

    def simulated(self) -> Simulated:
        """Run to the end."""
        drive(self._queue, self._look, self._start, self._wait, self._take)
        end = self._now.then("ingest", self._model.ingest)
        path = dict.fromkeys(KINDS, 0.0)
        for step in end.path():
            path[step.kind] += step.seconds
        in_a_row = sum(step.kind == "scripts" for step in end.path())
        return Simulated(
            end.end,
            self._useful,
            self._lost,
            self._retries,
            self._given_up,
            path,
            in_a_row,
            self._placed,
        )

    # What the driver does.

    def _look(self) -> list[Room]:
        self._catch_up()
        rooms = [
            Room(name, self._model.at_once - len(machine.running))
            for name, machine in self._machines.items()
        ]
        return [*rooms, Room(TO_COME, 0)] if self._coming else rooms

    def _start(self, name: str, node: str) -> _Attempt:
        self._starts[name] += 1
        self._now = self._now.then("driver", self._model.starting)
        machine = self._machines[node]
        machine.warm = machine.warm or self._now.then("start-up", self._model.startup)
        began = max(machine.warm, self._now, key=lambda step: step.end)
        attempt = _Attempt(self._now, began, self._chance.stay(name, self._starts[name]))
        end = began.then("failures", attempt.stay.wasted).then("scripts", attempt.stay.seconds)
        self._plan(end.end, partial(self._finish, attempt, machine, end))
        machine.running.append(attempt)
        self._placed.append((name, node))
        return attempt

    def _wait(self, running: Collection[_Attempt]) -> list[_Attempt]:
        """Those that have ended by now; if none has, the clock goes to what happens next."""
        self._catch_up()
        if not self._ended:
            self._now = self._happen()
            self._catch_up()
        ended, self._ended = self._ended, []
        return ended

    def _take(self, attempt: _Attempt, name: str, node: str) -> None:
        if attempt.lost and self._starts[name] < LOSSES:
            self._retries += 1
            self._queue.put_back(name, avoid=node)
            return
        self._now = self._now.then("driver", self._model.keeping)
        if attempt.lost:
            self._given_up += 1
        else:
            self._retries += attempt.stay.retries
            self._useful += attempt.stay.seconds
            self._lost += attempt.stay.wasted

    # What happens meanwhile; each gives back the step that led to it.

    def _plan(self, moment: float, event: Callable[[], Step]) -> None:
        heapq.heappush(self._events, (moment, next(self._count), event))

    def _happen(self) -> Step:
        return heapq.heappop(self._events)[2]()

    def _catch_up(self) -> None:
        while self._events and self._events[0][0] <= self._now.end:
            self._happen()

    def _finish(self, attempt: _Attempt, machine: _Machine, end: Step) -> Step:
        """A script has ended, unless it was lost before."""
        if attempt.lost:
            return self._now
        machine.running.remove(attempt)
        self._ended.append(attempt)
        return end

    def _join(self, name: str, came: Step) -> Step:
        """A machine is there, and for how long is known already."""
        self._coming -= 1
        self._machines[name] = _Machine()
        moment = came.end + self._chance.life(name)
        if moment < math.inf:
            self._plan(moment, partial(self._lose, name, moment))
        return came

    def _lose(self, name: str, moment: float) -> Step:
        """A machine is gone with what it runs; another one comes."""
        machine = self._machines.pop(name)
        for attempt in machine.running:
            attempt.lost = True
            self._lost += max(0.0, moment - attempt.began.end)
        self._ended += machine.running
        waited = [attempt.began for attempt in machine.running if attempt.began.end <= moment]
        asked = [attempt.asked for attempt in machine.running]
        before = [*waited, *asked, self._now][0]
        gone = before.then("failures", moment - before.end)
        self._coming += 1
        came = gone.then("failures", self._model.replacing)
        self._plan(came.end, partial(self._join, f"{name}+", came))
        return gone
