"""Python modules taken apart: what each top-level statement defines, and which names it needs."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from generator import GeneratorError

PROGRAM = "__name__ == '__main__'"
Import = tuple[str, str | None]  # (module, name): `from module import name`, or `import module`


class TemplateError(GeneratorError):
    """A template that cannot be made into a script."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A statement at the top level of a module that defines something."""

    module: str
    node: Any  # the statement, of libcst
    source: str
    names: frozenset[str]  # that it binds
    uses: frozenset[str]  # global names that occur in it

    @property
    def literal(self) -> Any:
        """The value of a literal constant."""
        [node] = ast.parse(self.source).body
        return ast.literal_eval(getattr(node, "value", node))


@dataclass
class Source:
    """A module: its definitions by each name that they bind, in order, and its imports likewise.

    The program at its end, `if __name__ == "__main__":`, is defined under the name `__main__`. Of
    `try: import torch ...` that sets MISSING, the imports count as the module's.
    """

    name: str
    body: list[Any] = field(default_factory=list)  # its statements, of libcst
    docstring: str = ""
    units: dict[str, Unit] = field(default_factory=dict)
    imports: dict[str, set[Import]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, body: Iterable[Any]) -> Source:
        """The module of templates/ with this name and these statements of libcst."""
        source = cls(name, list(body))
        for node in source.body:
            code = cst.Module([]).code_for_node(node)
            statement = ast.parse(code).body[0]
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                source.add_import(statement)
            elif node is source.body[0] and isinstance(statement, ast.Expr):
                source.docstring = code.strip()
            else:
                source.add_unit(node, code, statement)
        return source

    def add_unit(self, node: Any, code: str, statement: ast.stmt) -> None:
        """Add what a statement defines."""
        names = bound_names(code)
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == PROGRAM:
            names = {"__main__"}
        if isinstance(statement, ast.Try) and "MISSING" in names:
            for line in statement.body:
                self.add_import(line)
        if not names:
            raise self.error(f"defines nothing by {ast.unparse(statement).splitlines()[0]!r}")
        for name in sorted(names & self.units.keys()):
            raise self.error(f"defines {name} twice")
        unit = Unit(self.name, node, code, frozenset(names - self.imports.keys()), used_names(code))
        self.units |= dict.fromkeys(unit.names, unit)

    def add_import(self, statement: ast.stmt) -> None:
        """Add what an import binds; `_story` is no module of a script, and `__future__` no name."""
        module = getattr(statement, "module", None)
        for alias in getattr(statement, "names", ()) if module != "__future__" else ():
            if alias.asname and alias.name != "_story":
                raise self.error(f"imports {alias.name} as {alias.asname}; leave it its name")
            found = (module, alias.name) if module else (alias.name, None)
            self.imports.setdefault(alias.name.partition(".")[0], set()).add(found)

    def among(self, units: Container[Unit]) -> list[Unit]:
        """Those of its definitions that are in `units`, in order."""
        return [unit for unit in dict.fromkeys(self.units.values()) if unit in units]

    def error(self, message: str) -> TemplateError:
        """The error `message` about this module."""
        return TemplateError(f"templates/{self.name}.py: {message}")


def bound_names(code: str) -> set[str]:
    """The names that `code` binds at the top level."""
    symbols = symtable.symtable(code, "", "exec").get_symbols()
    return {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}


def used_names(code: str) -> frozenset[str]:
    """The global names that occur in `code`, in annotations too."""
    return frozenset(_globals(symtable.symtable(code, "", "exec"), executed=False))


def needed_names(code: str) -> frozenset[str]:
    """The global names without which the definitions in `code` cannot be executed."""
    code = "from __future__ import annotations\n" + code
    return frozenset(_globals(symtable.symtable(code, "", "exec"), executed=True))


def import_lines(imports: Iterable[Import]) -> list[str]:
    """Import statements, sorted as isort does it."""
    lines = [f"import {module}\n" for module in sorted(m for m, name in imports if not name)]
    names: dict[str, list[str]] = {}
    for module, name in imports:
        if name:
            names.setdefault(module, []).append(name)
    for module in sorted(names):
        names[module].sort(key=lambda n: (not n.isupper(), not n[0].isupper(), natural(n)))
        lines.append(f"from {module} import {', '.join(names[module])}\n")
    return lines


def natural(name: str) -> list[str | int]:
    """A key by which names sort whatever their case, and numbers in them by their value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def _globals(table: symtable.SymbolTable, executed: bool) -> Iterator[str]:
    """The global names in `table` and those within it; if `executed`, not in those of functions."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        if not executed or child.get_type() == "class":
            yield from _globals(child, executed)
