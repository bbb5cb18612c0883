"""Workflows call sessions that exist with flags that parse, trust nobody, can be rehearsed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml

from tools import devices, rehearse
from tools.scripts import ROOT
from tools.usage import UsageError

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VALUES = {
    "DATASET": "me/benchmarks",
    "DEVICE": "cpu",
    "SHARD": "1/2",
    "BASE": "main",
    "FLAGS": "--family bert",
    "PACKAGE": "transformers",
    "OLD": "5.22.2",
    "NEW": "5.23.0",
}


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
            yield f"{path.name}: {name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in jobs():
        for step in job["steps"]:
            yield name, step
    for path in (ROOT / ".github" / "actions").glob("*/action.yml"):
        for step in yaml.safe_load(path.read_text("utf-8"))["runs"]["steps"]:
            yield path.parent.name, step


def test_every_session_exists_and_its_flags_parse() -> None:
    called = set()
    for where, step in steps():
        lines = (line for line in step.get("run", "").splitlines() if "nox -s" in line)
        for line in lines:
            filled = re.sub(r"\$([A-Z]+)", lambda found: VALUES[found[1]], line)
            try:
                called |= {*commands.understand(filled)}
            except AssertionError as error:
                raise AssertionError(f"{where}: {line}: {error}") from error
    assert {"lint", "check", "tests", "matrix", "combine", "publish", "archive"} <= called


def test_each_job_has_least_rights_and_an_end() -> None:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert workflow["permissions"] == {}, path
        assert workflow["concurrency"], path
    for where, job in jobs():
        assert job["timeout-minutes"] <= 120, where
        assert job.get("permissions") or where.endswith("pages"), where


def test_secrets_are_for_protected_environments_and_nothing_is_sent_unasked() -> None:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert "secrets." not in str({**workflow, "jobs": None}), path
    for where, job in jobs():
        if "secrets." in str(job):
            assert job["environment"], where
        sends = [s for s in job["steps"] if re.search("--(create-pr|commit)", s.get("run", ""))]
        if sends:
            assert job["if"] == "${{ inputs.send }}", where  # null where a schedule starts it
            assert job["environment"], where


def test_actions_are_pinned_and_expressions_stay_out_of_the_shell() -> None:
    for where, step in steps():
        if "uses" in step and not step["uses"].startswith("$/"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), f"{where}: {step['uses']}"
        assert "${{" not in step.get("run", ""), f"{where}: {step['run']}"


def test_jobs_run_behind_those_that_they_need() -> None:
    order = rehearse.in_order({"c": {"needs": ["a", "b"]}, "b": {"needs": "a"}, "a": {}})
    assert [name for name, _ in order] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("job", "values", "why"),
    [
        ({"runs-on": "x"}, {"runner": "ubuntu-24.04", "device": "cpu"}, None),
        ({"runs-on": "x"}, {"runner": "macos-15", "device": "mps"}, "there is no mps here"),
        ({"runs-on": "${{ vars.CUDA_RUNNER }}"}, {}, "needs a runner of its own"),
        ({"runs-on": "ubuntu-24.04", "permissions": {"issues": "write"}}, {}, "needs GitHub"),
    ],
)
def test_what_cannot_run_here_is_named(
    job: dict[str, Any], values: dict[str, str], why: str | None
) -> None:
    found = rehearse.absent(job, values, {"cpu"})
    assert (why or "None") in str(found)


NIGHTLY = """
jobs:
  matrix:
    runs-on: ${{ matrix.runner }}
    strategy:
      matrix:
        include:
          - {runner: ubuntu, device: cpu, shard: 1/2}
          - {runner: ubuntu, device: cpu, shard: 2/2}
    steps:
      - uses: actions/checkout@0
      - uses: $/.github/actions/setup
      - run: mkdir results; echo "$SHARD $FLAGS" > "results/$INDEX"
        env: {SHARD: "${{ matrix.shard }}", FLAGS: "${{ inputs.flags }}",
              INDEX: "${{ strategy.job-index }}"}
      - uses: actions/upload-artifact@0
        with: {name: "run-${{ strategy.job-index }}", path: results}
  report:
    needs: matrix
    runs-on: ubuntu
    steps:
      - uses: actions/checkout@0
      - uses: actions/download-artifact@0
        with: {pattern: run-*, path: parts}
      - run: cat parts/run-0/0 parts/run-1/1 > report.txt; cat report.txt
      - run: git push origin HEAD:refs/heads/kept
      - run: <last>
        continue-on-error: <continue>
      - uses: actions/upload-artifact@0
        with: {name: report, path: report.txt}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = devices.answer("cpu", None)
    monkeypatch.setattr(devices, "probe", lambda _: [here])  # to look at drivers takes 10 s
    folder = tmp_path / "repository"
    (folder / rehearse.WORKFLOW).parent.mkdir(parents=True)
    return folder


def rehearsed(repository: Path, last: str, goes_on: str) -> rehearse.Rehearsal:
    text = NIGHTLY.replace("<last>", last).replace("<continue>", goes_on)
    (repository / rehearse.WORKFLOW).write_text(text)
    for words in (
        ("init", "--initial-branch=main"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "nightly"),
    ):
        subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True)
    scratch = repository.parent / "scratch"
    scratch.mkdir()
    return rehearse.Rehearsal(scratch, "--family bert", repository)


def test_a_rehearsal_does_what_the_workflow_says(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rehearsal = rehearsed(repository, "exit 1", "true")
    assert rehearsal.run() == 0
    assert rehearsal.unexpected
    out = capfd.readouterr().out
    assert "1/2 --family bert\n2/2 --family bert\n" in out
    assert "unexpected results" in out
    assert (rehearsal.artifacts / "report" / "report.txt").exists()
    command = ["git", "branch", "--list", "kept"]
    kept = subprocess.run(command, cwd=rehearsal.remote, capture_output=True, text=True, check=True)
    assert "kept" in kept.stdout
    left = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "kept" not in left.stdout  # the repository itself is left alone


def test_a_step_that_fails_ends_the_rehearsal(repository: Path) -> None:
    with pytest.raises(UsageError, match="`exit 3` ends with 3"):
        rehearsed(repository, "exit 3", "false").run()
