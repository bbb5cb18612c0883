"""The registry: what is known of each family, one table a family, one TOML file an architecture.

`read` and `load` are strict: what they do not understand is a `RegistryError` that names the file,
the table, the key and the likely fix. `write` is their inverse; what it writes is canonical.
"""

from __future__ import annotations

import ast
import difflib
import functools
import json
import keyword
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli

from generator import ROOT, GeneratorError

DIRECTORY, TEMPLATES = ROOT / "generator" / "registry", ROOT / "templates"
CHECKS = (  # all that templates may have, in the order in which a script has them
    "forward",
    "device_parity",
    "placement",
    "determinism",
    "sensitivity",
    "golden",
    "save_load",
    "tying",
    "attention_parity",
    "experts_parity",
    "batch_invariance",
    "padding_invariance",
    "single_token",
    "causality",
    "placeholders",
    "video",
    "cache",
    "chunked_prefill",
    "generate",
    "unit_length",
    "hidden_context",
    "mutual",
    "round_trip",
    "decide",
    "fold",
    "denoise",
    "confidence",
    "documents",
    "retrieval",
    "sequence",
    "memory",
    "forgetting",
    "streaming",
    "late_object",
    "gradients",
    "loss",
    "heads",
    "parts",
    "dtype_bf16",
    "isolation",
)
COVERAGE = ("full", "partial", "fallback")
HEADER = """\
# Facts about families, found by `python -m generator discover` in the installed transformers.
# What a person knows better belongs into generator/overrides/.
"""
T = typing.TypeVar("T")


class RegistryError(GeneratorError):
    """A registry that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one family. A field without a default must be in its table."""

    family: str
    architecture: str
    title: str
    model_class: str
    checkpoint: str | None = None  # whose weights `--weights pretrained` takes
    head: str  # why this class: the auto mapping it comes from, or "override: reason"
    parameters: int  # of the tiny model
    full_size_problem: str | None = None  # why the default configuration cannot be built
    discovered_with: dict[str, str]  # package -> version
    coverage: str = "full"  # of the modalities; "partial" or "fallback", with `coverage_reason`
    coverage_reason: str | None = None
    requires: list[str]  # pip packages beyond torch and transformers
    seed: int  # of weights and inputs: the first with which no output is dead
    attentions: list[str]  # implementations, the default first; [] where there is no choice
    experts: list[str]  # implementations of a mixture of experts, the default first
    all_outputs: list[str]  # the options that make the model give everything it has
    fp32_outputs: list[str] = field(default_factory=list)  # what a bf16 model gives in fp32
    full_size: dict[str, int] = field(default_factory=dict)  # parameters, bytes by dtype
    heads: dict[str, str] = field(default_factory=dict)  # further classes -> task
    heads_left_out: dict[str, str] = field(default_factory=dict)  # such -> why they are not driven
    # name -> "inputs" and, where it is another model, its class "model" and "config", or that of a
    # whole with the name of its part, "config_part"
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any]  # "class" and its arguments; "None" in TOML is None
    inputs: dict[str, dict[str, Any]]  # input -> "kind" (of templates/_random.py) and its arguments
    outputs: dict[str, list[int]]  # output -> shape
    checks: dict[str, str]  # check -> the fact that makes it applicable
    not_applicable: dict[str, str] = field(default_factory=dict)  # check -> the fact why not
    options: dict[str, Any] = field(default_factory=dict)  # arguments of every call
    switches: dict[str, bool] = field(default_factory=dict)  # of the configuration -> thrown
    switches_left_out: dict[str, str] = field(default_factory=dict)  # such -> why
    insensitive: dict[str, str] = field(default_factory=dict)  # inputs -> why they change nothing
    no_gradient: dict[str, str] = field(default_factory=dict)  # parameters -> reviewed reason
    confirmed: dict[str, str] = field(default_factory=dict)  # independent package -> version
    constants: dict[str, Any] = field(default_factory=dict)  # what else the template's SLOTS name
    # output -> fingerprint; of "all_outputs" (those besides), head, part, switch: of all joined
    golden: dict[str, list[float]] = field(default_factory=dict)

    @property
    def config_class(self) -> str:
        """The class of the configuration."""
        return str(self.config["class"])

    @property
    def config_classes(self) -> list[str]:
        """The classes of the configuration and of those nested in it; those of parts too."""
        configs = [self.config, *(part.get("config", {}) for part in self.parts.values())]
        return [table["class"] for table in _tables(configs) if "class" in table]

    @property
    def part_classes(self) -> list[str]:
        """The classes of the parts."""
        return [part.get("model", self.model_class) for part in self.parts.values()]

    @property
    def script(self) -> str:
        """File name of the family's script."""
        return f"test_hf_{self.family}.py"


