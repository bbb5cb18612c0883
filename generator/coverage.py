"""Coverage: how much of the installed transformers the registry drives, and how much it leaves out.

Writes a page and a picture into `docs/` and the numbers into the README, between markers.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from generator import ROOT, GeneratorError, families, registry
from generator.families import Families
from generator.registry import COVERAGE, Entry

PAGE, PICTURE = "docs/coverage.md", "docs/coverage.png"
BEGIN, END = "<!-- coverage:begin (written by `nox -s coverage`) -->", "<!-- coverage:end -->"
STATES = {  # state of a family -> what it means, and its colour in the picture
    "full": (
        "the class that users load, with every modality; or all its parts where it has no forward",
        "#2a9d8f",
    ),
    "partial": ("a modality is left out", "#e9c46a"),
    "fallback": ("another class than the one that users load", "#f4a261"),
    "missing": ("no script yet", "#d62828"),
    "unsupported": ("no script is possible here", "#adb5bd"),
}
NO_ARCHITECTURE = {"missing": "(no script yet)", "unsupported": "(no model)"}
BILLION = 1e9


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The families in the order of their importance: `state` has each, `entries` those driven."""

    transformers: str
    state: Mapping[str, str]
    entries: Mapping[str, Entry]
    reasons: Mapping[str, str]  # why a family is not fully covered

    def of_state(self, *states: str) -> list[str]:
        """The families that are in one of `states`."""
        return [family for family, state in self.state.items() if state in states]

    def table(self) -> dict[str, Counter[str]]:
        """Architecture -> how many of its families are in which state."""
        found: dict[str, Counter[str]] = {}
        for family, state in self.state.items():
            entry = self.entries.get(family)
            name = entry.architecture if entry else NO_ARCHITECTURE[state]
            found.setdefault(name, Counter())[state] += 1
        return dict(sorted(found.items()))


def main() -> int:
    """`python -m generator coverage`: 0 when each family has a script or a reason, else 1."""
    found = compute(registry.read(), families.read(), families.installed())
    for path, data in render(found, ROOT).items():
        path.write_bytes(data)
    print(summary(found))
    if missing := found.of_state("missing"):
        print(f"\n{len(missing)} missing, the important ones first: {' '.join(missing)}")
        print("`nox -s discover regenerate -- --missing` makes their scripts")
    return 1 if families.new() else 0


def compute(entries: Mapping[str, Entry], known: Families, installed: set[str]) -> Coverage:
    """The coverage of the `installed` families.

    Raises:
        GeneratorError: a family is in the registry and in `families.toml`, or not installed.
    """
    for family in entries.keys() & known.unsupported.keys():
        raise GeneratorError(f"families.toml: [unsupported] {family!r} is in the registry: drop it")
    for family in entries.keys() & known.pending.keys():
        raise GeneratorError(f"families.toml: [pending] {family!r} is in the registry: drop it")
    for family in (entries.keys() | known.unsupported.keys() | known.pending.keys()) - installed:
        hint = registry.suggest(family, installed)
        raise GeneratorError(f"the installed transformers has no family {family!r}{hint}")
    states = dict.fromkeys(installed, "missing") | dict.fromkeys(known.unsupported, "unsupported")
    states |= {family: entry.coverage for family, entry in entries.items()}
    reasons = {family: str(entry.coverage_reason) for family, entry in entries.items()}
    return Coverage(
        transformers=importlib.metadata.version("transformers"),
        state={family: states[family] for family in known.by_importance(states)},
        entries=entries,
        reasons=reasons | known.unsupported | known.pending,
    )


def render(found: Coverage, root: Path) -> dict[Path, bytes]:
    """The files below `root` by path; nothing is written."""
    readme = root / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise GeneratorError(
            f"{readme}: the lines {BEGIN} and {END} must stand there, in this order"
        )
    text = f"{before}{BEGIN}\n\n{summary(found)}\n\n![Coverage by architecture]({PICTURE})\n\n"
    return {
        root / PAGE: page(found).encode(),
        root / PICTURE: picture(found),
        readme: f"{text}[Every family]({PAGE})\n\n{END}{after}".encode(),
    }


