"""The machines of a Ray cluster as nodes of the matrix (`--cluster`).

A node has the device `cuda:1` if it advertises a resource of that name, which `tools.node` does
where it is there; every node with a core has `cpu`. A run takes its nodes whole: the agent that is
pinned to a node holds all its cores and GPUs, so that nothing else in the cluster disturbs what is
measured, and two runs follow each other. What goes where is decided by `tools.schedule`, as on one
machine. The nodes need the packages of the scripts, but no copy of this repository: `tools` and
`templates` are sent to them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tools import devices, node, scripts, worker
from tools.agent import Agent
from tools.devices import Found
from tools.matrix import NodeLost
from tools.processes import KILL_SECONDS
from tools.results import Job
from tools.schedule import Room
from tools.usage import UsageError, plain
from tools.worker import Outcome, Settings, Task

CONNECT_SECONDS = 5
BUSY_SECONDS = 20  # which an agent may take to start
TRIES = 3  # to start the agent of a node, before the node is left out
TO_COME = "a machine to come"
PRESENCE = 0.001  # of a device: all jobs of a node share it


class ClusterLost(UsageError):
    """The machine that holds the cluster together is gone, and the cluster with it."""

    exit_code = 1


@contextlib.contextmanager
def connect(address: str, wait: float | None, asked: Sequence[str]) -> Iterator[Cluster]:
    """The cluster at `address`, or one that is started here: "local", "local:2x1" (nodes x cores).

    Errors: UsageError.
    """
    if not re.fullmatch(r"[^/]+:\d+|auto|local(:\d+x\d+)?", address):
        raise UsageError(f"--cluster: {address!r} is not HOST:PORT, auto, local or local:2x1")
    with contextlib.ExitStack() as stack:
        if local := re.fullmatch(r"local(?::(\d+)x(\d+))?", address):
            found, cores = node.detect(asked), int(local[2] or worker.cores())
            here = stack.enter_context(contextlib.closing(node.Loopback()))
            for _ in range(int(local[1] or 1)):
                here.add(cores, found)
            address = here.address
        elif node.has_token():  # Ray would use it for the address "auto" only
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        ray = node.load()
        _join(ray, address)
        stack.callback(ray.shutdown)
        yield Cluster(ray, wait or 0)


class Cluster:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, wait: float) -> None:
        self.ray, self.wait = ray, wait
        self._address: str = ray.get_runtime_context().gcs_address

    def machines(self) -> dict[str, Machine]:
        """The nodes that live and have a core, by their number. Errors: ClusterLost."""
        try:
            _call(self._address)  # Ray itself would look for it for a minute, then end this process
        except OSError as error:
            raise ClusterLost(
                f"the first machine of the cluster, {self._address}, is lost ({error}). What is "
                "done is safe: go on in another, or without, with `python -m tools matrix --resume`"
            ) from error
        return {
            each["NodeID"]: Machine.of(each)
            for each in self.ray.nodes()
            if each["Alive"] and each["Resources"].get("CPU", 0) >= 1
        }

    def agents(self, settings: Settings, jobs: Sequence[Job], at_once: int | None) -> Agents:
        """The nodes at work on `jobs`, `at_once` on each, or as many as is usual."""
        return Agents(self, settings, jobs, at_once)

    def probe(self, asked: Sequence[str]) -> list[Found]:
        """Which of the `asked` devices, or of all kinds, a node has or may come to have."""
        here = _devices(self.machines().values())
        has = f"no node has it, only {', '.join(sorted(here))}" if here else "no node has a core"
        return [
            devices.answer(each, None if each in here or (asked and self.wait) else has)
            for each in asked or scripts.device_kinds()
        ]


@dataclass(frozen=True)
class Machine:
    """What is known of a node."""

    name: str
    devices: frozenset[str]
    cores: int
    gpus: float
    memory: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Machine:
        """What Ray tells of a node."""
        resources = told["Resources"]
        named = told["NodeName"] != told["NodeManagerAddress"]
        memory = resources.get("memory", 0) + resources.get("object_store_memory", 0)
        kinds = scripts.device_kinds()
        return cls(
            told["NodeName"] if named else told["NodeManagerHostname"],
            frozenset({"cpu", *(each for each in resources if each.partition(":")[0] in kinds)}),
            int(resources["CPU"]),
            resources.get("GPU", 0),
            int(memory),
        )


@dataclass
class Member:
    """A node that takes part: its agent, and what that does; `lost` says how it has ended."""

    name: str
    machine: Machine
    at_once: int
    agent: Any
    ready: Future[None]
    late: float  # when to say that it is not ready
    works: bool = False
    proved: bool = False  # has done a job
    lost: str | None = None
    running: set[Future[Outcome | None]] = field(default_factory=set)

    @property
    def free(self) -> int:
        """How many more jobs it can take."""
        return self.at_once - len(self.running) if self.works else 0


class Agents:
    """The nodes of a cluster, each with an agent, at work on `jobs`."""

    def __init__(
        self, cluster: Cluster, settings: Settings, jobs: Sequence[Job], at_once: int | None
    ) -> None:
        self._cluster, self._settings, self._jobs, self._at_once = cluster, settings, jobs, at_once
        self._members: dict[str, Member] = {}
        self._tries = Counter[str]()
        self._reasons: dict[str, str] = {}  # why the last agent of a node was lost
        self._names: dict[str, str] = {}
        self._same = Counter[str]()
        self._wanted = {job["device"] for job in jobs}
        # What nobody has and nobody waits for is asked of any node, whose answer is "skip".
        self._nowhere = frozenset[str]()
        if cluster.wait:
            self._demand([{"CPU": 1, **_share(job["device"])} for job in jobs])
        else:
            self._nowhere = frozenset(self._wanted - _devices(cluster.machines().values()))
        self._complete = time.monotonic()

    def rooms(self) -> list[Room]:
        """What the nodes have room for now, as they come and go."""
        machines = self._cluster.machines()
        for number in self._members.keys() - machines.keys():
            for outcome in tuple(self._members.pop(number).running):
                _lose(outcome, "the cluster has missed it for a while")
        for number, machine in machines.items():
            self._look_after(number, machine)
        rooms = [
            Room(member.name, member.free, member.machine.devices | self._nowhere)
            for member in self._members.values()
        ]
        missing = self._wanted - _devices(member.machine for member in self._members.values())
        if not missing - self._nowhere:
            self._complete = time.monotonic()
        elif time.monotonic() - self._complete < self._cluster.wait:
            rooms.append(Room(TO_COME, 0, missing))
        return rooms

    def submit(self, node: str, task: Task) -> Future[Outcome | None]:
        """Send `task` to the agent of `node`."""
        member = next(each for each in self._members.values() if each.name == node)
        with contextlib.suppress(OSError):  # gone since the run began: Python will say so there
            task = replace(task, text=task.script.read_bytes())
        outcome: Future[Outcome | None] = Future()
        member.running.add(outcome)
        member.agent.run.remote(task).future().add_done_callback(
            partial(_hand_on, member=member, outcome=outcome)
        )
        return outcome

    def stop(self) -> None:
        """Kill everything that runs, say which nodes were of no use, and leave them all."""
        for number, member in self._members.items():
            if not member.works:
                why = self._reasons.get(number, "it was not ready when the run ended")
                print(f"{member.name} is left out: {why}", flush=True)
        with contextlib.suppress(Exception):  # of Ray, because a node is gone: so are its scripts
            stops = [each.agent.stop.remote() for each in self._members.values() if each.works]
            self._cluster.ray.wait(stops, num_returns=len(stops), timeout=KILL_SECONDS)
        for member in self._members.values():
            self._dismiss(member.agent)
        if self._cluster.wait:
            self._demand([])

    def _look_after(self, number: str, machine: Machine) -> None:
        """Have an agent on the node `number`, unless too many were lost there."""
        member = self._members.get(number)
        if member and member.ready.done() and not member.works:
            if error := member.ready.exception():
                member.lost = _reason(error)
            else:
                member.works = True
                names = ", ".join(sorted(machine.devices))
                print(f"{member.name} is ready: {member.at_once} at once on {names}", flush=True)
        elif member and not member.works and time.monotonic() > member.late:
            member.late = math.inf
            print(f"{member.name} is waited for: it is slow, or others have its cores", flush=True)
        if member and member.lost:
            self._dismiss(member.agent)
            self._reasons[number] = member.lost
            del self._members[number]
            self._tries[number] = 1 if member.proved else self._tries[number] + 1
            if self._tries[number] == TRIES:
                print(f"{member.name} is left out: {member.lost}", flush=True)
        if number not in self._members and self._tries[number] < TRIES:
            self._members[number] = self._hire(number, machine)

    def _hire(self, number: str, machine: Machine) -> Member:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        at_once = self._at_once or worker.usual_jobs(self._jobs, machine.cores, machine.memory)
        name = self._name(number, machine)
        agent = (
            self._cluster.ray.remote(Agent)
            .options(
                num_cpus=machine.cores,
                num_gpus=machine.gpus,
                max_concurrency=at_once + 1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(number, soft=False),
            )
            .remote(self._settings, at_once, name, max(1, machine.cores // at_once))
        )
        late = time.monotonic() + BUSY_SECONDS
        return Member(name, machine, at_once, agent, agent.ready.remote().future(), late)

    def _name(self, number: str, machine: Machine) -> str:
        """The name of a node: that of its machine, and a number where there are several."""
        if number not in self._names:
            self._same[machine.name] += 1
            same = self._same[machine.name]
            self._names[number] = machine.name + f"-{same}" * (same > 1)
        return self._names[number]

    def _dismiss(self, agent: Any) -> None:
        with contextlib.suppress(Exception):  # of Ray: it is dead already
            self._cluster.ray.kill(agent)

    def _demand(self, bundles: list[dict[str, float]]) -> None:
        """Tell Ray's autoscaler what there should be room for, until told otherwise."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)


