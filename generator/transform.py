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
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import black
import libcst as cst

from generator import BANNER
from generator.registry import CHECKS, TEMPLATES, Entry, input_kinds, suggest
from generator.source import Import, Source, TemplateError, Unit, import_lines, needed_names

BASICS = "_basics"  # the module of templates/ whose checks are no part of the story
BASICS_HEADING = f"# {' checks that read the same for every model ':-^98}\n"
MACHINERY_HEADING = f"# {' machinery: the model on its device, comparison, devices, report ':-^98}\n"
DEPENDENCIES = ("torch", "transformers>=5.17", "numpy")
LINE = 100
STYLE = black.Mode(line_length=LINE, target_versions={black.mode.TargetVersion.PY310})
FACTS = {f.name for f in fields(Entry)} | {"config_class", "script"}
BUILT_IN = {*dir(builtins), "__name__", "__file__", "__doc__"}
EXPRESSION = re.compile(r"config(\.\w+)+( (//|\*|\+|-) \d+)?")  # "config.text_config.width // 2"


class Templates:
    """The templates in a directory, each parsed once; `script` makes a script of one of them."""

    def __init__(self, directory: Path = TEMPLATES) -> None:
        self.directory, self.kinds = directory, input_kinds(directory)
        self.sources: dict[str, Source] = {}

    def source(self, name: str) -> Source:
        """A module of the directory, `GOLDEN` for `story.GOLDEN` in it."""
        if name not in self.sources:
            tree = cst.parse_module((self.directory / f"{name}.py").read_bytes())
            self.sources[name] = Source.of(name, [node.visit(Story()) for node in tree.body])
        return self.sources[name]

    def script(self, entry: Entry, reference: Entry) -> str:
        """The text of the family's script; `reference` is the entry of the template's own family.

        Raises:
            TemplateError: the template cannot be made into a script of this family.
        """
        template = self.filled(entry)
        checks = [f"test_{check}" for check in CHECKS if check in entry.checks]
        units, imports = self.reached(template, [*checks, "__main__", *self.fixtures(template)])
        reached, tests = set(units.values()), [units[name] for name in checks]
        shared = [self.source(name) for name in self.needed_modules(template)]
        others = [unit for source in [*shared, template] for unit in source.among(reached)]
        others = [unit for unit in others if unit not in tests]
        program = others.pop()
        story = [unit for unit in others if unit.module == template.name]
        story += [unit for unit in tests if unit.module != BASICS]
        basics = [unit for unit in tests if unit.module == BASICS]
        machinery = [unit for unit in others if unit.module != template.name]
        for unit in story:
            for name in sorted(needed_names(unit.source) & {n for u in machinery for n in u.names}):
                raise template.error(f"{name} is needed to define the story, but stands behind it")
        standard = {i for i in imports if i[0].partition(".")[0] in sys.stdlib_module_names}
        head = [header(template, entry), *import_lines(standard), "\n"]
        for unit in story:
            attempt = "MISSING" in unit.names
            head.append(attempting(unit, imports - standard) if attempt else unit.source)
        parts = [*head, BASICS_HEADING, *(u.source for u in basics), MACHINERY_HEADING, *tail]
        ...
