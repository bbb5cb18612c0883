"""`python -m faults`: how many of the faults that are put into models the scripts catch."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults import clean, mutants, report
from faults.operators import OPERATORS
from faults.study import Baseline, Study, Verdict
from tools.scripts import ROOT
from tools.usage import UsageError, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; the report is written where it is of all operators and families."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    words: Any = {"action": "extend", "type": lambda text: text.split(","), "default": []}
    parser.add_argument("--family", metavar="A,B", help="default: chosen by --seed", **words)
    parser.add_argument("--operator", metavar="A,B", help="default: all", **words)
    parser.add_argument("--families", type=int, default=80, metavar="N", help="default: 80")
    parser.add_argument("--mutants", type=int, default=480, metavar="N", help="default: 480")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of families and sites")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--scripts", type=Path, default=ROOT / "fixed_tests", metavar="PATH")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "oracles.md")
    parser.add_argument(
        "--clean", type=int, metavar="N", help="no faults: false alarms with N other seeds"
    )
    options = parser.parse_args(arguments)
    for name in set(options.operator) - OPERATORS.keys():
        parser.error(unknown("operator", name, OPERATORS))
    try:
        found = mutants.scripts(options.scripts, options.family)
    except UsageError as error:
        parser.error(str(error))
    if options.clean:
        return false_alarms(found, options)
    scripts = (
        found if options.family else mutants.choose_scripts(found, options.families, options.seed)
    )
    begin = time.perf_counter()
    with contextlib.closing(Study(options.jobs)) as study:
        baselines: dict[str, Baseline] = {}
        unstable: list[tuple[str, str]] = []
        for each in study.baselines(scripts):
            if isinstance(each, Baseline):
                baselines[each.script.family] = each
            else:
                unstable.append((each[0].family, each[1]))
                print(f"{each[0].family} is left out: {each[1]}", flush=True)
        sites = [mutant for each in baselines.values() for mutant in each.mutants]
        if options.operator:
            sites = [m for m in sites if m.site.operator in options.operator]
        chosen = mutants.choose(sites, options.mutants, options.seed)
        print(f"{len(chosen)} of {len(sites)} sites in {len(baselines)} families", flush=True)
        verdicts: list[Verdict] = []
        for verdict in study.verdicts(chosen, baselines):
            verdicts.append(verdict)
            caught = ", ".join(verdict.checks) or verdict.reason
            print(
                f"[{len(verdicts)}/{len(chosen)}] {verdict.mutant.name}: "
                f"{verdict.outcome} {caught}",
                flush=True,
            )
    seconds = time.perf_counter() - begin
    text = report.render(verdicts, baselines, unstable, len(sites), seconds, options)
    print(report.summary(verdicts))
    if not options.family and not options.operator:
        options.output.write_text(text, "utf-8")
    return 0


def false_alarms(scripts: Sequence[mutants.Script], options: argparse.Namespace) -> int:
    """Run scripts on sound models with other seeds; the report is written if it is of all."""
    found: list[clean.Run] = []
    for run in clean.runs(clean.choose(scripts, options.clean, options.seed), options.jobs):
        found.append(run)
        for check, why in run.alarms.items():
            print(f"{run.command(check)}: {' '.join(why.split())}", flush=True)
        if not len(found) % 20:
            print(f"[{len(found)}/{options.clean}]", flush=True)
    print(clean.summary(found))
    if not options.family:
        command = f"nox -s faults -- --clean {options.clean} --seed {options.seed}"
        page = options.output.with_name("false_alarms.md")
        page.write_text(clean.render(found, command), "utf-8")
    return 1 if any(run.alarms for run in found) else 0


if __name__ == "__main__":
    sys.exit(main())
