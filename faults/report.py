"""docs/oracles.md: what a study has found, as tables."""

from __future__ import annotations

import argparse
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tomli

from faults.operators import OPERATORS
from faults.study import SIMPLE, Baseline, Verdict
from tools.reports.markdown import table

MISSED = Path(__file__).with_name("missed.toml")
UNKNOWN = "**no reason is known yet**"
COLUMNS = ("mutants", "equivalent", "caught", "without golden", "missed")

HEAD = """\
# How strong the checks are

`nox -s faults` puts mistakes into the code of models and runs the scripts on them: each mutant is
one change of one place of the installed transformers, loaded in its stead in a process of its own
(`faults/operators.py` is the catalogue, the installed files are not touched). A mutant is *caught*
if a check fails that passes on the sound model. It is *equivalent* if nothing that any check looks
at changes: all outputs and gradients of all models that the checks call are the same, up to the
rounding of their type: to 1e-12 in fp64, 1e-6 in fp32; where those in fp32 differ by more, all
checks but that of bf16 are run once more with the model in fp64, and that decides (rotary
positions that all move by one are the same in exact numbers). Else it is *missed*, and
`faults/missed.toml` says why. Which families and places are taken follows from a seed.

A mistake in transformers is in the fp64 reference too, so only invariants, formulas and the golden
values can see it; "without golden" counts what is caught even if the golden values were taken from
the mutant, as they are for a family that nobody has checked before. The simpler oracles are better
off than in life: they compare with the outputs of the sound model.

"""


def share(part: int, whole: int) -> str:
    """`97.1 %`, or a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def real(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The mutants that are neither equivalent nor refused."""
    return [v for v in verdicts if v.outcome in ("caught", "missed")]


def without_golden(verdict: Verdict) -> bool:
    """Whether a mutant is caught by more than the golden values."""
    return any(check != "golden" for check in verdict.checks)


def why_missed(verdicts: Sequence[Verdict], path: Path = MISSED) -> dict[str, str]:
    """The names of the mutants that were missed -> the known reason, or that there is none.

    Also of those that have a reason, but are not missed any more: that has to go.
    """
    known: dict[str, str] = tomli.loads(path.read_text("utf-8"))
    found = {}
    for name, outcome in ((verdict.mutant.name, verdict.outcome) for verdict in verdicts):
        if outcome == "missed":
            found[name] = known.get(name, UNKNOWN)
        elif name in known:
            found[name] = f"**{path.name} has a reason, but it is {outcome}**"
    return found


def summary(verdicts: Sequence[Verdict]) -> str:
    """The figures in one line."""
    those, counts = real(verdicts), Counter(v.outcome for v in verdicts)
    caught = share(counts["caught"], len(those))
    alone = share(sum(map(without_golden, those)), len(those))
    unexplained = [*why_missed(verdicts).values()].count(UNKNOWN)
    open_ = f" ({unexplained} for no known reason)" if unexplained else ""
    return (
        f"{len(verdicts)} mutants: {counts['caught']} caught, {counts['missed']} missed{open_}, "
        f"{counts['equivalent']} equivalent, {counts['refused']} refused; "
        f"{caught} of the others caught, {alone} without golden"
    )


def render(
    verdicts: Sequence[Verdict],
    baselines: Mapping[str, Baseline],
    unstable: Sequence[tuple[str, str]],
    sites: int,
    seconds: float,
    options: argparse.Namespace,
) -> str:
    """The whole page."""
    architectures = {b.script.architecture for b in baselines.values()}
    own = statistics.median(b.seconds for b in baselines.values()) if baselines else 0
    each = statistics.median(v.seconds for v in verdicts) if verdicts else 0
    command = f"nox -s faults -- --families {options.families} --mutants {options.mutants}"
    parts = [
        HEAD,
        f"`{command} --seed {options.seed}`: {summary(verdicts)}.\n\n",
        f"They were chosen from {sites} places in {len(baselines)} families of ",
        f"{len(architectures)} architectures. It took {seconds:.0f} s with {options.jobs} at ",
        f"once; a mutant takes {each:.1f} s in the median, ",
        f"the script on the sound model {own:.1f} s.\n\n",
        "## By operator\n\n",
        _table("operator", verdicts, lambda v: v.mutant.site.operator, text=True),
        "## By architecture\n\n",
        _table("architecture", verdicts, lambda v: v.mutant.script.architecture),
        "## By check\n\nHow many mutants a check catches, and how many no other check does.\n\n",
        _checks(verdicts),
        "## Simpler oracles on the same runs\n\n",
        _simple(verdicts),
        "## Missed\n\n",
        _list(verdicts, "missed"),
        "## Equivalent\n\n",
        _list(verdicts, "equivalent"),
    ]
    if unstable:
        left = "".join(f"- {family}: {why}\n" for family, why in sorted(unstable))
        parts.append(f"## Left out\n\nTwo runs of the sound model differ.\n\n{left}\n")
    if any(v.outcome == "refused" for v in verdicts):
        parts += ["## Refused\n\nCannot be put in.\n\n", _list(verdicts, "refused")]
    return "".join(parts).rstrip() + "\n"


def _table(
    title: str, verdicts: Sequence[Verdict], key: Callable[[Verdict], str], text: bool = False
) -> str:
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[key(verdict)].append(verdict)
    header = [title, *["what goes wrong"] * text, *COLUMNS]
    rows = []
    for name in [name for name in OPERATORS if name in groups] if text else sorted(groups):
        those = groups[name]
        counts, lasting = Counter(v.outcome for v in those), real(those)
        told = [OPERATORS[name].text] if text else []
        alone = share(sum(map(without_golden, lasting)), len(lasting))
        caught = share(counts["caught"], len(lasting))
        numbers = [len(those), counts["equivalent"], caught, alone, counts["missed"]]
        rows.append([f"`{name}`", *told, *map(str, numbers)])
    return table(header, rows, len(COLUMNS)) + "\n"


def _checks(verdicts: Sequence[Verdict]) -> str:
    caught = Counter(check for v in verdicts for check in v.checks)
    alone = Counter(v.checks[0] for v in verdicts if len(v.checks) == 1)
    rows = [[f"`{name}`", str(n), str(alone[name])] for name, n in caught.most_common()]
    return table(["check", "catches", "alone"], rows, 2) + "\n"


def _simple(verdicts: Sequence[Verdict]) -> str:
    those = real(verdicts)
    counts = {"the checks": sum(v.outcome == "caught" for v in those)}
    counts["the checks without golden"] = sum(map(without_golden, those))
    counts |= {name: sum(name in v.simple for v in those) for name in SIMPLE}
    rows = [[name, share(count, len(those))] for name, count in counts.items()]
    return table(["oracle", "catches"], rows, 1) + "\n"


def _list(verdicts: Sequence[Verdict], outcome: str) -> str:
    why = why_missed(verdicts)
    rows = [
        f"- {v.mutant.name}: `{_short(v.mutant.site.before)}` became "
        f"`{_short(v.mutant.site.after)}`"
        + "".join(f"; {text}" for text in (v.reason, why.get(v.mutant.name)) if text)
        for v in sorted(verdicts, key=lambda v: v.mutant.name)
        if v.outcome == outcome
    ]
    return "\n".join(rows or ["None."]) + "\n\n"


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("`", "'")
    return line if len(line) <= 90 else line[:87] + "…"