TABLE_KEYS = [f.name for f in fields(Entry)][2:]  # the family and its architecture are no keys
# A table of its own within the family's; the others are written on one line.
TABLES = (
    "full_size",
    "heads",
    "heads_left_out",
    "parts",
    "config",
    "inputs",
    "outputs",
    "checks",
    "not_applicable",
    "options",
    "switches",
    "switches_left_out",
    "insensitive",
    "no_gradient",
    "confirmed",
    "constants",
    "golden",
)


def read(directory: Path = DIRECTORY) -> dict[str, Entry]:
    """The families in `directory` by name, sorted; each checked by itself, not by its template."""
    entries: dict[str, Entry] = {}
    for path in sorted(directory.glob("*.toml")):
        for family, table in parse(path).items():
            where = f"{_name(path)}: [{family}"
            if family in entries:
                raise RegistryError(f"{where}] stands in {entries[family].architecture}.toml too")
            entry = checked(Entry, f"{where}]", table, family=family, architecture=path.stem)
            entries[family] = _consistent(where, entry)
    return dict(sorted(entries.items()))


def load(directory: Path = DIRECTORY, templates: Path = TEMPLATES) -> dict[str, Entry]:
    """`read`, and checked against the templates: architectures, checks, kinds of inputs."""
    entries, checks, kinds = read(directory), template_checks(templates), input_kinds(templates)
    for entry in entries.values():
        where = f"{directory.name}/{entry.architecture}.toml: [{entry.family}"
        if entry.architecture not in checks:
            hint = suggest(entry.architecture, checks)
            raise RegistryError(f"{where}] there is no template {entry.architecture}.py{hint}")
        _check_checks(where, entry, checks[entry.architecture])
        for name, table in entry.inputs.items():
            _check_input(f"{where}.inputs] {name}:", table, kinds)
        for name, part in entry.parts.items():
            _check_part(f"{where}.parts.{name}", part, kinds)
    return entries


def select(entries: Mapping[str, Entry], families: Iterable[str]) -> dict[str, Entry]:
    """The entries of `families`; all where none is named."""
    for family in families:
        if family not in entries:
            hint = suggest(family, entries)
            raise RegistryError(f"there is no family {family!r} in the registry{hint}")
    return {family: entries[family] for family in sorted(families or entries)}


def dump(entries: Mapping[str, Entry]) -> dict[str, str]:
    """The files that hold `entries`: file name -> canonical TOML."""
    files: dict[str, str] = {}
    for family, entry in sorted(entries.items()):
        lines = ["", f"[{family}]"]
        for name in TABLE_KEYS:
            value = getattr(entry, name)
            if name in TABLES and value:
                lines += _table_lines(f"{family}.{name}", value)
            elif name not in TABLES and value is not None:
                lines += _value_lines(name, value)
        file = f"{entry.architecture}.toml"
        files[file] = files.get(file, HEADER) + "\n".join(lines) + "\n"
    return dict(sorted(files.items()))


def write(entries: Mapping[str, Entry], directory: Path = DIRECTORY) -> None:
    """Make `directory` hold exactly `entries`."""
    files = dump(entries)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        temporary = directory / f".{name}.new"
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(directory / name)
    for path in directory.glob("*.toml"):
        if path.name not in files:
            path.unlink()


