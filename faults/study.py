"""The study: many mutants, each met by the checks of its family's script, and what came of it."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faults import child
from faults.mutants import Mutant, Script, of_script, package, shared
from faults.operators import Site, apply
from tools.processes import Call, Limits, Processes

Outcome = Literal["caught", "missed", "equivalent", "refused"]

SECONDS = 120.0  # of one mutant; what loops for ever is caught
SAME = {"torch.float64": 1e-12, "torch.float32": 1e-6, "torch.bfloat16": 1e-2}
"""Relative, of sums: what rounding alone explains, where a mutant computes in another order."""
SIMPLE = ("runs", "allclose 1e-2", "allclose 1e-3", "correlation 0.99")
"""Simpler oracles, which see the outputs on the plain inputs and those of the sound model."""


@dataclass(frozen=True)
class Baseline:
    """What the script of a family finds in the model as it is."""

    script: Script
    answer: dict[str, Any]
    mutants: list[Mutant]
    seconds: float

    @property
    def sound(self) -> set[str]:
        """The checks that pass, and can therefore catch something."""
        return {name for name, (status, _) in self.answer["checks"].items() if status == "pass"}


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant: the checks that caught it, the simple oracles that would have."""

    mutant: Mutant
    outcome: Outcome
    checks: list[str] = field(default_factory=list)
    simple: list[str] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class Study:
    """Runs scripts on models with and without mistakes, `jobs` at once, in warm children."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        self._processes = Processes("warm", Limits(1, None), environment)
        self._exact: dict[str, dict[str, Any]] = {}  # the sound model's answer in fp64, by family

    def close(self) -> None:
        """End all processes."""
        self._processes.stop()

    def baselines(self, scripts: Sequence[Script]) -> Iterator[Baseline | tuple[Script, str]]:
        """Run each script as it is, twice; a script whose runs differ comes with the reason."""
        known: dict[Path, list[Site]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            both = {pool.submit(self._both, script): script for script in scripts}
            for future in as_completed(both):
                script = both[future]
                plain, traced, seconds = future.result()
                if difference := _difference(plain, traced):
                    yield script, f"two runs of it as it is differ: {difference}"
                    continue
                lines = {(name, line) for name, line in traced["lines"]}
                mutants = of_script(script, lines, traced["classes"], known)
                yield Baseline(script, plain, mutants, seconds)

    def _both(self, script: Script) -> tuple[dict[str, Any], dict[str, Any], float]:
        plain, seconds = self._run(script, [])
        watched = [package() / "models", *shared().values()]
        traced, _ = self._run(script, ["--lines", *map(str, watched)])
        return plain, traced, seconds

    def verdicts(
        self, chosen: Sequence[Mutant], baselines: dict[str, Baseline]
    ) -> Iterator[Verdict]:
        """Run each mutant; they come as they end."""
        with ThreadPoolExecutor(self.jobs) as pool:
            running = [pool.submit(self._verdict, m, baselines[m.script.family]) for m in chosen]
            for future in as_completed(running):
                yield future.result()

    def _verdict(self, mutant: Mutant, baseline: Baseline) -> Verdict:
        with tempfile.TemporaryDirectory() as folder:
            # Decorators of transformers look at the path of a module for the family's name.
            file = Path(folder, "models", mutant.file.parent.name, mutant.file.name)
            file.parent.mkdir(parents=True)
            file.write_text(apply(mutant.file.read_text("utf-8"), mutant.site), "utf-8")
            function = ".".join(mutant.site.scopes)
            options = ["--source", str(file), "--module", mutant.module, "--function", function]
            answer, seconds = self._run(mutant.script, options)
            verdict = judge(mutant, baseline, answer, seconds)
            if verdict.outcome == "missed" and self._same_in_fp64(mutant.script, options):
                return replace(verdict, outcome="equivalent", reason="")
        return verdict

    def _same_in_fp64(self, script: Script, mutated: Sequence[str]) -> bool:
        """Whether all that differs is the rounding of fp32: with all in fp64 nothing does."""
        exact = ["--dtype", "float64"]
        if script.family not in self._exact:
            self._exact[script.family], _ = self._run(script, exact)
        answer, _ = self._run(script, [*mutated, *exact])
        return not _difference(self._exact[script.family], answer, rounding=True)

    def _run(self, script: Script, options: Sequence[str]) -> tuple[dict[str, Any], float]:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "answer.json")
            ended = self._processes.run(
                Call(
                    Path(child.__file__),
                    [str(script.path), str(answer), *options],
                    Path(folder),
                    Path(folder, "log"),
                    SECONDS,
                )
            )
            if ended is None:
                raise KeyboardInterrupt
            if answer.exists():
                return json.loads(answer.read_text("utf-8")), ended.seconds
            why = "takes too long" if ended.timed_out else f"ends with {ended.exit_code}"
            last = ended.last.decode("utf-8", "replace").strip().splitlines()[-1:]
            return {"error": " ".join([why, *last]), "checks": {}, "trace": []}, ended.seconds


def judge(
    mutant: Mutant, baseline: Baseline, answer: dict[str, Any], seconds: float = 0.0
) -> Verdict:
    """What the answer of a mutant says, beside that of the sound model."""
    if "refused" in answer:
        return Verdict(mutant, "refused", reason=answer["refused"], seconds=seconds)
    if "error" in answer:
        return Verdict(mutant, "caught", ["script"], [*SIMPLE], answer["error"], seconds)
    found = answer["checks"]
    checks = [n for n in baseline.sound if found.get(n, ["error"])[0] in ("fail", "error")]
    simple = _simple(answer["outputs"], baseline.answer["outputs"])
    if checks:
        reason = str(found.get(min(checks), ["", ""])[1])[:200]
        return Verdict(mutant, "caught", sorted(checks), simple, reason, seconds)
    difference = _difference(baseline.answer, answer, rounding=True)
    outcome: Outcome = "missed" if difference else "equivalent"
    return Verdict(mutant, outcome, [], simple, difference, seconds)


def _difference(one: dict[str, Any], other: dict[str, Any], rounding: bool = False) -> str:
    """The first difference between two traces; empty where there is none.

    With `rounding`, none is one that rounding explains: all that is in fp64 has to agree far better
    than what is in fp32, so that a mistake cannot hide there.
    """
    if one.get("error") or other.get("error"):
        return str(one.get("error") or other.get("error"))
    if one["checks"].keys() != other["checks"].keys():
        return "other checks"
    if len(one["trace"]) != len(other["trace"]):
        return f"{len(one['trace'])} tensors were seen, then {len(other['trace'])}"
    for (*what, a, b), (*what_other, c, d) in zip(one["trace"], other["trace"], strict=True):
        if what != what_other:
            return f"{what} became {what_other}"
        same = SAME.get(what[1], 0) if rounding or what[1] == "torch.float64" else 0
        size = math.prod(what[2]) if what[1] == "torch.float64" else math.prod(what[2]) ** 0.5
        for x, y in ((a, c), (b, d)):
            if math.isnan(x) and math.isnan(y):
                continue
            if x != y and not abs(x - y) <= same * (1 + abs(x) + size):
                return f"{what[0]} ({what[1]}) differs: {x!r}, {y!r}"
    return ""


def _simple(outputs: dict[str, list[float]] | None, expected: dict[str, list[float]]) -> list[str]:
    """The simple oracles that see a difference between outputs and the expected ones."""
    if outputs is None:
        return [*SIMPLE]
    shapes = {name: len(values) for name, values in expected.items()}
    if shapes != {name: len(values) for name, values in outputs.items()}:
        return [*SIMPLE[1:]]
    caught = set()
    for name, values in expected.items():
        found, right = np.array(outputs[name]), np.array(values)
        for bound, oracle in ((1e-2, SIMPLE[1]), (1e-3, SIMPLE[2])):
            if not np.allclose(found, right, rtol=bound, atol=bound):
                caught.add(oracle)
        if not _correlation(found, right) >= 0.99:
            caught.add(SIMPLE[3])
    return [name for name in SIMPLE if name in caught]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; 1 where nothing varies, NaN where something is not finite."""
    varies = [bool((values != values[:1]).any()) for values in (one, other)]
    if not all(varies):
        return 0.0 if any(varies) else 1.0
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(one, other)[0, 1])
