"""False alarms: the scripts on sound models, with other weights and inputs than their own."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from faults.mutants import Script, rank
from tools.processes import Call, Limits, Processes

SECONDS = 300.0  # of one script
WRONG = ("fail", "error")
UNDECIDED = "with this seed"  # in the reason of a check that decides nothing with a seed

HEAD = """\
# False alarms

`nox -s faults -- --clean N` runs the scripts with N other seeds of weights and inputs on the models
as they are. An alarm is a check that fails, though it passes with the seed of the script. Golden
values are of one seed, so they take no part, and neither does a check that says why it decides
nothing with this seed: one rounding of the weights moves a result further than its bound, or the
exact model fails as well (an input that does not show, a codec with one code): the script's seed is
the first without such things. These are counted and listed too.

"""


@dataclass(frozen=True)
class Run:
    """A script with a seed: how many of its checks gave a verdict, and which raised an alarm."""

    script: Script
    seed: int
    verdicts: int
    alarms: dict[str, str]  # check -> why
    undecided: dict[str, str]

    def command(self, check: str) -> str:
        """What shows an alarm."""
        script = f"fixed_tests/{self.script.path.name}"
        return f"python {script} --device cpu --seed {self.seed} --checks {check}"

    def line(self, check: str, why: str) -> str:
        """An item of a list: what a check says, and the command that shows it."""
        words = " ".join(why.split())[:200]
        return f"- {self.script.family}, {check}: {words}\n  `{self.command(check)}`\n"


def choose(found: Sequence[Script], number: int, seed: int) -> list[tuple[Script, int]]:
    """`number` pairs of a script and a seed: each script once, then each once more, and so on."""
    order = sorted(found, key=lambda script: rank(seed, "clean", script.family))
    return [(order[i % len(order)], 1000 * (seed + 1) + i) for i in range(number)]


def runs(pairs: Sequence[tuple[Script, int]], jobs: int) -> Iterator[Run]:
    """Run them, `jobs` at once; they come as they end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    processes = Processes("warm", Limits(1, None), environment)
    try:
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(_run, processes, *pair) for pair in pairs]
            for future in as_completed(running):
                yield future.result()
    finally:
        processes.stop()


def _run(processes: Processes, script: Script, seed: int) -> Run:
    found = _statuses(processes, script, ["--seed", str(seed)])
    wrong = {check: why for check, (status, why) in found.items() if status in WRONG}
    if wrong:  # with its own seed too? Then it is no alarm: the matrix shows it
        own = _statuses(processes, script, ["--checks", ",".join(wrong)])
        wrong = {n: why for n, why in wrong.items() if own.get(n, ["pass"])[0] == "pass"}
    verdicts = sum(status in ("pass", *WRONG) for status, _ in found.values())
    undecided = {
        n: why for n, (status, why) in found.items() if status == "skip" and UNDECIDED in why
    }
    return Run(script, seed, verdicts, wrong, undecided)


def _statuses(
    processes: Processes, script: Script, options: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Check -> status and reason. A script that leaves no record has one check, `script`."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.json")
        words = ["--device", "cpu", "--json", str(record), *options]
        call = Call(script.path, words, Path(folder), Path(folder, "log"), SECONDS)
        ended = processes.run(call)
        if ended is None:
            raise KeyboardInterrupt
        if not record.exists():
            last = ended.last.decode("utf-8", "replace").strip().splitlines()[-1:]
            return {"script": ("error", " ".join([f"ends with {ended.exit_code}", *last]))}
        checks = json.loads(record.read_text("utf-8"))["checks"]
    return {each["name"]: (each["status"], each["reason"] or "") for each in checks}


def summary(found: Sequence[Run]) -> str:
    """The figures in one line."""
    verdicts, alarms = sum(r.verdicts for r in found), sum(len(r.alarms) for r in found)
    families = len({r.script.family for r in found})
    rate = f"{100 * alarms / verdicts:.3f} %" if verdicts else "–"
    return (
        f"{len(found)} seeds over {families} families: {alarms} alarms in {verdicts} check runs, "
        f"{rate}"
    )


def render(found: Sequence[Run], command: str) -> str:
    """The page of all runs."""
    parts = [HEAD, f"`{command}`: {summary(found)}.\n"]
    by_check = Counter(check for run in found for check in run.alarms)
    if by_check:
        counts = ", ".join(f"`{name}` {count}" for name, count in by_check.most_common())
        parts.append(f"\nBy check: {counts}.\n\n")
    runs_in_order = sorted(found, key=lambda r: (r.script.family, r.seed))
    for run in runs_in_order:
        parts += [run.line(check, why) for check, why in run.alarms.items()]
    undecided = sum(len(run.undecided) for run in found)
    parts.append(f"\n## Undecided\n\n{undecided} check runs decided nothing.\n\n")
    for run in runs_in_order:
        parts += [run.line(check, why) for check, why in run.undecided.items()]
    return "".join(parts)