def summary(found: Coverage) -> str:
    """How many families are covered, in one sentence."""
    counts = Counter(found.state.values())
    models = counts.total() - counts["unsupported"]
    driven = sum(counts[state] for state in COVERAGE)
    return (
        f"**{driven} of {models}** families with modeling code in transformers "
        f"{found.transformers} have a script: {counts['full']} drive the class that users load "
        f"with every modality, {counts['partial']} leave a modality out, {counts['fallback']} "
        "drive another class. "
        f"{counts['unsupported']} more folders define no model."
    )


def page(found: Coverage) -> str:
    """The page of the coverage, in Markdown."""
    head = ["architecture", *STATES, "all"]
    table = found.table()
    total: Counter[str] = sum(table.values(), Counter())
    rows = [[name, *cells(count), str(count.total())] for name, count in table.items()]
    rows.append(["**all**", *cells(total), str(total.total())])
    parts = [
        "<!-- Written by `nox -s coverage`; do not edit. -->",
        "# Coverage",
        summary(found),
        "![Coverage by architecture](coverage.png)",
        markdown(head, rows),
        "\n".join(f"- **{state}**: {meaning}" for state, (meaning, _) in STATES.items()),
        "## Not fully covered",
        markdown(
            ["family", "state", "why"],
            [
                [name, found.state[name], found.reasons.get(name, "not looked at yet")]
                for name in found.of_state("missing", "partial", "fallback", "unsupported")
            ],
        ),
        "## Further heads that are not driven",
        markdown(
            ["family", "class", "why"],
            [
                [family, head, why]
                for family, entry in found.entries.items()
                for head, why in entry.heads_left_out.items()
            ],
        ),
        "## Published sizes",
        "Of the default configuration, built without memory; weights only.",
        markdown(
            ["family", "class", "parameters", "float32", "bfloat16", "tiny"],
            [sizes(found.entries[family]) for family in found.of_state(*COVERAGE)],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def cells(count: Counter[str]) -> list[str]:
    """The numbers of a row of the table; nothing where there are none."""
    return [str(count[state] or "") for state in STATES]


def sizes(entry: Entry) -> list[str]:
    """The row of a family: how large its default configuration and its tiny one are."""
    size = entry.full_size
    tiny = f"{entry.parameters:,}"
    if not size:
        return [entry.family, entry.model_class, entry.full_size_problem or "", "", "", tiny]
    memory = [f"{size[name] / BILLION:,.2f} GB" for name in ("float32", "bfloat16")]
    return [entry.family, entry.model_class, f"{size['parameters']:,}", *memory, tiny]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; "None." where it has no row."""
    lines = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return "None."
    names = [*head]
    return "\n".join([f"| {' | '.join(names)} |", "| --- " * len(names) + "|", *lines])


def escaped(text: str) -> str:
    """`text` as it may stand in a cell of a Markdown table."""
    for character in "\\|<>_*`[]" if not text.startswith("**") else "":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def picture(found: Coverage) -> bytes:
    """A bar for each architecture, as PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    table = {name: count for name, count in found.table().items() if name[0] != "("}
    names = sorted(table, key=lambda name: table[name].total())
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.usetex": False}):
        figure = Figure(figsize=(9, 1 + 0.3 * len(names)), layout="constrained")
        axes = figure.subplots()
        left = [0] * len(names)
        for state, (_, colour) in STATES.items():
            widths = [table[name][state] for name in names]
            if any(widths):
                axes.barh(names, widths, left=left, color=colour, label=state)
                left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, total in enumerate(left):
            axes.text(total, place, f" {total}", va="center", fontsize=8)
        axes.set_title("Families with a script, by architecture")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right")
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    return image.getvalue()
