"""A template and an entry of the registry make a script.

The declared slots of the template are filled (libcst); behind it stands what it reaches of
`templates/_*.py`; the result is formatted and verified. Pure: text in, text out.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import black
import libcst as cst
from black.mode import TargetVersion
from black.parsing import InvalidInput

from generator import BANNER
from generator.registry import CHECKS, TEMPLATES, Entry, input_kinds, suggest
from generator.source import Import, Source, TemplateError, Unit, import_lines, needed_names

CHECKS_HEADING = f"# {' checks that read the same for every model that has them ':-^98}\n\n\n"
MACHINERY_HEADING = (
    f"# {' machinery: the model on its device, comparison, devices, report ':-^98}\n"
)
DEPENDENCIES = ("torch", "transformers>=5.17", "numpy")
LINE = 100
STYLE = black.Mode(line_length=LINE, target_versions={TargetVersion.PY310})
FACTS = {f.name for f in fields(Entry)} | {"config_class", "script"}
BUILT_IN = {*dir(builtins), "__name__", "__file__", "__doc__"}
EXPRESSION = re.compile(r"(?=.*\bconfig\.)([\w.+*() -]|//)+")  # "config.text_config.width // 2"


class Templates:
    """The templates in a directory, each parsed once; `script` makes a script of one of them."""

    def __init__(self, directory: Path = TEMPLATES) -> None:
        self.directory, self.kinds = directory, input_kinds(directory)
        self.sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """A module of the directory, `GOLDEN` for `story.GOLDEN` in it."""
        if name not in self.sources:
            text = (self.directory / f"{name}.py").read_text(encoding="utf-8")
            try:
                body = cst.parse_module(text).body
            except cst.ParserSyntaxError as error:
                raise Source(name).error(str(error)) from None
            self.sources[name] = Source.of(name, [node.visit(Story()) for node in body])
        return self.sources[name]

    def script(self, entry: Entry, reference: Entry) -> str:
        """The text of the family's script; `reference` is the entry of the template's own family.

        Raises:
            TemplateError: the template cannot be made into a script of this family.
        """
        try:
            text = self.text(entry)
            compile(text, entry.script, "exec")
        except (SyntaxError, cst.ParserSyntaxError, InvalidInput) as error:
            problem = f"templates/{entry.architecture}.py: makes {entry.script} wrong: {error}"
            raise TemplateError(problem) from None
        refuse_names_of_others(text, entry, reference)
        return text

    def text(self, entry: Entry) -> str:
        """The text of the family's script, not verified."""
        template = self.filled(entry)
        checks = [f"test_{check}" for check in CHECKS if check in entry.checks]
        units, imports = self.reached(template, [*checks, "__main__", *self.fixtures(template)])
        tests, program = [units.pop(name) for name in checks], units.pop("__main__")
        own = [unit for unit in tests if unit.module == template.name]
        shared = [unit for unit in tests if unit.module != template.name]
        story = template.among(units.values()) + own
        modules = [self.source(name) for name in self.modules(template)]
        machinery = [unit for module in modules for unit in module.among(units.values())]
        behind = {name for unit in machinery for name in unit.names}
        for name in sorted(behind & {name for unit in story for name in needed_names(unit.source)}):
            raise template.error(f"{name} is needed to define the story, but stands behind it")
        imports |= {("os", None), ("sys", None)}  # for HIDE
        standard = {i for i in imports if i[0].partition(".")[0] in sys.stdlib_module_names}
        head = [header(template, entry), *import_lines(standard), "\n"]
        for unit in story:
            attempt = "MISSING" in unit.names
            head.append(attempting(unit, imports - standard) if attempt else unit.source)
        tail = [MACHINERY_HEADING, *(unit.source for unit in [*machinery, program])]
        checks = [formatted(unit.source.strip()) for unit in shared]
        parts = [formatted("".join(head)), *checks, formatted("".join(tail))]
        parts[1] = CHECKS_HEADING * bool(checks) + parts[1]
        return "\n\n".join(parts)

    def filled(self, entry: Entry) -> Source:
        """The template with its slots filled for `entry`."""
        source = self.source(entry.architecture)
        for name in ("SLOTS", "MISSING", "__main__"):
            if name not in source.units:
                raise source.error(f"does not define {name}")
        slots = source.units["SLOTS"].literal
        values = {slot: self.value(source, slot, fact, entry) for slot, fact in slots.items()}
        words = Words({slot: values[slot] for slot in slots.keys() - source.units.keys()})
        units = {unit.node: unit for unit in source.units.values()}
        body = []
        for node in source.body:
            unit, filled = units.get(node), node
            if unit and "SLOTS" in unit.names:
                continue
            if not unit or words.pattern.search(unit.source):  # what has none need not be visited
                filled = node.visit(words)
            for slot in unit.names & slots.keys() if unit else ():
                filled = with_value(source, slot, filled, values[slot])
            body.append(filled)
        check_slots(source, slots, words, entry)
        filled_source = Source.of(entry.architecture, body)
        for name in (*entry.config_classes, *entry.part_classes):
            filled_source.imports.setdefault(name, {("transformers", name)})
        for name in self.kinds:
            filled_source.imports.setdefault(name, {("templates._random", name)})
        return filled_source

    def value(self, source: Source, slot: str, fact: str, entry: Entry) -> str:
        """What takes the place of a slot: an expression in a constant or function, else a text."""
        table, _, key = fact.partition(".")
        if table == "constants" and key in entry.constants:
            value = entry.constants[key]
        elif fact in FACTS:
            value = getattr(entry, fact)
        else:
            problem = f"slot {slot!r}: the registry has no {fact!r} of {entry.family}"
            raise source.error(problem + suggest(fact, FACTS))
        if slot not in source.units:
            return str(value)
        if fact == "inputs":
            return self.inputs(value)
        if fact == "parts":
            parts = {name: self.part(part, entry) for name, part in value.items()}
            return f"{{{' '.join(f'{name!r}: {part},' for name, part in parts.items())}}}"
        if fact == "all_outputs":
            return literal(dict.fromkeys(value, True))
        return literal(value, sequence=list if fact == "config" else tuple)

    def part(self, table: Mapping[str, Any], entry: Entry) -> str:
        """The class, configuration and inputs of a part: those of the model where it has no own."""
        model, config = table.get("model", entry.model_class), "config"
        if "config" in table:
            config = literal(table["config"], sequence=list)
        if "config_part" in table:
            config = f"{config}.{table['config_part']}"
        return f"({model}, {config}, {self.inputs(table['inputs'])})"

    def inputs(self, tables: Mapping[str, Mapping[str, Any]]) -> str:
        """The dictionary of inputs that `tables` describe."""
        items = [f"{name!r}: {self.call(name, table)}," for name, table in tables.items()]
        return f"{{{' '.join(items)}}}"

    def call(self, name: str, table: Mapping[str, Any]) -> str:
        """The call that makes the input `name`, of a kind of templates/_random.py."""
        parameters = [*self.kinds[table["kind"]]]
        first = [self.call(name, table["of"])] if "of" in table else []
        if parameters[0] == "name" and not first:
            first = [repr(name)]
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
                        raise source.error(f"{bound} is another one than in {units[bound].module}")
                home = template if found.module == template.name else self.source(found.module)
                todo += [(home, used) for used in found.uses]
            elif isinstance(found, set):
                imports[name] = imports.get(name, set()) | found
                if len(imports[name]) > 1 and any(attribute for _, attribute in imports[name]):
                    raise source.error(f"{name} is imported from {imports[name]}")
        for name in units.keys() & imports.keys():
            raise template.error(f"{name} is imported, and defined in {units[name].module}")
        return units, set().union(*imports.values())

    def resolved(self, source: Source, name: str, template: Source) -> Unit | set[Import] | None:
        """The definition or the imports behind a name in `source`; None of what is built in."""
        if name in template.units:  # what a template defines precedes what is shared
            return template.units[name]
        for place in (source, template):  # shared code names constants of the script
            if name in place.units:
                return place.units[name]
            for module, attribute in place.imports.get(name, ()):
                if module.startswith("templates."):
                    shared = self.source(module.removeprefix("templates."))
                    return self.resolved(shared, attribute or "", template)
            if name in place.imports:
                return place.imports[name]
        if name not in BUILT_IN:
            raise source.error(f"{name} is defined nowhere{suggest(name, source.units)}")
        return None

    def fixtures(self, template: Source) -> list[str]:
        """What pytest finds by itself: what the template imports that is defined beside pytest."""
        found = {name: self.resolved(template, name, template) for name in template.imports}
        return [n for n, unit in found.items() if isinstance(unit, Unit) and "pytest" in unit.names]

    def modules(self, source: Source, seen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The shared modules that `source` imports, each behind those that it imports itself."""
        imported = {module for imports in source.imports.values() for module, _ in imports}
        for module in sorted(imported):
            name = module.removeprefix("templates.")
            if name != module and name not in seen:
                seen = (*self.modules(self.source(name), seen), name)
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
        value = getattr(updated_node, "value", None)
        if isinstance(updated_node, cst.Attribute) and isinstance(value, cst.Name):
            return updated_node.attr if value.value == "story" else updated_node
        return updated_node


def with_value(source: Source, slot: str, statement: Any, value: str) -> Any:
    """A constant with this value, or a function that returns it at its end."""
    last = statement.body.body[-1] if isinstance(statement, cst.FunctionDef) else statement
    node = last.body[0] if isinstance(last, cst.SimpleStatementLine) else last
    if not isinstance(node, (cst.Assign, cst.AnnAssign, cst.Return)):
        raise source.error(
            f"slot {slot!r} is neither a constant nor a function that ends in return"
        )
    return statement.with_deep_changes(node, value=cst.parse_expression(value))


def check_slots(source: Source, slots: Mapping[str, str], words: Words, entry: Entry) -> None:
    """Refuse slots that nothing uses or that overlap, and constants of the entry without a slot."""
    for one, other in itertools.permutations(words.words, 2):
        a, b = (re.findall(r"\w+|\W+", word) for word in (one, other))
        if any(a[-n:] == b[:n] for n in range(1, min(len(a), len(b)))):
            raise source.error(f"the slots {one!r} and {other!r} overlap")
    for slot in sorted(words.words.keys() - words.used):
        raise source.error(f"nothing uses the slot {slot!r}{suggest(slot, source.units)}")
    taken = {fact.removeprefix("constants.") for fact in slots.values()}
    for key in sorted(entry.constants.keys() - taken):
        raise source.error(f"no slot takes {key!r} of [{entry.family}.constants]")


def literal(value: Any, sequence: type = tuple, of_config: bool = False) -> str:
    """`value` as source; a table with a class is a call, sequences are all of one type.

    With `of_config`, strings such as "config.hidden_size // 2" are expressions.
    """
    if isinstance(value, dict):
        items = {key: literal(item, sequence, of_config) for key, item in value.items()}
        if "class" in value:
            arguments = [f"{key}={item}," for key, item in items.items() if key != "class"]
            return f"{value['class']}({' '.join(arguments)})"
        for key, item in value.items():
            if isinstance(item, str) and len(f"    {key!r}: {item!r},") > LINE:
                parts = textwrap.wrap(item, LINE - 12, drop_whitespace=False)
                items[key] = f"({' '.join(map(repr, parts))})"  # which black lays out
        return f"{{{', '.join(f'{key!r}: {item}' for key, item in items.items())}}}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(literal(item, sequence, of_config) for item in value)
        one = "," if len(value) == 1 else ""
        return f"[{inner}]" if sequence is list else f"({inner}{one})"
    if of_config and isinstance(value, str) and EXPRESSION.fullmatch(value):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def header(template: Source, entry: Entry) -> str:
    """Docstring, banner and the metadata with which `uv run` and `pipx run` work."""
    paragraphs = "\n\n".join(
        (
            paragraph
            if max(map(len, paragraph.splitlines())) <= LINE or paragraph.startswith(" ")
            else textwrap.fill(" ".join(paragraph.split()), LINE)
        )
        for paragraph in template.docstring.split("\n\n")
    )
    banner = f"{BANNER} {entry.family}` from templates/{template.name}.py"
    if len(banner) > LINE:
        banner = banner.replace(" from templates", "\n# from templates")
    requirements = "".join(f'#   "{name}",\n' for name in (*DEPENDENCIES, *entry.requires))
    return f"""\
{paragraphs}

{banner}
# and [{entry.family}] of generator/registry/{template.name}.toml; do not edit.

# /// script
# requires-python = ">=3.10"
# dependencies = [
{requirements}# ]
# ///

from __future__ import annotations

"""


HIDE = """\
sys.modules.update(  # MOCK_TORCH=1 hides torch
    (name[5:].lower().replace("pillow", "PIL"), None)
    for name, value in os.environ.items()
    if name.startswith("MOCK_") and value != "0"
)
"""


def attempting(unit: Unit, imports: Iterable[Import]) -> str:
    """The attempt to import what may not be installed: now these imports."""
    lines = [HIDE, *import_lines(imports)]
    body = cst.IndentedBlock([cst.parse_statement(line) for line in lines])
    return cst.Module([]).code_for_node(unit.node.with_changes(body=body))


@functools.cache  # the parts behind the story are the same in many scripts
def formatted(code: str) -> str:
    """`code` as black formats it."""
    return black.format_str(code, mode=STYLE)


def refuse_names_of_others(text: str, entry: Entry, reference: Entry) -> None:
    """Refuse a script in which a name is left that is of the template's own family alone."""
    names = {reference.family, reference.title, reference.model_class, *reference.config_classes}
    for name in sorted(names | {reference.checkpoint or reference.family}):
        word = re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", re.IGNORECASE)
        left = word.search(text)
        if left and not word.search(repr(entry)):
            where = f"{entry.script}, line {text.count(chr(10), 0, left.start()) + 1}"
            problem = f"leaves {left[0]!r} of {reference.family} in {where}"
            raise TemplateError(f"templates/{entry.architecture}.py: {problem}")
