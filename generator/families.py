"""All families of the installed transformers: covered by the registry, unsupported, or missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from generator import ROOT, GeneratorError, registry

FILE = ROOT / "generator" / "families.toml"
NO_FAMILIES = {"auto", "__pycache__"}  # folders of transformers/models that are not about a model


@dataclass(frozen=True, kw_only=True)
class Families:
    """What `families.toml` says."""

    important: list[str]  # the families that matter most, first
    unsupported: dict[str, str]  # folder without a script -> why
    pending: dict[str, str]  # family that has no script yet -> what stands in the way

    def by_importance(self, families: Iterable[str]) -> list[str]:
        """`families`, the important ones first, then by name."""
        rank = {family: place for place, family in enumerate(self.important)}
        return sorted(families, key=lambda family: (rank.get(family, len(rank)), family))


def read(path: Path = FILE) -> Families:
    """The file `path`. Errors: RegistryError."""
    return registry.checked(Families, f"{path.name}:", registry.parse(path))


def installed() -> set[str]:
    """The folders of the installed transformers that may hold a model; nothing is imported.

    Raises:
        GeneratorError: transformers is not installed.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise GeneratorError("transformers is not installed here: run this by `nox -s …`")
    models = Path(spec.origin).parent / "models"
    return {path.name for path in models.iterdir() if path.is_dir()} - NO_FAMILIES


def missing() -> list[str]:
    """The installed families without an entry that may have one: new ones, then by importance."""
    known = read()
    without = installed() - registry.read().keys() - known.unsupported.keys()
    return sorted(known.by_importance(without), key=lambda family: family in known.pending)


def new() -> list[str]:
    """The missing families of which `families.toml` says nothing: a new release brought them."""
    pending = read().pending
    return [family for family in missing() if family not in pending]
