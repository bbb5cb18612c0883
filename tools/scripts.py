"""What the scripts say about themselves, read from their text: they are never imported here."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PREFIX, SUFFIX = "test_hf_", ".py"
BODY = re.compile(rb"^((?:def |class |\)).*:\n)(?:[ \t].*\n|\n)+", re.MULTILINE)
"""Of a function or class: what follows its first line, or the `) -> X:` that ends its head."""


@dataclass(frozen=True)
class Facts:
    """A script's module-level literals, its checks (names without `test_`) and its SHA-256.

    `constants` and `checks` are empty where the text is not Python.
    """

    constants: dict[str, Any]
    checks: tuple[str, ...]
    sha256: str

    def asked(self, device: str) -> tuple[str, ...]:
        """The checks that the script asks on `device`: some make no sense where a graph runs."""
        more = self.constants.get("GRAPH_DEVICES", {}).get(device.partition(":")[0])
        if more is None:
            return self.checks
        asked = self.constants["GRAPH_CHECKS"] + more
        return tuple(check for check in self.checks if check in asked)


def find(folder: Path) -> dict[str, Path]:
    """The scripts in `folder` by family, sorted."""
    return {family(path): path for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))}


def family(script: Path) -> str:
    """The family that a script tests, by its name."""
    return script.name[len(PREFIX) : -len(SUFFIX)]


def read(path: Path) -> Facts:
    """What the script at `path` says about itself. Errors: OSError."""
    return _facts(path.read_bytes())


@lru_cache(maxsize=2000)  # a run asks for each script three times
def _facts(text: bytes) -> Facts:
    sha256 = hashlib.sha256(text).hexdigest()
    try:
        body = ast.parse(BODY.sub(rb"\1    ...\n", text)).body  # 20 ms with all bodies
    except (SyntaxError, ValueError):
        return Facts({}, (), sha256)
    functions = (node.name for node in body if isinstance(node, ast.FunctionDef))
    checks = tuple(name[len("test_") :] for name in functions if name.startswith("test_"))
    return Facts(literals(body), checks, sha256)


@cache
def device_kinds() -> tuple[str, ...]:
    """The kinds of devices that scripts accept, best first; known without importing torch."""
    return device_groups()["*"]


@cache
def device_groups() -> dict[str, tuple[str, ...]]:
    """The kinds that run torch modules, those that run exported graphs, and all ("*")."""
    constants = read(ROOT / "templates" / "_devices.py").constants
    torch, graph = (tuple(constants[f"{name}_DEVICES"]) for name in ("TORCH", "GRAPH"))
    return {"torch": torch, "graph": graph, "*": torch + graph}


def literals(body: list[ast.stmt]) -> dict[str, Any]:
    """The literals that the statements of a module give names to."""
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # an expression, not a literal
                continue
    return found
