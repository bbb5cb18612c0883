"""How this machine becomes a node of a Ray cluster: `python -m tools node`.

It advertises what scripts can use here, by our own detection: a resource for each device, named as
`--device` names it. Ray detects GPUs too, but it knows neither whether torch can use them, nor the
other kinds of devices.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import devices, worker
from tools.usage import UsageError

RAY = "ray>=2.60"  # as in pyproject.toml
TOKEN = Path("~/.ray/auth_token")  # where Ray looks for it
NUMBERS = 16  # of one kind in one machine: cuda:0 to cuda:15
STORE_BYTES = 128 * 2**20  # a record and its logs are small; Ray would take a third of the memory

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # would hide GPUs that Ray has not counted
    "RAY_memory_monitor_refresh_ms": "0",  # would kill the agent for what a script takes
    "RAY_worker_niceness": "0",  # scripts are to run as they do without Ray
    "RAY_kill_child_processes_on_worker_exit": "0",  # the parent of the scripts cleans up better
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # what runs cannot move to another node
}
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: then Ray listens on 127.0.0.1 only
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def load() -> Any:
    """Ray. Errors: UsageError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"a cluster needs Ray ({error}): `{sys.executable} -m pip install '{RAY}'`"
        ) from error
    return ray


def main(options: argparse.Namespace) -> int:
    """`python -m tools node`: start a cluster here, or join that of `--cluster`, until stopped.

    Errors: UsageError. What stands behind `--` on the command line goes to `ray start`.
    """
    load()
    if not has_token() and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        if options.cluster:
            raise UsageError(
                f"this machine has no {TOKEN}, without which it may not join: copy that of the "
                "machine that has started the cluster"
            )
        _make_token()
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    found = detect(())
    head = ["--head", "--include-dashboard=false"]  # which would serve whoever has the port
    where = ["--address", options.cluster] if options.cluster else head
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"]
    command += ["--num-cpus", str(worker.cores()), "--object-store-memory", str(STORE_BYTES)]
    command += ["--resources", json.dumps(dict.fromkeys(found, 1)), *options.ray]
    print(f"devices of this machine: {', '.join(['cpu', *found])}\n{shlex.join(command)}")
    if not options.cluster:
        print("others join with `nox -s node -- --cluster HOST:PORT`; Ray tells the address below")
    sys.stdout.flush()
    os.execve(sys.executable, command, {**ENVIRONMENT, **os.environ})


def has_token() -> bool:
    """Whether there is a token with which Ray lets this machine in."""
    return bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()) or (
        TOKEN.expanduser().exists()
    )


def detect(asked: Sequence[str]) -> list[str]:
    """Which of the `asked` devices, or of all kinds, scripts can use here, apart from cpu.

    Of a kind that is there, each device is named too: cuda, cuda:0, cuda:1.
    """
    found = _usable(asked)
    kinds = [device for device in found if ":" not in device]
    numbered = [f"{kind}:{number}" for kind in kinds for number in range(NUMBERS)]
    return [*found, *_usable(numbered)] if numbered else found


class Loopback:
    """A Ray cluster on this machine, which no other machine can reach; `close` ends it.

    Meanwhile the environment has what other processes need to connect to `address`.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            # Its sockets have long names, of which the kernel takes 107 characters.
            folder = tempfile.TemporaryDirectory(None, "ray-", "/tmp", True)
            self._folder = Path(stack.enter_context(folder))
            place = {"RAY_TMPDIR": str(self._folder)}
            stack.enter_context(_environment({**ENVIRONMENT, **LOOPBACK, **place}))
            load()
            from ray.cluster_utils import Cluster

            self._cluster, self._nodes = Cluster(), 0
            stack.callback(self._cluster.shutdown)
            self.close = stack.pop_all().close

    @property
    def address(self) -> str:
        """Where it is, once it has a node."""
        return str(self._cluster.address)

    def add(self, cores: int, found: Collection[str] = (), name: str | None = None) -> None:
        """Start a node with the devices `found`; the first one holds the cluster together.

        Its cores are no other node's, as long as there are enough. Errors: UsageError.
        """
        try:
            with _pinned(self._nodes * cores, cores):
                self._cluster.add_node(
                    num_cpus=cores,
                    resources=dict.fromkeys(found, 1),
                    object_store_memory=STORE_BYTES,
                    node_name=name,
                    temp_dir=str(self._folder / f"ray{self._nodes or ''}"),
                    node_ip_address="127.0.0.1",
                    include_dashboard=False,
                    include_log_monitor=False,
                    no_monitor=True,
                )
        except Exception as error:
            raise UsageError(f"Ray does not start here: {error}") from error
        self._nodes += 1


def _usable(asked: Sequence[str]) -> list[str]:
    found = devices.probe(asked)
    return [each["device"] for each in found if not each["why_not"] and each["device"] != "cpu"]


def _make_token() -> None:
    path = TOKEN.expanduser()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    print(f"{path} is new: whoever has it may run programs on the machines of this cluster")


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Have the `changes` in the environment meanwhile."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _pinned(first: int, count: int) -> Iterator[None]:
    """Have what is started meanwhile run on `count` of our cores, from the `first` on."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        yield
        return
    ours = os.sched_getaffinity(0)
    ordered = sorted(ours)
    chosen = {ordered[number % len(ordered)] for number in range(first, first + count)}
    os.sched_setaffinity(0, chosen or ours)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
