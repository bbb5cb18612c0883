"""Where faults fit into the installed transformers, and which of them a study takes.

A site counts only if a clean run of the family's script comes past it: a mistake in code that does
not run cannot be seen. Which sites are taken follows from a seed alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.operators import Site, find
from tools.scripts import find as find_scripts
from tools.scripts import read
from tools.usage import UsageError, unknown

SHARED = ("masking_utils", "cache_utils", "loss.loss_utils", "integrations.sdpa_attention")
"""Modules with code that many models run; they are imported in a warm process already."""


@dataclass(frozen=True)
class Script:
    """A script of fixed_tests, and what it says of itself."""

    path: Path
    family: str
    architecture: str


@dataclass(frozen=True)
class Mutant:
    """A site in the code that the script of a family runs."""

    script: Script
    module: str
    file: Path
    site: Site

    @property
    def name(self) -> str:
        """`bert softmax_axis 0 modeling_bert.py:201`."""
        words = (self.script.family, self.site.operator, str(self.site.index))
        return f"{' '.join(words)} {self.file.name}:{self.site.line}"


def scripts(folder: Path, families: Collection[str]) -> list[Script]:
    """The scripts of the families, or all. Errors: UsageError for a family that has none."""
    there = find_scripts(folder)
    for family in families:
        if family not in there:
            raise UsageError(unknown("family", family, there))
    return [
        Script(there[family], family, str(read(there[family]).constants["ARCHITECTURE"]))
        for family in families or there
    ]


def package() -> Path:
    """The folder of the installed transformers, which is not imported."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def shared() -> dict[str, Path]:
    """The `SHARED` modules that are there, with the file of each."""
    folder = package()
    found = {f"transformers.{n}": folder / f"{n.replace('.', '/')}.py" for n in SHARED}
    return {name: path for name, path in found.items() if path.exists()}


def modules(script: Script) -> dict[str, Path]:
    """The modules of transformers in which a mistake would be one of this family, with its file."""
    own = sorted((package() / "models" / script.family).glob("modeling_*.py"))
    return {f"transformers.models.{script.family}.{path.stem}": path for path in own} | shared()


def of_script(
    script: Script,
    lines: Collection[tuple[str, int]],
    classes: Collection[str],
    known: dict[Path, list[Site]],
) -> list[Mutant]:
    """All mutants of the code that the script runs: `lines` of files, `classes` by name.

    `known` keeps the sites of files from one call to the next.
    """
    made = []
    for module, path in modules(script).items():
        if not any(name == str(path) for name, _ in lines):
            continue
        if path not in known:
            known[path] = find(path.read_text("utf-8"))
        for site in known[path]:
            # What stands in the body of a class runs at the import, whoever has the class.
            in_class = len(site.scopes) == 1 and site.scopes[0][0].isupper()
            if site.scopes[0] in classes if in_class else (str(path), site.line) in lines:
                made.append(Mutant(script, module, path, site))
    return made


def rank(seed: int, *words: object) -> str:
    """Where something stands in the order that belongs to `seed`."""
    return hashlib.sha256("\n".join(map(str, (seed, *words))).encode()).hexdigest()


def choose_scripts(found: Sequence[Script], number: int, seed: int) -> list[Script]:
    """`number` scripts: of each architecture one, then of each a second one, and so on."""
    by_architecture: dict[str, list[Script]] = defaultdict(list)
    for script in sorted(found, key=lambda s: rank(seed, s.family)):
        by_architecture[script.architecture].append(script)
    turns = [
        (turn, rank(seed, architecture), script)
        for architecture, those in by_architecture.items()
        for turn, script in enumerate(those)
    ]
    turns.sort(key=lambda item: item[:2])
    return [script for _, _, script in turns[:number]]


def choose(found: Iterable[Mutant], number: int, seed: int) -> list[Mutant]:
    """`number` mutants: of each operator one, then of each another, from families in turn."""
    by_operator: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(found, key=lambda m: rank(seed, m.name)):
        by_operator[mutant.site.operator].append(mutant)
    chosen: list[Mutant] = []
    taken: Counter[str] = Counter()  # mutants of a family
    while len(chosen) < number and any(by_operator.values()):
        for those in by_operator.values():
            if those and len(chosen) < number:
                next_one = min(those, key=lambda m: taken[m.script.family])
                those.remove(next_one)
                taken[next_one.script.family] += 1
                chosen.append(next_one)
    return chosen
