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
    """The installed families that are neither in the registry nor unsupported, important first."""
    known = read()
    return known.by_importance(installed() - registry.read().keys() - known.unsupported.keys())