def _hand_on(
    theirs: Future[Outcome | None], member: Member, outcome: Future[Outcome | None]
) -> None:
    """Make `outcome` end as `theirs` has, which is known where the agent lives."""
    member.running.discard(outcome)
    if error := theirs.exception():
        member.lost = _reason(error)
        _lose(outcome, member.lost)
    else:
        member.proved = True
        with contextlib.suppress(InvalidStateError):
            outcome.set_result(theirs.result())


def _lose(outcome: Future[Outcome | None], reason: str) -> None:
    """End `outcome` with the node, unless another thread was quicker."""
    with contextlib.suppress(InvalidStateError):
        outcome.set_exception(NodeLost(reason))


def _reason(error: BaseException) -> str:
    """What Ray says at last of the end of an agent."""
    if type(error).__name__ == "ActorUnavailableError":  # it has much to say, but does not know
        return "it does not answer any more"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain(lines[-1] if lines else repr(error), 300)


def _devices(machines: Collection[Machine] | Iterator[Machine]) -> set[str]:
    return set().union(*(machine.devices for machine in machines))


def _share(device: str) -> dict[str, float]:
    return {} if device == "cpu" else {device: PRESENCE}


def _call(address: str) -> None:
    """Do nothing, where somebody answers at `address`. Errors: OSError."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _join(ray: Any, address: str) -> None:
    """Connect this process to the cluster at `address`, and send it the tools.

    Errors: UsageError.
    """
    if address != "auto":
        try:
            _call(address)
        except OSError as error:
            raise UsageError(f"--cluster {address}: nobody answers there ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        for package in ("tools", "templates"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(scripts.ROOT / package, Path(folder, package), ignore=ignore)
        try:
            ray.init(
                address,
                runtime_env={"working_dir": folder},
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:
            raise UsageError(
                f"--cluster {address}: {_reason(error)}; is it up, is this machine a node of it "
                f"(`nox -s node`), and has it the same {node.TOKEN}?"
            ) from error
    with contextlib.suppress(AttributeError):  # it is nothing that Ray promises
        # Else it prints pages about each node that dies, of which we tell in a line.
        ray._private.worker._worker_logs_enabled = False
