"""Rehearse: the steps of `.github/workflows/nightly.yml`, one after the other, in a fresh clone.

What a step runs is what the workflow runs: the file is read, not repeated here. Checkout, setup and
artifacts are done by folders, the remote is a bare copy of this repository. Machines and services
that are not here (macOS, Pages, issues) are named, never passed over in silence.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tools import devices
from tools.environment import OWN_PYTHON
from tools.git import git
from tools.scripts import ROOT
from tools.usage import UsageError

WORKFLOW = ".github/workflows/nightly.yml"


def main(options: argparse.Namespace) -> int:
    """`python -m tools rehearse [--family A,B]`: 0 when every step that can run here succeeds."""
    flags = ["--family", ",".join(options.family)] if options.family else []
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        return Rehearsal(Path(scratch), shlex.join(flags)).run()


class Rehearsal:
    """A rehearsal in the folder `scratch`, with further `flags` of the matrix."""

    def __init__(self, scratch: Path, flags: str, source: Path = ROOT) -> None:
        self.artifacts = scratch / "artifacts"
        self.remote, self.scratch = scratch / "remote.git", scratch
        self.flags, self.source = flags, source
        self.left_out: list[str] = []
        self.unexpected = False

    def run(self) -> int:
        """Run the jobs in their order; gives back the exit code."""
        start = time.monotonic()
        git("clone", "--quiet", "--bare", str(self.source), str(self.remote))
        commit = git("rev-parse", "HEAD", folder=self.source).decode().strip()
        if git("status", "--porcelain", "--untracked-files=no", folder=self.source):
            print("Changes that are not committed are not rehearsed.")
        workflow = yaml.safe_load((self.source / WORKFLOW).read_text(encoding="utf-8"))
        there = {each["device"] for each in devices.probe([]) if each["why_not"] is None}
        steps = 0
        for name, job in in_order(workflow["jobs"]):
            for index, values in enumerate(variants(job)):
                title = " ".join(
                    [name, *(str(values[k]) for k in ("device", "shard") if k in values)]
                )
                if why_not := absent(job, values, there):
                    self.left_out.append(f"{title}: {why_not}")
                    continue
                print(f"\n=== {title}", flush=True)
                facts = {f"matrix.{key}": str(value) for key, value in values.items()}
                facts |= {"strategy.job-index": str(index), "inputs.flags": self.flags}
                steps += self._job(job, workflow.get("env", {}), facts, commit)
        for each in self.left_out:
            print(f"not rehearsed: {each}")
        told = "; the matrix has unexpected results, which would be told" if self.unexpected else ""
        print(f"rehearsed {steps} steps in {time.monotonic() - start:.0f} s{told}")
        return 0

    def _job(
        self,
        job: Mapping[str, Any],
        common: Mapping[str, str],
        facts: Mapping[str, str],
        commit: str,
    ) -> int:
        """Run the steps of a job in a clone of its own; how many there were."""
        place = Path(tempfile.mkdtemp(dir=self.scratch))
        count = 0
        for step in job["steps"]:
            count += 1
            action = step.get("uses", "").partition("@")[0].rpartition("actions/")[2]
            inputs = {key: filled(str(v), facts) for key, v in step.get("with", {}).items()}
            if action == "checkout":
                git("clone", "--quiet", str(self.remote), str(place))
                git("checkout", "--quiet", commit, folder=place)
            elif action == "setup":
                continue  # this Python is the shared environment
            elif action == "upload-artifact":
                self._upload(place, inputs)
            elif action == "download-artifact":
                for artifact in sorted(self.artifacts.glob(inputs["pattern"])):
                    shutil.copytree(artifact, place / inputs["path"] / artifact.name)
            elif action:
                self.left_out.append(f"{action}: needs GitHub")
                if not (place / inputs.get("path", "")).exists():
                    raise UsageError(f"{WORKFLOW}: {action} would find no {inputs['path']}")
            elif "if" in step:
                self.left_out.append(f"{step['name']}: {step['if']}")
            else:
                variables = {**common, **step.get("env", {})}
                self._shell(step, place, {k: filled(str(v), facts) for k, v in variables.items()})
        shutil.rmtree(place)
        return count

    def _shell(self, step: Mapping[str, Any], place: Path, variables: Mapping[str, str]) -> None:
        told = " ".join(f"{name}={value}" for name, value in variables.items() if value)
        print(f"--- {step['run'].strip()}  {told}", flush=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **variables, "PATH": path, OWN_PYTHON: sys.executable}
        command = ["bash", "-e", "-c", step["run"]]
        done = subprocess.run(command, cwd=place, env=environment, check=False)
        if done.returncode and not step.get("continue-on-error"):
            raise UsageError(f"{WORKFLOW}: `{step['run'].strip()}` ends with {done.returncode}")
        self.unexpected |= bool(done.returncode)

    def _upload(self, place: Path, inputs: Mapping[str, str]) -> None:
        target = self.artifacts / inputs["name"]
        names = inputs["path"].split()
        for name in names:
            source = place / name
            if not source.exists():
                raise UsageError(f"{WORKFLOW}: the artifact {inputs['name']} would lack {name}")
            if source.is_dir():  # of a single folder the artifact holds what is in it
                inside = target if len(names) == 1 else target / name
                shutil.copytree(source, inside, dirs_exist_ok=True)
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


def in_order(jobs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The jobs by name, each behind those that it needs."""
    done: set[str] = set()
    while len(done) < len(jobs):
        for name, job in jobs.items():
            needs = job.get("needs", [])
            if name not in done and done.issuperset([needs] if isinstance(needs, str) else needs):
                done.add(name)
                yield name, job


def variants(job: Mapping[str, Any]) -> list[dict[str, str]]:
    """The values of the job's matrix, one set for each of its runs."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found: list[dict[str, str]] = matrix.get("include", [{}])
    return found


def absent(job: Mapping[str, Any], values: Mapping[str, str], there: set[str]) -> str | None:
    """Why the job cannot run on this machine; None where it can."""
    runner = values.get("runner", job["runs-on"])
    device = values.get("device")
    if device and device not in there:
        return f"there is no {device} here"
    if not runner.startswith("ubuntu") and not device:
        return f"needs a runner of its own ({runner})"
    if not {"contents"}.issuperset(job.get("permissions", {})):
        return "needs GitHub"
    return None


def filled(text: str, facts: Mapping[str, str]) -> str:
    """`text` with the expressions replaced by `facts`; one that nobody knows is empty."""
    return re.sub(r"\$\{\{ *([^}]*?) *\}\}", lambda found: facts.get(found[1], ""), text)
