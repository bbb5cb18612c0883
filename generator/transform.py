"""A template and an entry of the registry make a script.

The declared slots of the template are filled (libcst); behind it stands what it reaches of
`templates/_*.py`; the result is formatted and verified. Pure: text in, text out.
"""

from __future__ import annotations

import ast
import builtins
import functools
import itertools
import math
import re
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import black
import libcst as cst

from generator import BANNER, GeneratorError
from generator.registry import CHECKS, TEMPLATES, Entry, input_kinds, suggest

MACHINERY = f"# {' machinery, the same in every script that needs it ':-^98}\n"
DEPENDENCIES = ("torch", "transformers>=5.17", "numpy")
LINE = 100
FACTS = {f.name for f in fields(Entry)} | {"config_class", "script"}
BUILTINS = {*dir(builtins), "__name__", "__file__", "__doc__"}
EXPRESSION = re.compile(r"config(\.\w+)+( (//|\*|\+|-) \d+)?")  # "config.text_config.width // 2"

Import = tuple[str, str | None]  # (module, name): `from module import name`, or `import module`


class TemplateError(GeneratorError):
    """A template that cannot be made into a script."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A statement at the top level of a module that defines something."""

    module: str
    source: str
    names: frozenset[str]  # that it binds
    uses: frozenset[str]  # global names that occur in it


@dataclass
class Source:
    """A module of templates/, taken apart."""

    name: str
    docstring: str = ""
    imports: dict[str, set[Import]] = field(default_factory=dict)  # by the name that they bind
    units: dict[str, Unit] = field(default_factory=dict)  # by each name that they bind, in order

    def error(self, message: str) -> TemplateError:
        """The error `message` about this module."""
        return TemplateError(f"templates/{self.name}.py: {message}")


