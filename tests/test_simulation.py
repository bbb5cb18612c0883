"""The simulated matrix: cases to check by hand, and the same decisions as of the real one."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from tools_fixtures import Place, a_record

from tools import plan
from tools.matrix import Matrix, NodeLost, Running
from tools.schedule import Queue, Room
from tools.simulation import KINDS, Chance, Kind, Model, Simulated, Stay, simulate
from tools.worker import Outcome, Task


class Arranged(Chance):
    """No chance: machines live as long as told, and jobs go as the model expects or as told."""

    def __init__(self, model: Model, lives: dict[str, float], stays: dict[str, Stay]) -> None:
        super().__init__(model, 0)
        self._lives, self._stays, self._jobs = lives, stays, model.jobs

    def life(self, machine: str) -> float:
        return self._lives.get(machine, math.inf)

    def stay(self, name: str, start: int) -> Stay:
        return self._stays.get(name, Stay(self._jobs[name][0]))


def run(
    model: Model,
    machines: int,
    lives: dict[str, float] | None = None,
    stays: dict[str, Stay] | None = None,
) -> Simulated:
    """A run in which only happens what is told."""
    found = simulate(model, machines, Arranged(model, lives or {}, stays or {}))
    assert math.isclose(sum(found.path.values()), found.seconds), "the path leads from end to end"
    return found


def jobs(**seconds: float) -> dict[str, tuple[float]]:
    return {name: (each,) for name, each in seconds.items()}


def path(**seconds: float) -> dict[Kind, float]:
    """A critical path; the names of its kinds with `_` for `-`."""
    given = {name.replace("_", "-"): each for name, each in seconds.items()}
    assert given.keys() <= set(KINDS)
    return {kind: pytest.approx(given.get(kind, 0.0)) for kind in KINDS}


FOUR = jobs(a=10, b=10, c=10, d=10)


@pytest.mark.parametrize(
    ("machines", "at_once", "seconds"),
    [(1, 1, 40), (2, 1, 20), (1, 2, 20), (3, 1, 20), (4, 1, 10), (2, 2, 10), (64, 1, 10)],
)
def test_four_equal_jobs(machines: int, at_once: int, seconds: float) -> None:
    found = run(Model(FOUR, at_once), machines)
    assert found.seconds == seconds
    assert found.path == path(scripts=seconds)
    assert found.in_a_row == seconds / 10
    assert (found.useful, found.lost, found.retries) == (40, 0, 0)


def test_one_long_job_bounds_any_number_of_machines() -> None:
    model = Model(jobs(short=1, long=100, other=1), startup=5)
    for machines in (2, 3, 100):
        found = run(model, machines)
        assert found.seconds == 105
        assert found.path == path(start_up=5, scripts=100)
        assert found.in_a_row == 1
    assert run(model, 1).seconds == 107
    assert run(model, 1).in_a_row == 3


def test_the_longest_goes_first_as_far_as_is_known() -> None:
    model = Model({"a": (1, 50), "b": (2,), "c": (9,)})
    placed = [("c", "machine 1"), ("b", "machine 2"), ("a", "machine 2")]
    assert run(model, 2).placed == placed


def test_each_machine_starts_up_before_its_first_script_only() -> None:
    found = run(Model(FOUR, startup=4), 2)
    assert found.seconds == 24
    assert found.path == path(start_up=4, scripts=20)
    assert run(Model(FOUR, at_once=2, startup=4), 1).seconds == 24, "both wait for the same parent"


def test_the_driver_starts_and_keeps_one_after_the_other() -> None:
    # Started at 1, 2, 3, 4; ended at 11, 12, 13, 14; kept, two seconds each, from 11 to 19.
    found = run(Model(FOUR, starting=1, keeping=2), 4)
    assert found.seconds == 19
    assert found.path == path(driver=9, scripts=10)
    # One machine: (start 1, run 10, keep 2) four times.
    assert run(Model(FOUR, starting=1, keeping=2), 1).path == path(driver=12, scripts=40)


def test_planning_comes_first_and_the_database_last() -> None:
    found = run(Model(FOUR, planning=3, ingest=2), 4)
    assert found.seconds == 15
    assert found.path == path(planning=3, scripts=10, ingest=2)


def test_what_a_lost_machine_was_at_is_done_again_on_another() -> None:
    # Machine 1 goes at 4 with `a`; `a` is first in line when machine 2 is free at 10.
    found = run(Model(jobs(a=10, b=10, c=10)), 2, {"machine 1": 4})
    assert found.placed == [
        ("a", "machine 1"), ("b", "machine 2"), ("a", "machine 2"), ("c", "machine 2")
    ]  # fmt: skip
    assert found.seconds == 30
    assert (found.useful, found.lost, found.retries) == (30, 4, 1)


def test_another_takes_the_place_of_a_lost_machine() -> None:
    # Gone at 4, back at 10, warm at 12, done at 22.
    found = run(Model(jobs(a=10), startup=2, replacing=6), 1, {"machine 1": 4})
    assert found.seconds == 22
    assert found.placed == [("a", "machine 1"), ("a", "machine 1+")]
    assert found.path == path(start_up=2 + 2, failures=2 + 6, scripts=10)
    assert found.lost == 2, "of the script, which began at 2"


def test_a_machine_that_is_lost_while_it_starts_up_loses_no_work() -> None:
    found = run(Model(jobs(a=10), startup=5, replacing=0), 1, {"machine 1": 4})
    assert (found.seconds, found.lost, found.retries) == (19, 0, 1)
    assert found.path == path(failures=4, start_up=5, scripts=10)


def test_an_idle_machine_that_is_lost_changes_nothing() -> None:
    found = run(Model(jobs(a=10)), 2, {"machine 2": 4})
    assert (found.seconds, found.retries) == (10, 0)
    assert found.path == path(scripts=10)


def test_what_crashed_is_tried_again_on_its_place() -> None:
    model = Model(jobs(a=10, b=1), startup=3)
    found = run(model, 1, stays={"a": Stay(10, wasted=7, retries=1)})
    assert found.seconds == 3 + 7 + 10 + 1
    assert found.path == path(start_up=3, failures=7, scripts=11)
    assert (found.useful, found.lost, found.retries) == (11, 7, 1)


def test_a_job_that_loses_too_many_machines_is_given_up() -> None:
    # Three machines, one after the other, live 4 seconds each; each next one comes after 6.
    lives = dict.fromkeys(["machine 1", "machine 1+", "machine 1++"], 4.0)
    found = run(Model(jobs(a=10), replacing=6, keeping=1), 1, lives)
    assert [node for _, node in found.placed] == list(lives)
    assert found.seconds == 4 + 6 + 4 + 6 + 4 + 1
    assert found.path == path(failures=24, driver=1)
    assert (found.useful, found.lost, found.retries, found.given_up) == (0, 12, 2, 1)


# Chance.

UNRULY = Model(
    {f"job {number}": (1 + number, 2 + number / 2) for number in range(20)},
    at_once=2, planning=1, starting=0.01, keeping=0.02, ingest=1, startup=4,
    losses=60, replacing=5, crashes=0.1, timeouts=0.1, timeout=30, retries=2,
)  # fmt: skip


def test_a_seed_decides_all_and_another_one_else() -> None:
    first, again, other = (simulate(UNRULY, 4, Chance(UNRULY, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.seconds != other.seconds
    assert first.retries
    assert first.lost
    assert math.isclose(sum(first.path.values()), first.seconds)


@pytest.mark.parametrize("machines", [1, 3, 20, 50])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_all_jobs_are_done_and_the_path_is_whole(seed: int, machines: int) -> None:
    found = simulate(UNRULY, machines, Chance(UNRULY, seed))
    assert {name for name, _ in found.placed} == UNRULY.jobs.keys()
    assert math.isclose(sum(found.path.values()), found.seconds)
    assert all(seconds >= 0 for seconds in found.path.values())
    assert found.useful <= found.seconds * machines * UNRULY.at_once


def test_rates_are_those_that_were_asked_for() -> None:
    model = replace(UNRULY, jobs=jobs(a=10), crashes=0.2, timeouts=0.1)
    chances = [Chance(model, seed) for seed in range(2000)]
    lives = [chance.life("m") for chance in chances]
    assert sum(lives) / len(lives) == pytest.approx(60, rel=0.1), "60 losses an hour"
    stays = [chance.stay("a", 1) for chance in chances]
    assert sum(stay.retries > 0 for stay in stays) / 2000 == pytest.approx(0.3, rel=0.1)
    once = [stay.wasted - 4 for stay in stays if stay.retries == 1]
    assert sum(spent == 30 for spent in once) / len(once) == pytest.approx(1 / 3, rel=0.2)
    assert all(0 < spent < 10 for spent in once if spent != 30)


def test_retries_end_where_the_runner_gives_up() -> None:
    model = Model(jobs(a=10), startup=4, timeouts=1.0, timeout=30, retries=2)
    assert Chance(model, 0).stay("a", 1) == Stay(30, wasted=2 * (30 + 4), retries=2)


# What the simulation shares with the matrix.


def test_a_job_avoids_the_machine_that_lost_it_if_it_can() -> None:
    queue = Queue({"a": "cpu", "b": "cpu"}, {})
    assert queue.start([Room("east", 1)]) == [("a", "east")]
    queue.put_back("a", avoid="east")
    assert queue.start([Room("east", 2), Room("west", 1)]) == [("a", "west"), ("b", "east")]
    queue.put_back("a", avoid="west")
    assert queue.start([Room("east", 2), Room("west", 1)]) == [("a", "east")], "anywhere, then"


def test_a_machine_without_room_is_waited_for() -> None:
    queue = Queue({"a": "cuda"}, {})
    assert queue.start([Room("east", 0, ["cuda"]), Room("west", 1, ["cpu"])]) == []
    assert queue.fits([Room("east", 0, ["cuda"])])
    assert not queue.fits([Room("west", 1, ["cpu"])])
    assert not queue.fits([Room("east", 1, ["cuda"], broken=["cuda"])])


# The real matrix, on machines with a clock instead of processes.


class Toys:
    """Machines that run nothing: `wait` goes to when the next job has ended, or a machine is lost.

    Written apart from the simulation, and simpler: no costs, and no machine takes another's place.
    """

    def __init__(self, seconds: dict[str, float], machines: int, lives: dict[str, float]) -> None:
        self.now, self.placed = 0.0, list[tuple[str, str]]()
        self._seconds, self._lives = seconds, lives
        self._names = [f"machine {number + 1}" for number in range(machines)]
        self._running: list[tuple[float, int, str, Task, Running]] = []

    def rooms(self) -> list[Room]:
        busy = [node for _, _, node, _, _ in self._running]
        alive = [name for name in self._names if self._lives.get(name, math.inf) > self.now]
        return [Room(name, 1 - busy.count(name)) for name in alive]

    def submit(self, node: str, task: Task) -> Running:
        future: Running = Future()
        end = min(self.now + self._seconds[task.name], self._lives.get(node, math.inf))
        heapq.heappush(self._running, (end, len(self.placed), node, task, future))
        self.placed.append((task.name, node))
        return future

    def wait(self, running: Collection[Running]) -> list[Running]:
        self.now, _, node, task, future = heapq.heappop(self._running)
        assert future in running
        if self._lives.get(node) == self.now:
            future.set_exception(NodeLost("it was told to"))
        else:
            record = a_record(task.job["family"])
            record["run"] |= {"id": task.run_id, "retries": list(task.retries) or None}
            record["run"] = {key: each for key, each in record["run"].items() if each}
            record["run"]["exit_code"] = 0
            record["script"] = {"name": task.job["script"], "sha256": task.job["script_sha256"]}
            future.set_result(Outcome(record))
        return [future]

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("lives", [{}, {"machine 1": 4.0}, {"machine 1": 4.0, "machine 3": 7.5}])
def test_the_real_matrix_decides_the_same(tmp_path: Path, lives: dict[str, float]) -> None:
    took = {
        "a": 1.0,
        "b": 5.0,
        "c": 3.0,
        "d": 8.0,
        "e": 2.0,
        "f": 6.5,
        "g": 0.3,
        "h": 4.1,
        "i": 2.2,
    }
    place = Place(tmp_path)
    recorded = []
    for family, seconds in took.items():
        place.script(family)
        record = a_record(family)
        record["run"]["wall_seconds"] = seconds
        recorded.append(record)
    place.write_run(recorded)
    seconds = {f"{family}-cpu": each for family, each in took.items()}

    toys = Toys(seconds, 3, lives)
    planned = plan.start(place.options("matrix", "--device", "cpu"))
    with planned.lock:
        assert not Matrix(planned, toys, toys.wait).work()
    assert place.run().complete

    found = run(Model({name: (each,) for name, each in seconds.items()}, replacing=1e9), 3, lives)
    assert found.placed == toys.placed
    assert found.seconds == toys.now
    assert found.retries == len(toys.placed) - len(took) == len(lives)
