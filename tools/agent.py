"""What works on a node of a Ray cluster: an actor that has the scripts run there.

Ray imports it from the folder that `tools.cluster` has sent to the node. It never forks itself, nor
bounds its own memory: that is for the parent that its `Worker` starts.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from tools import plan, scripts
from tools.worker import Outcome, Settings, Task, Worker


class Agent:
    """Runs tasks on this node, called from `at_once` threads; `stop` needs one more."""

    def __init__(self, settings: Settings, at_once: int, node: str, threads: int) -> None:
        _hide_ray()
        self._worker = Worker(settings, at_once, node, threads)

    def ready(self) -> None:
        """Answer, which says that this node can work."""

    def run(self, task: Task) -> Outcome | None:
        """The outcome of `task` with its logs; None after `stop`."""
        with tempfile.TemporaryDirectory(dir=scripts.ROOT) as logs:  # which goes with Ray
            outcome = self._worker.run(replace(task, versions=plan.versions()), Path(logs))
            found = {path.name: path.read_bytes() for path in Path(logs).iterdir()}
        return outcome and replace(outcome, logs=found)

    def stop(self) -> None:
        """Kill everything that runs, and start nothing more."""
        self._worker.stop()


def _hide_ray() -> None:
    """Take out of the environment what Ray has put in and scripts would notice."""
    os.environ.pop("PYTHONBREAKPOINT", None)
    paths = os.environ.pop("PYTHONPATH", "").split(os.pathsep)
    if own := [path for path in paths if path and Path(path) != scripts.ROOT]:
        os.environ["PYTHONPATH"] = os.pathsep.join(own)