class Templates:
    """The templates in a directory, parsed once; `script` makes a script of one of them."""

    def __init__(self, directory: Path = TEMPLATES) -> None:
        paths = sorted(directory.glob("*.py"))
        self.trees = {path.stem: cst.parse_module(path.read_bytes()) for path in paths}
        self.kinds = input_kinds(directory)
        self.shared = {
            name: take_apart(name, [statement.visit(Story()) for statement in tree.body])
            for name, tree in self.trees.items()
            if re.match("_[^_]", name)
        }

    def script(self, entry: Entry, reference: Entry) -> str:
        """The text of the family's script; `reference` is the entry of the template's own family.

        Raises:
            TemplateError: the template cannot be made into a script of this family.
        """
        template = self.filled(entry)
        checks = [f"test_{check}" for check in CHECKS if check in entry.checks]
        units, imports = self.reached(template, [*checks, "__main__", *self.fixtures(template)])
        tests, program = [units[name] for name in checks], units["__main__"]
        modules = [self.shared[name] for name in self.imported(template)]
        own, shared = (
            [u for m in sources for u in dict.fromkeys(m.units.values()) if u in units.values()]
            for sources in ([template], modules)
        )
        story = [*(unit for unit in own if unit not in (*tests, program)), *tests]
        machinery = [unit for unit in shared if unit not in tests]
        behind = {name for unit in machinery for name in unit.names}
        for name in sorted(behind & {name for unit in story for name in eager_names(unit.source)}):
            raise template.error(f"{name} is needed to define the story, but stands behind it")
        standard = {i for i in imports if i[0].partition(".")[0] in sys.stdlib_module_names}
        head = [header(template, entry), *import_lines(standard), "\n"]
        head += [
            attempting(u, imports - standard) if "MISSING" in u.names else u.source for u in story
        ]
        tail = [MACHINERY, *(unit.source for unit in machinery), program.source]
        text = formatted("".join(head)) + "\n\n" + formatted("".join(tail))
        verify(template, text, entry, reference)
        return text

    def filled(self, entry: Entry) -> Source:
        """The template with its slots filled for `entry`."""
        tree = self.trees[entry.architecture]
        source = take_apart(entry.architecture, tree.body)
        for name in ("SLOTS", "FAMILY", "MISSING", "__main__"):
            if name not in source.units:
                raise source.error(f"defines no {name}")
        slots = literal_of(source.units["SLOTS"])
        values = {slot: self.value(source, slot, fact, entry) for slot, fact in slots.items()}
        words = Words({slot: text for slot, text in values.items() if slot not in source.units})
        body: list[cst.CSTNode] = []
        for statement in tree.body:
            name = bound_name(statement)
            if name != "SLOTS":
                node = statement.visit(words)
                body.append(with_value(source, node, values[name]) if name in values else node)
        check_slots(source, slots, words, entry)
        source = take_apart(entry.architecture, body)
        for name in entry.config_classes:
            source.imports.setdefault(name, {("transformers", name)})
        for name in self.kinds:
            source.imports.setdefault(name, {("templates._random", name)})
        return source

    def value(self, source: Source, slot: str, fact: str, entry: Entry) -> str:
        """What takes the place of a slot: an expression in a constant or function, else a text."""
        table, _, key = fact.partition(".")
        if table == "constants" and key in entry.constants:
            return literal(entry.constants[key])
        if fact not in FACTS:
            hint = suggest(fact, FACTS)
            raise source.error(
                f"slot {slot!r}: the registry has no {fact!r} of {entry.family}{hint}"
            )
        value = getattr(entry, fact)
        if slot not in source.units:
            return str(value)
        if fact == "inputs":
            items = [f"{name!r}: {self.call(name, table)}," for name, table in value.items()]
            return f"{{{' '.join(items)}}}"
        if fact == "all_outputs":
            return literal(dict.fromkeys(value, True))
        return literal(value, sequence=list if fact == "config" else tuple)

    def call(self, name: str, table: Mapping[str, Any]) -> str:
        """The call that makes the input `name`, of a kind of templates/_random.py."""
        parameters = list(self.kinds[table["kind"]])
        first = [repr(name)] if parameters[0] == "name" else []
        if "of" in table:
            first = [self.call(name, table["of"])]
        given = {key: value for key, value in table.items() if key not in ("kind", "of")}
        others = [f"{key}={literal(value, of_config=True)}" for key, value in given.items()]
        seed = ["seed=seed"] if "seed" in parameters and "seed" not in table else []
        return f"{table['kind']}({', '.join(first + others + seed)})"

    def reached(
        self, template: Source, names: Iterable[str]
    ) -> tuple[dict[str, Unit], set[Import]]:
        """What the names need, directly or not: definitions by the names they bind, and imports."""
        units: dict[str, Unit] = {}
        imports: dict[str, set[Import]] = {}
        todo = [(template, name) for name in names]
        while todo:
            source, name = todo.pop()
            found = self.resolved(source, name, template)
            if isinstance(found, Unit) and units.get(name) is not found:
                for bound in found.names:
                    if units.setdefault(bound, found) is not found:
                        raise source.error(f"{bound} is defined in {units[bound].module} too")
                home = self.shared.get(found.module, template)
                todo += [(home, used) for used in sorted(found.uses)]
            elif isinstance(found, set):
                imports[name] = imports.get(name, set()) | found
                if len(imports[name]) > 1 and any(attribute for _, attribute in imports[name]):
                    raise source.error(f"{name} is imported from several modules")
        for name in units.keys() & imports.keys():
            raise template.error(
                f"{name} is defined in {units[name].module}, and imported elsewhere"
            )
        return units, set().union(*imports.values())

    def resolved(self, source: Source, name: str, template: Source) -> Unit | set[Import] | None:
        """The definition or imports behind a global name in `source`; None of what is built in."""
        for place in (source, template):  # shared code may name constants of the script
            if name in place.units:
                return place.units[name]
            for module, attribute in place.imports.get(name, ()):
                if module.startswith("templates."):
                    return self.resolved(self.shared[module[10:]], attribute or "", template)
            if name in place.imports:
                return place.imports[name]
        if name not in BUILTINS:
            raise source.error(f"{name} is not defined{suggest(name, source.units)}")
        return None

    def fixtures(self, template: Source) -> list[str]:
        """What pytest finds by itself: what the template imports that is defined if there is pytest."""
        found = {name: self.resolved(template, name, template) for name in template.imports}
        return [n for n, unit in found.items() if isinstance(unit, Unit) and "pytest" in unit.names]

    def imported(self, source: Source, seen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The shared modules that `source` needs, each behind those that it needs itself."""
        for module, _ in sorted(set().union(*source.imports.values()), key=str):
            name = module.removeprefix("templates.")
            if name in self.shared and name not in seen:
                seen = (*self.imported(self.shared[name], seen), name)
        return seen


class Words(cst.CSTTransformer):
    """Replaces whole words: names in the code, anything in strings and comments."""

    def __init__(self, words: Mapping[str, str]) -> None:
        super().__init__()
        self.words, self.used = words, set[str]()
        longest_first = sorted(words, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        """Replace in what has text."""
        texts = (cst.Name, cst.SimpleString, cst.FormattedStringText, cst.Comment)
        if not isinstance(updated_node, texts) or not self.pattern.search(updated_node.value):
            return updated_node
        self.used |= set(self.pattern.findall(updated_node.value))
        text = self.pattern.sub(lambda match: self.words[match[0]], updated_node.value)
        return updated_node.with_changes(value=text)


class Story(cst.CSTTransformer):
    """Writes `GOLDEN` for `story.GOLDEN`."""

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        """Leave only the attribute."""
        if isinstance(updated_node, cst.Attribute) and isinstance(updated_node.value, cst.Name):
            return updated_node.attr if updated_node.value.value == "story" else updated_node
        return updated_node


def take_apart(name: str, body: Iterable[Any]) -> Source:
    """The definitions and imports in the statements `body` (of libcst) of the module `name`."""
    source = Source(name)
    for statement in body:
        code = cst.Module([]).code_for_node(statement)
        [node] = ast.parse(code).body
        attempt = isinstance(node, ast.Try) and bound_name(statement) == "MISSING"
        for line in node.body if isinstance(node, ast.Try) and attempt else [node]:
            add_imports(source, line)
        if isinstance(node, ast.Expr):
            source.docstring = code.strip()
        elif isinstance(node, ast.If):  # the one condition at the top level is the program
            source.units["__main__"] = Unit(name, code, frozenset(["__main__"]), global_names(code))
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            top = symtable.symtable(code, name, "exec").get_symbols()
            names = {s.get_name() for s in top if s.is_assigned() or s.is_imported()}
            unit = Unit(name, code, frozenset(names - source.imports.keys()), global_names(code))
            source.units |= dict.fromkeys(unit.names, unit)
    return source


def add_imports(source: Source, node: ast.stmt) -> None:
    """Note the imports of an import statement."""
    module = None if isinstance(node, ast.Import) else getattr(node, "module", None)
    if isinstance(node, (ast.Import, ast.ImportFrom)) and module != "__future__":
        for alias in node.names:
            if alias.name == "_story":
                continue
            if alias.asname:
                raise source.error(f"imports {alias.name} as {alias.asname}; leave it its name")
            found = (module, alias.name) if module else (alias.name, None)
            source.imports.setdefault(alias.name.partition(".")[0], set()).add(found)


def bound_name(statement: Any) -> str:
    """The name that a statement of libcst defines; MISSING for the attempt to import torch."""
    if isinstance(statement, cst.Try) and statement.orelse:
        last = statement.orelse.body.body[-1]
        return bound_name(last)
    node = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else statement
    targets = (
        [t.target for t in node.targets]
        if isinstance(node, cst.Assign)
        else [getattr(node, "target", None)]
    )
    name = node.name if isinstance(node, (cst.FunctionDef, cst.ClassDef)) else targets[0]
    return name.value if isinstance(name, cst.Name) else ""


def with_value(source: Source, statement: Any, value: str) -> Any:
    """A constant with the value, or a function that ends by returning it."""
    node = statement
    while not isinstance(node, (cst.Assign, cst.AnnAssign, cst.Return)):
        if isinstance(node, (cst.Module, cst.BaseSmallStatement)) or not hasattr(node, "body"):
            raise source.error("a function that is a slot must end with `return ...`")
        node = node.body[-1] if isinstance(node.body, (list, tuple)) else node.body
    return statement.with_deep_changes(node, value=cst.parse_expression(value))


def check_slots(source: Source, slots: Mapping[str, str], words: Words, entry: Entry) -> None:
    """Refuse slots that nothing uses or that overlap, and constants of the entry without a slot."""
    for slot in words.words.keys() - words.used:
        raise source.error(f"nothing uses the slot {slot!r}{suggest(slot, source.units)}")
    for one, other in itertools.permutations(words.words, 2):
        a, b = (re.findall(r"\w+|\W+", word) for word in (one, other))
        if any(a[-n:] == b[:n] for n in range(1, min(len(a), len(b)))):
            raise source.error(f"the slots {one!r} and {other!r} overlap")
    for key in entry.constants.keys() - {
        fact.removeprefix("constants.") for fact in slots.values()
    }:
        raise source.error(f"no slot takes [{entry.family}.constants] {key!r}")


def literal_of(unit: Unit) -> Any:
    """The value of a constant."""
    [node] = ast.parse(unit.source).body
    return (
        ast.literal_eval(node.value)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
        else None
    )


def literal(value: Any, sequence: type = tuple, of_config: bool = False) -> str:
    """`value` as source; a table with a class is a call, sequences are of one type.

    With `of_config`, strings such as "config.hidden_size // 2" are expressions.
    """
    if isinstance(value, dict):
        items = {key: literal(item, sequence, of_config) for key, item in value.items()}
        if "class" in value:
            arguments = [f"{key}={item}," for key, item in items.items() if key != "class"]
            return f"{value['class']}({' '.join(arguments)})"
        return f"{{{', '.join(f'{key!r}: {item}' for key, item in items.items())}}}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(literal(item, sequence, of_config) for item in value)
        return (
            f"[{inner}]" if sequence is list else f"({inner},)" if len(value) == 1 else f"({inner})"
        )
    if of_config and isinstance(value, str) and EXPRESSION.fullmatch(value):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def global_names(source: str) -> frozenset[str]:
    """The global names that occur in `source`."""
    return frozenset(_globals(symtable.symtable(source, "unit", "exec"), eager=False))


def eager_names(source: str) -> set[str]:
    """The global names that are looked up when the definitions in `source` are executed."""
    future = "from __future__ import annotations\n"
    return set(_globals(symtable.symtable(future + source, "unit", "exec"), eager=True))


def _globals(table: symtable.SymbolTable, eager: bool) -> Iterator[str]:
    """Of `table` and those within; if `eager`, not of functions."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        if not eager or child.get_type() == "class":
            yield from _globals(child, eager)


def import_lines(imports: Iterable[Import]) -> list[str]:
    """Import statements, sorted as isort does."""
    modules = sorted(module for module, name in imports if name is None)
    named: dict[str, list[str]] = {}
    for module, name in imports:
        if name:
            named.setdefault(module, []).append(name)
    lines = [f"import {module}\n" for module in modules]
    for module in sorted(named):
        names = sorted(
            named[module], key=lambda n: (not n.isupper(), not n[0].isupper(), n.lower())
        )
        lines.append(f"from {module} import {', '.join(names)}\n")
    return lines


def attempting(unit: Unit, imports: Iterable[Import]) -> str:
    """The attempt to import what may not be installed, with these imports."""
    [node] = ast.parse(unit.source).body
    assert isinstance(node, ast.Try), "so it was taken apart"
    rest = unit.source.splitlines(keepends=True)[node.handlers[0].lineno - 1 :]
    return "".join(["try:\n", *(f"    {line}" for line in import_lines(imports)), *rest])


def header(template: Source, entry: Entry) -> str:
    """Docstring, banner and the metadata with which `uv run` and `pipx run` work."""
    paragraphs = template.docstring.split("\n\n")
    for index, paragraph in enumerate(paragraphs):
        if max(map(len, paragraph.splitlines())) > LINE and not paragraph.startswith(" "):
            paragraphs[index] = textwrap.fill(" ".join(paragraph.split()), LINE)
    requirements = "".join(f'#   "{name}",\n' for name in (*DEPENDENCIES, *entry.requires))
    return (
        "\n\n".join(paragraphs)
        + f"\n\n{BANNER} {entry.family}` from templates/{template.name}.py\n"
        + f"# and [{entry.family}] of generator/registry/{template.name}.toml; do not edit.\n\n"
        + '# /// script\n# requires-python = ">=3.10"\n'
        + f"# dependencies = [\n{requirements}# ]\n# ///\n\n"
        + "from __future__ import annotations\n\n"
    )


@functools.cache  # the machinery of many scripts is the same
def formatted(code: str) -> str:
    """`code` as black formats it."""
    versions = {black.TargetVersion.PY310}
    return black.format_str(code, mode=black.Mode(line_length=LINE, target_versions=versions))


def verify(template: Source, text: str, entry: Entry, reference: Entry) -> None:
    """Refuse a script that does not compile, or in which a name of the reference model is left."""
    try:
        compile(text, entry.script, "exec")
    except SyntaxError as error:
        raise template.error(
            f"makes {entry.script} wrong in line {error.lineno}: {error.msg}"
        ) from None
    names = {reference.family, reference.title, reference.model_class, reference.checkpoint}
    for name in sorted(filter(None, names.union(reference.config_classes))):
        word = re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", re.IGNORECASE)
        left = word.search(text)
        if left and not word.search(repr(entry)):
            line = text.count("\n", 0, left.start()) + 1
            raise template.error(
                f"leaves {left[0]!r} of {reference.family} in {entry.script}, line {line}"
            )
