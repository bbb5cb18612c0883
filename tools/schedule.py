"""Which job goes where next: the policy of the matrix, on one machine, on many, and simulated.

Whoever is free takes the longest job that it can run, so that no long one is left over for the
end. How long a job takes is what it took in the last runs; one never seen goes first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 5  # the last ones, to learn durations from


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


def longest_first(names: Iterable[str], seconds: Mapping[str, float]) -> list[str]:
    """Job names, the longest first; those of unknown duration before all, else as they come."""
    return sorted(names, key=lambda name: -seconds.get(name, math.inf))


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


def recorded_seconds(folder: Path) -> dict[str, float]:
    """What jobs took in the last runs in the results `folder`, by job name; the newest counts.

    It is a hint: what cannot be read is left out.
    """
    seconds: dict[str, float] = {}
    for run in sorted(folder.glob("*/manifest.json"), reverse=True)[:RUNS]:
        for path in run.parent.glob("*-*.json"):
            if path.stem not in seconds:
                try:
                    seconds[path.stem] = float(json.loads(path.read_bytes())["run"]["wall_seconds"])
                except (OSError, ValueError, KeyError, TypeError):
                    continue
    return seconds
