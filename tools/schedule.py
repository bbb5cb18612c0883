"""Which job goes where next: the policy of the matrix, on one machine, on many, and simulated.

Whoever is free takes the longest job that it can run, so that no long one is left over for the
end. How long a job takes is what it took in the last runs; one never seen goes first.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

RUNS = 5  # the last ones, to learn durations from
LOOK_SECONDS = 1.0  # between two looks for machines that come or go
SOON = 0.2  # the same while nothing runs
LOSSES = 3  # of machines under one job: then it is the job

Started = TypeVar("Started")
T = TypeVar("T")


@dataclass(frozen=True)
class Room:
    """How many more jobs the machine `node` can take now; `devices` None: for any device."""

    node: str
    free: int
    devices: Collection[str] | None = None
    broken: Collection[str] = ()

    def has(self, device: str) -> bool:
        """Whether a job for `device` can run there."""
        return (self.devices is None or device in self.devices) and device not in self.broken


class Queue:
    """The jobs that wait; `broken` are the devices that work no longer, by node.

    `devices` are what the jobs are for, `seconds` what they took, by name.
    """

    def __init__(self, devices: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        self._devices = devices
        self._waiting = longest_first(devices, seconds)
        self._avoid: defaultdict[str, set[str]] = defaultdict(set)
        self.broken: defaultdict[str, set[str]] = defaultdict(set)

    def start(self, rooms: Iterable[Room]) -> list[tuple[str, str]]:
        """Take out of line what goes to the `rooms` now, as (job, node)."""
        waiting = [(name, self._devices[name]) for name in self._waiting]
        placed = assign(waiting, rooms, self._avoid)
        for name, _ in placed:
            self._waiting.remove(name)
        return placed

    def waiting(self) -> Counter[str]:
        """How many jobs wait, by device."""
        return Counter(self._devices[name] for name in self._waiting)

    def put_back(self, name: str, avoid: str | None = None) -> None:
        """Put a job first in line, not for the node `avoid` if there is another one."""
        self._waiting.insert(0, name)
        if avoid:
            self._avoid[name].add(avoid)

    def fits(self, rooms: Iterable[Room]) -> bool:
        """Whether one of the `rooms` is for a job that waits, even if it has no space now."""
        return any(room.has(device) for room in rooms for device in self.waiting())


def drive(
    queue: Queue,
    look: Callable[[], Iterable[Room]],
    start: Callable[[str, str], Started],
    ended: Callable[[Collection[Started]], Iterable[Started]],
    take: Callable[[Started, str, str], None],
) -> None:
    """Keep all nodes busy until nothing is left in the `queue` that one of them could do.

    `look` for rooms, `start` a job on a node, wait until some have `ended`, `take` what came of
    each: the matrix does it with processes, the simulation with a clock.
    """
    running: dict[Started, tuple[str, str]] = {}
    while True:
        rooms = [
            replace(room, broken=queue.broken[room.node]) if room.node in queue.broken else room
            for room in look()
        ]
        for name, node in queue.start(rooms):
            running[start(name, node)] = (name, node)
        if not running and not queue.fits(rooms):
            return
        for each in ended(running):
            take(each, *running.pop(each))


def first_ended(running: Collection[Future[T]]) -> set[Future[T]]:
    """Those that have ended, waiting for the first, but not for long: machines come and go."""
    if not running:
        time.sleep(SOON)
    return wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED).done


def longest_first(names: Iterable[str], seconds: Mapping[str, float]) -> list[str]:
    """Job names, the longest first; those of unknown duration before all, else as they come."""
    return sorted(names, key=lambda name: -seconds.get(name, math.inf))


def shares(seconds: Mapping[str, float], count: int) -> list[list[str]]:
    """The jobs of `seconds` dealt to `count` machines that cannot talk, each about as long.

    The longest goes to whoever has the least, so the same durations give the same shares.
    """
    dealt: list[list[str]] = [[] for _ in range(count)]
    totals = [0.0] * count
    for name in longest_first(sorted(seconds), seconds):
        least = totals.index(min(totals))
        dealt[least].append(name)
        totals[least] += seconds[name]
    return dealt


def assign(
    waiting: Sequence[tuple[str, str]],
    rooms: Iterable[Room],
    avoid: Mapping[str, Collection[str]] | None = None,
) -> list[tuple[str, str]]:
    """Which of the `waiting` (job, device) starts now on which node, as (job, node).

    A job goes to the node with the most room, if it can to one that it need not `avoid`.
    """
    rooms = list(rooms)
    free = {room.node: room.free for room in rooms}
    placed = []
    for name, device in waiting:
        if not any(free.values()):
            break
        fit = [room.node for room in rooms if room.has(device)]
        better = [node for node in fit if node not in (avoid or {}).get(name, ())]
        if open_to := [node for node in better or fit if free[node]]:
            node = max(open_to, key=lambda each: free[each])
            free[node] -= 1
            placed.append((name, node))
    return placed


def last_runs(folder: Path) -> list[Path]:
    """The folders of those runs in the results `folder` that durations are learned from."""
    return [path.parent for path in sorted(folder.glob("*/manifest.json"), reverse=True)[:RUNS]]


def published_seconds(reports: Path) -> dict[str, float]:
    """What families took on a device by the published `matrix.json`, by "family-device".

    Every checkout of a commit has the same. It is a hint: empty where there is none.
    """
    try:
        published = json.loads((reports / "matrix.json").read_bytes())
        return {
            f"{family['family']}-{column.replace(':', '-')}": float(cell["seconds"])
            for family in published["families"]
            for column, cell in family["cells"].items()
            if cell["seconds"] is not None
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def recorded_seconds(folder: Path) -> dict[str, float]:
    """What jobs took in the last runs in the results `folder`, by job name; the newest counts.

    It is a hint: what cannot be read is left out.
    """
    seconds: dict[str, float] = {}
    for run in last_runs(folder):
        for path in run.glob("*-*.json"):
            if path.stem not in seconds:
                try:
                    seconds[path.stem] = float(json.loads(path.read_bytes())["run"]["wall_seconds"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue
    return seconds