def template_checks(templates: Path = TEMPLATES) -> dict[str, set[str]]:
    """Architecture -> the checks that its template has."""
    found: dict[str, set[str]] = {}
    for path, tree in _template_trees(templates):
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        for node in tree.body:
            names += [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
        found[path.stem] = {name[5:] for name in names if name.startswith("test_")}
        for check in found[path.stem] - set(CHECKS):
            raise RegistryError(f"{_name(path)}: test_{check} has no place in registry.CHECKS")
    return found


def template_families(templates: Path = TEMPLATES) -> dict[str, str]:
    """Architecture -> the family for which its template was written."""
    found: dict[str, str] = {}
    for path, tree in _template_trees(templates):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FAMILY":
                found[path.stem] = str(ast.literal_eval(node.value))
        if path.stem not in found:
            raise RegistryError(f"{_name(path)} has no FAMILY")
    return found


def input_kinds(templates: Path = TEMPLATES) -> dict[str, dict[str, bool]]:
    """Kind of input -> its parameters in order, and whether each is required."""
    tree = ast.parse((templates / "_random.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.returns]
    kinds: dict[str, dict[str, bool]] = {}
    for node in functions:
        if ast.unparse(typing.cast(ast.expr, node.returns)) == "torch.Tensor":
            names = [parameter.arg for parameter in node.args.args]
            required = len(names) - len(node.args.defaults)
            kinds[node.name] = {name: index < required for index, name in enumerate(names)}
    return kinds


def suggest(word: str, known: Iterable[str]) -> str:
    """The likely fix, as the end of a message; "" where nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomli.loads(path.read_text(encoding="utf-8"))
    except tomli.TOMLDecodeError as error:
        raise RegistryError(f"{_name(path)}: {error}") from None


def checked(kind: type[T], where: str, table: object, **given: str) -> T:
    """The dataclass `kind` made of `table` (and `given`), whose keys and types must be its own."""
    if not isinstance(table, dict):
        raise RegistryError(f"{where} is no table")
    known = _hints(kind)  # type: ignore[arg-type]  # all types can be keys
    hints = {k: hint for k, hint in known.items() if k not in given}
    for key in table.keys() - hints.keys():
        raise RegistryError(f"{where} has unknown key {key!r}{suggest(key, hints)}")
    for f in fields(kind):  # type: ignore[arg-type]  # T is bound to dataclasses by its callers
        if f.name in table:
            _check_type(where, f.name, table[f.name], hints[f.name])
        elif f.name in hints and f.default is f.default_factory is MISSING:
            raise RegistryError(f"{where} has no key {f.name!r}")
    return kind(**table, **given)


@functools.cache  # without it a quarter of the time for all families
def _hints(kind: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    return typing.get_type_hints(kind)


def _check_type(where: str, key: str, value: object, hint: Any) -> None:
    """Refuse a value that is not of the type that `hint` describes."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is types.UnionType:  # str | None: None is the absence of the key
        origin = arguments[0]
    if origin is Any or (origin is float and type(value) is int):
        return
    if type(value) is not origin:  # isinstance would take True for an integer
        found, wanted = type(value).__name__, origin.__name__
        raise RegistryError(f"{where} has a {key!r} of type {found}, not {wanted}")
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_type(where, f"{key}.{name}", item, arguments[-1])


def _consistent(where: str, entry: Entry) -> Entry:
    """`entry`, if its parts fit together."""
    for nested in _tables(entry.config):
        for key in nested if "class" in nested else ():
            if not key.isidentifier() or (keyword.iskeyword(key) and key != "class"):
                raise RegistryError(f"{where}.config] {key!r} cannot be the name of an argument")
    if not isinstance(entry.config.get("class"), str):
        raise RegistryError(f"{where}.config] has no 'class'")
    if entry.coverage not in COVERAGE:
        hint = suggest(entry.coverage, COVERAGE)
        raise RegistryError(f"{where}] 'coverage' is none of {', '.join(COVERAGE)}{hint}")
    if (entry.coverage == "full") == bool(entry.coverage_reason):
        raise RegistryError(
            f"{where}] 'coverage_reason' says why coverage is not full, and only that"
        )
    for check in entry.checks.keys() & entry.not_applicable.keys():
        raise RegistryError(f"{where}.not_applicable] {check!r} is in [{entry.family}.checks] too")
    further = {"all_outputs", *entry.heads, *entry.parts, *entry.switches}
    for name in entry.golden.keys() - further - entry.outputs.keys():
        hint = suggest(name, entry.outputs)
        raise RegistryError(f"{where}.golden] {name!r} is not in [{entry.family}.outputs]{hint}")
    return replace(entry, config=with_none(entry.config), parts=with_none(entry.parts))


def _check_checks(where: str, entry: Entry, template: set[str]) -> None:
    """Refuse checks that do not exist, and tests of the template of which nothing is said."""
    for table in ("checks", "not_applicable"):
        for check in getattr(entry, table).keys() - set(CHECKS):
            raise RegistryError(
                f"{where}.{table}] has unknown check {check!r}{suggest(check, CHECKS)}"
            )
    for check in entry.checks.keys() - template:
        lacks = f"templates/{entry.architecture}.py has no test_{check}"
        raise RegistryError(f"{where}.checks] {check!r} cannot be: {lacks}")
    for check in sorted(template - entry.checks.keys() - entry.not_applicable.keys()):
        raise RegistryError(
            f"{where}.checks] says nothing of {check!r}, which the template has; put it, with the "
            f"fact why, into [{entry.family}.checks] or [{entry.family}.not_applicable]"
        )


def _check_part(where: str, part: dict[str, Any], kinds: Mapping[str, dict[str, bool]]) -> None:
    """Refuse a part that is neither other inputs of the model nor another one with its inputs."""
    if part.keys() - {"config_part"} not in ({"inputs"}, {"model", "config", "inputs"}):
        raise RegistryError(
            f"{where}] has {', '.join(part)}; it needs 'inputs' and, where it is another model, "
            "'model' and 'config'"
        )
    for name, table in part["inputs"].items():
        _check_input(f"{where}.inputs] {name}:", table, kinds)


def _check_input(
    where: str, table: Mapping[str, Any], kinds: Mapping[str, dict[str, bool]]
) -> None:
    """Refuse an input of an unknown kind, with unknown fields, or without a required one."""
    kind = str(table.get("kind"))
    if kind not in kinds:
        raise RegistryError(f"{where} unknown kind {kind!r}{suggest(kind, kinds)}")
    first = next(iter(kinds[kind]))
    given = {"seed", first} if "of" in table or first == "name" else {"seed"}
    own = {name: needed for name, needed in kinds[kind].items() if name not in given}
    for key in table.keys() - own.keys() - {"kind", "of"}:
        raise RegistryError(f"{where} {kind} has no parameter {key!r}{suggest(key, own)}")
    for name, needed in own.items():
        if needed and name not in table:
            raise RegistryError(f"{where} {kind} needs {name!r}")
    if "of" in table:
        _check_type(where, "of", table["of"], dict[str, Any])
        _check_input(f"{where} of:", table["of"], kinds)


def _template_trees(templates: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(templates.glob("[!_]*.py")):
        if path.name != "conftest.py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def _tables(value: object) -> Iterator[dict[str, Any]]:
    """`value` and all in it that are tables."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tables(item)


def with_none(value: Any) -> Any:
    """`value` with None for "None", wherever it stands."""
    if isinstance(value, dict):
        return {key: with_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_none(item) for item in value]
    return None if value == "None" else value


def _table_lines(path: str, table: Mapping[str, Any]) -> list[str]:
    """A TOML table; nested tables that do not fit on a line stand behind what does."""
    lines, longer = [f"[{path}]"], []
    for key, value in table.items():
        # The order of inputs is that of the script, so they stay on their line.
        nests = ".config" in path or (".parts" in path and not path.endswith(".inputs"))
        if isinstance(value, dict) and nests and len(f"{key} = {_toml(value)}") > 100:
            longer += _table_lines(f"{path}.{_key(key)}", value)
        else:
            lines += _value_lines(key, value)
    return lines + longer


def _value_lines(key: str, value: Any) -> list[str]:
    line = f"{_key(key)} = {_toml(value)}"
    if len(line) > 100 and isinstance(value, (list, tuple)):
        return [f"{_key(key)} = [", *(f"    {_toml(item)}," for item in value), "]"]
    return [line]


def _toml(value: Any) -> str:
    """`value` on one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if value is None or isinstance(value, str):
        return _string(str(value))
    raise TypeError(f"the registry cannot hold {value!r}")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    """A basic string: one of JSON, but for the one control character that JSON does not escape."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
