"""Run folders for the tests of the reports: small, valid, and with one of each thing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools_fixtures import PROOF

from tools import results
from tools.dashboard.page import Dashboard, load
from tools.database import ingest
from tools.expectations import Expectation
from tools.reports.data import Matrix, load_matrix
from tools.results import Check, Job, Status

SHA256 = "0" * 64
CHECKS = ("forward", "determinism", "golden", "save_load", "gradients", "export")
ARCHITECTURES = {
    "bert": "encoder_only",
    "roberta": "encoder_only",
    "electra": "encoder_only",
    "gpt2": "decoder_only",
    "llama": "decoder_only",
    "mamba": "state_space",
    "t5": "encoder_decoder",
    "vit": "vision",
    "llava": "vision_language",
}


def check(name: str, status: Status = "pass", reason: str | None = None) -> Check:
    """One check of a record; one that does not pass has a reason."""
    why = reason if reason or status == "pass" else f"{name} ended with {status}"
    number = 1.5e-3 if status == "fail" else None
    bound = 1e-6 if status == "fail" else None
    return {
        "name": name,
        "status": status,
        "reason": why,
        "value": number,
        "bound": bound,
        "seconds": 0.1,
    }


def checks(**other: Status) -> list[Check]:
    """All checks; those named in `other` have another status than pass."""
    return [check(name, other.get(name, "pass")) for name in CHECKS]


def expectation(family: str, name: str, **other: Any) -> Expectation:
    """That check `name` of `family` fails on every device."""
    facts: dict[str, Any] = {
        "family": family,
        "check": name,
        "device": "*",
        "status": "fail",
        "cause": "transformers",
        "reason": "the mask is built from the wrong axis",
        "where": "models/x/modeling_x.py:12 (5.23.0)",
        "versions": {},
        "feature": None,
    }
    return Expectation(**facts | other)


class Results:
    """A results folder that runs are added to, and the database made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "results"
        self.database = folder / "matrix.duckdb"
        self.folder.mkdir(parents=True)

    def run(
        self,
        run_id: str,
        records: Mapping[str, Sequence[Check]],
        *,
        device: str = "cpu",
        not_run: Sequence[str] = (),
        ended: bool = True,
        **changes: Any,
    ) -> None:
        """Add a run with a record for each of `records`; `not_run` families were only asked for.

        `changes` are merged into each record (`latency=…` are its latencies in seconds).
        """
        folder = self.folder / run_id
        folder.mkdir()
        setting = {
            key: changes.pop(key, default)
            for key, default in (("weights", "random"), ("size", "tiny"), ("dtype", "float32"))
        }
        jobs = [_job(family, device, setting) for family in (*records, *not_run)]
        manifest = {
            "schema_version": 1,
            "run_id": run_id,
            "started": "2026-11-23T18:30:00+00:00",
            "host": "bench",
            "command": ["python", "-m", "tools", "matrix"],
            "seed": 0,
            "checks": None,
            "weights_path": None,
            "jobs": jobs,
            "versions": {"torch": "2.14.1"},
        }
        results.write(folder / "manifest.json", manifest, "manifest")
        for job in jobs[: len(records)]:
            record = _record(run_id, job, records[job["family"]], dict(changes))
            results.write(folder / f"{results.job_name(job)}.json", record, "result")
        if ended:
            footer = {
                "schema_version": 1,
                "run_id": run_id,
                "ended": "2026-11-23T18:40:00+00:00",
                "finished": len(records),
                "asked": len(jobs),
                "interrupted": False,
                "counts": {},
            }
            results.write(folder / "footer.json", footer, "footer")

    def matrix(self, *known: Expectation) -> Matrix:
        """What is published of all runs, judged by the expectations `known`."""
        ingest(self.folder, self.database, known)
        return load_matrix(self.database)

    def dashboard(self, *known: Expectation) -> Dashboard:
        """What is published beside the matrix."""
        return load(self.database, self.matrix(*known), self.folder, None)


def full_results(folder: Path) -> Results:
    """Every outcome on `cpu`, a shorter incomplete run on `cuda`."""
    made = Results(folder)
    made.run(
        "20261123T183000Z-aaaaaa",
        {
            "bert": checks(),
            "roberta": checks(golden="fail"),
            "electra": checks(golden="fail", export="error"),
            "gpt2": [check("script", "crash", "SIGSEGV\nlast line of output")],
            "llama": checks(),
            "mamba": [check("script", "timeout", "stopped after 300 s")],
            "t5": checks(golden="error", gradients="skip"),
            "vit": checks(gradients="skip"),
        },
    )
    made.run(
        "20261123T184500Z-bbbbbb",
        {"llava": [check(name, "mock", "pillow is missing") for name in CHECKS]},
        inference="mock",
        missing=["pillow"],
    )
    made.run(
        "20261123T190000Z-cccccc",
        {
            "bert": checks(),
            "roberta": [check(name, "skip", "no cuda device") for name in CHECKS],
            "gpt2": checks(),
        },
        device="cuda",
        not_run=["vit"],
        ended=False,
        latency=[0.001, 0.002, 0.003],
    )
    return made


EXPECTED = (expectation("roberta", "golden"), expectation("llama", "export"))
"""What makes roberta expected and llama an unexpected pass."""


def _job(family: str, device: str, setting: Mapping[str, str]) -> Job:
    return {
        "family": family,
        "architecture": ARCHITECTURES.get(family, "encoder_only"),
        "model_class": f"{family.title()}Model",
        "checkpoint": None,
        "device": device,
        "weights": setting["weights"],
        "size": setting["size"],
        "dtype": setting["dtype"],
        "script": f"test_hf_{family}.py",
        "script_sha256": SHA256,
    }


def _record(
    run_id: str, job: Job, found: Sequence[Check], changes: dict[str, Any]
) -> dict[str, Any]:
    latency, mock = changes.pop("latency", [0.004, 0.005, 0.006]), "inference" in changes
    name, software = changes.pop("device_name", "EPYC 9654"), changes.pop("software", False)
    command = ["python", f"fixed_tests/{job['script']}", "--device", job["device"]]
    return {
        "schema_version": 2,
        "family": job["family"],
        "architecture": job["architecture"],
        "model_class": job["model_class"],
        "checkpoint": f"example/{job['family']}-base",
        "script": {"name": job["script"], "sha256": SHA256},
        "device": {
            "requested": job["device"],
            "observed": job["device"],
            "name": name,
            "driver": None,
            "software": software,
            "features": ["avx2"],
            "memory_bytes": 25769803776,
        },
        "inference": "real",
        "proof": None if mock else PROOF,
        "seal": "0" * 64,  # until it is written
        "missing": [],
        "weights": job["weights"],
        "size": job["size"],
        "dtype": job["dtype"],
        "seed": 0,
        "checks": list(found),
        "measurements": {
            "load_seconds": 0.5,
            "first_call_seconds": 0.1,
            "latency_seconds": [] if mock else latency,
            "peak_memory_bytes": 512 * 2**20,
            "parameters": 236420,
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux-6.1",
            "threads": 2,
            "packages": {"torch": "2.14.1", "transformers": "5.23.0"},
        },
        "started": "2026-11-23T18:30:00+00:00",
        "seconds": 3.2,
        "run": {
            "id": run_id,
            "command": command,
            "exit_code": 0,
            "wall_seconds": 6.1,
            "runner": "fresh",
            "attempt": 1,
            "log": f"logs/{job['family']}.txt",
        },
    } | changes
