"""A script of a few lines that shows one failing check, for a bug report.

The check is taken from the family's script with what it needs; the machinery (records, devices,
exact bounds, portable weights) is replaced by the plain code in `PLAIN`. That the check still fails
in the same way is then tried in fresh processes.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.scripts import find, read
from tools.usage import UsageError, unknown

LINES = 60
PLAIN_IMPORTS = ("functools", "tempfile", "torch", "transformers")  # of PLAIN
TRIES = 3
SECONDS = 300
WIDTH = 120
MODEL = "model.set_attn_implementation(attention if attention in ATTENTIONS else ATTENTIONS[0])"

PLAIN = """\
class Subject:
    SETTINGS

    def __init__(self, dtype="float32", seed=SEED):
        self.dtype, self.seed, self.bounds = dtype, seed, 1e-4 if dtype == "float32" else 0.05

    def build(self, attention="default", dtype="float32"):
        torch.manual_seed(SEED)
        model = MODEL(build_config()).eval()
        WEIGHTS
        ATTENTION
        IN_TYPE
        return model

    def fresh(self):
        return self.build(dtype=self.dtype)

    def variant(self, **changes):
        return Subject(**changes)

    def make_inputs(self, config):
        return build_inputs(config, self.seed)

    def call(self, model, inputs, **options):
        inputs = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in inputs.items()}
        return model(**inputs, **(OPTIONS | options))

    @torch.no_grad()
    def run(self, model, inputs, **options):
        return flatten(self.call(model, inputs, **options))

    model = functools.cached_property(lambda self: self.build(dtype=self.dtype))
    reference = functools.cached_property(lambda self: self.build("eager").double())
    inputs = functools.cached_property(lambda self: build_inputs(self.model.config, self.seed))
    outputs = functools.cached_property(lambda self: self.run(self.model, self.inputs))
    expected = functools.cached_property(lambda self: self.run(self.reference, self.inputs))
    everything = property(lambda self: self.run(self.reference, self.inputs, **ALL_OUTPUTS))

    @property
    def further(self):
        return {n: v for n, v in self.everything.items() if n not in self.expected}

def flatten(value, name=""):
    if isinstance(value, torch.Tensor):
        return {name: value.double() if value.is_floating_point() else value}
    value = dict(enumerate(value)) if isinstance(value, (tuple, list)) else value
    parts = value.items() if isinstance(value, dict) else ()
    return {k: v for n, part in parts for k, v in flatten(part, f"{name}.{n}".strip(".")).items()}

def rms(tensor):
    return tensor.double().square().mean().sqrt().item()

def rmse(actual, expected):
    return rms(actual.double() - expected.double())

def note(value, bound):
    return value

def placed(inputs, model):
    return inputs

def replace(subject, **changes):
    return Subject(**changes)

def row_of(tensors, row):
    return {name: value[row : row + 1] for name, value in tensors.items()}

def assert_agree(actual, expected, bounds, what):
    for name, value in expected.items():
        bound = bounds[name] if isinstance(bounds, dict) else bounds * rms(value)
        error = rms(actual[name] - value)
        assert error <= bound, f"{what}: {name} is off by {error:.2e} (RMSE), allowed {bound:.2e}"

def assert_loss(loss, expected, eps, what="the loss"):
    text = f"{what} is {loss:.8f}, its formula gives {expected:.8f}"
    assert abs(loss - expected) <= 1e-5 * max(1.0, abs(expected)), text

def normals(name, shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def token_ids(name, shape, low, high, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))
"""
SETTINGS = {"device": "cpu", "weights": "random", "size": "tiny", "eps": 1e-7}
LOADED = """\
if dtype != "float32":  # as users load it, which keeps some in fp32
    model.save_pretrained(folder := tempfile.mkdtemp())
    model = type(model).from_pretrained(folder, dtype=getattr(torch, dtype)).eval()"""
RANDOM = """\
for p in model.parameters():
    torch.nn.init.normal_(p, std=min(0.25, (p[0].numel() if p.ndim > 1 else 16) ** -0.5))"""
EXACT = ("normals", "token_ids", "row_of")  # of the script, where its very values are needed


@dataclass(frozen=True)
class Failure:
    """How a check ends: the type of the error, and its message."""

    kind: str
    message: str

    def like(self, other: Failure) -> bool:
        """Whether it is the same failure, whatever the numbers are."""
        mine, theirs = (re.sub(r"[\d.e+-]+", "#", f.message)[:60] for f in (self, other))
        return self.kind == other.kind and mine == theirs


def main(options: argparse.Namespace) -> int:
    """Write the script for `--family` and `--checks`; 1 where none so short fails in that way."""
    there = find(options.scripts)
    if len(options.family) != 1 or len(options.checks) != 1:
        raise UsageError("reduce what? `--family bert --checks loss`")
    [family], [check] = options.family, options.checks
    if family not in there:
        raise UsageError(unknown("family", family, there))
    script = there[family]
    if check not in read(script).checks:
        raise UsageError(unknown("check", check, read(script).checks))
    wanted = failure([str(script.resolve()), "--device", "cpu", "--checks", check], check)
    if wanted is None:
        print(f"{family} {check} passes: there is nothing to reduce")
        return 1
    for exact in (False, True):
        text = reduced(script, check, exact, wanted)
        path = options.results / "reduced" / f"{family}_{check}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        found = [failure([str(path)], check) for _ in range(TRIES)]
        if all(each and each.like(wanted) for each in found):
            lines = text.count("\n")
            print(f"{path}: {lines} lines, fails {TRIES} of {TRIES} times: {wanted.message[:200]}")
            return 0 if lines <= LINES else 1
    path.unlink()
    print(f"no short script fails in the same way; use python {script} --checks {check}")
    return 1


def failure(command: list[str], check: str) -> Failure | None:
    """How a program ends in a fresh process; None where nothing fails."""
    ended = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    line = re.search(rf"^  (fail|error) +{check} .*? s  (.*)$", ended.stdout, re.MULTILINE)
    if line:  # of a script's report
        kind, _, message = line[2].partition(": ") if line[1] == "error" else ("", "", line[2])
        return Failure(kind or "AssertionError", message)
    last = ended.stderr.strip().splitlines()[-1:] or [""]
    kind, _, message = last[0].partition(": ")
    return Failure(kind, message) if ended.returncode else None


def reduced(script: Path, check: str, exact: bool, wanted: Failure) -> str:
    """The short script; with `exact` weights and inputs are those of the long one."""
    tree = ast.parse(script.read_text("utf-8"))
    own = definitions(AsItIs().visit(tree))
    wanted_constants = ("ATTENTIONS", "MODEL_CLASS", "OPTIONS", "SEED")
    constants: dict[str, Any] = {
        name: ast.literal_eval(ast.unparse(own[name]).partition(" = ")[2])
        for name in wanted_constants
        if name in own
    }
    plain = PLAIN.replace("MODEL(", f"{constants['MODEL_CLASS']}(")
    weights = "set_weights(model, SEED)" if exact else RANDOM.replace("\n", "\n        ")
    settings = "\n    ".join(f"{name} = {value!r}" for name, value in SETTINGS.items())
    plain = plain.replace("SETTINGS", settings)
    if not constants.get("OPTIONS"):
        plain = plain.replace("(OPTIONS | options)", "options")
    plain = plain.replace("        WEIGHTS\n", f"        {weights}\n")
    loaded = "        " + LOADED.replace("\n", "\n        ") + "\n"
    plain = plain.replace("        IN_TYPE\n", loaded if check.startswith("dtype") else "")
    attention = f"        {MODEL}\n" if constants.get("ATTENTIONS") else ""
    plain = plain.replace("        ATTENTION\n", attention).replace("SEED", str(constants["SEED"]))
    replaced = definitions(ast.parse(plain))
    known = own | {n: d for n, d in replaced.items() if not (exact and n in EXACT)}
    test = f"test_{check}"
    for _ in range(3):  # what is left of the class needs less
        needed = reached(known, test)
        others = [node for name, node in known.items() if name in needed and name != "Subject"]
        known["Subject"] = pruned(known["Subject"], others)
    body = [Plain().visit(known[name]) for name in known if name in needed]
    head = f'"""{wanted.kind}: {wanted.message[:150]!s}"""'.replace("\\", "\\\\")
    used = {node.id for each in body for node in ast.walk(each) if isinstance(node, ast.Name)}
    imports = [f"import {', '.join(PLAIN_IMPORTS)}", *imported(tree, used)]
    end = ['print("torch", torch.__version__, "transformers", transformers.__version__)']
    end.append(f"test_{check}(Subject())")
    code = "\n".join([head, *imports, *(ast.unparse(ast.fix_missing_locations(n)) for n in body)])
    code = "\n".join([code, *end])
    code = re.sub(r"(?m)^( *(?:def|if) .*:)\n +(return .*)$", r"\1 \2", code)
    return "\n".join(folded(line) for line in code.splitlines() if line) + "\n"


def folded(line: str) -> str:
    """A line of code as several that are filled, where Python reads them as the same.

    A formatter would give each argument of a long call a line of its own.
    """
    indent = line[: len(line) - len(line.lstrip())]
    further = {"subsequent_indent": f"{indent}    ", "break_long_words": False}
    filled = textwrap.fill(line, WIDTH, **further, break_on_hyphens=False)  # type: ignore[arg-type]
    try:
        same = ast.dump(ast.parse(filled.strip())) == ast.dump(ast.parse(line.strip()))
    except SyntaxError:  # the line opens a block, or is folded where it may not be
        same = False
    return filled if same else line


def definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """The functions, classes and constants at the top level, by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                found[target.id] = node
    return found


def pruned(subject: ast.stmt, others: Sequence[ast.stmt]) -> ast.stmt:
    """The class without the members that nobody asks for."""
    assert isinstance(subject, ast.ClassDef)
    asked = {a.attr for each in others for a in ast.walk(each) if isinstance(a, ast.Attribute)}
    while True:
        kept = [node for node in subject.body if names_of(node) & (asked | {"__init__"})]
        more = {a.attr for each in kept for a in ast.walk(each) if isinstance(a, ast.Attribute)}
        if more <= asked:
            return ast.ClassDef(subject.name, [], [], kept, [])
        asked |= more


def names_of(node: ast.stmt) -> set[str]:
    """The names that a statement of a class defines."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def reached(known: Mapping[str, ast.stmt], start: str) -> set[str]:
    """The names of all that a function needs, itself among them."""
    found: set[str] = set()
    waiting = [start, "Subject"]
    while waiting:
        name = waiting.pop()
        if name in found or name not in known:
            continue
        found.add(name)
        # Annotations need nothing, so they are taken out of a copy.
        node = Plain().visit(ast.parse(ast.unparse(ast.fix_missing_locations(known[name]))))
        waiting += [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
    return found


class AsItIs(ast.NodeTransformer):
    """Leaves out what a check does with graphs, or with other seeds than that of the script."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`isinstance(model, Graph)` is False."""
        self.generic_visit(node)
        words = [ast.unparse(each) for each in (node.func, *node.args[1:])]
        return ast.Constant(False) if words == ["isinstance", "Graph"] else node

    def visit_With(self, node: ast.With) -> Any:
        """`with decidable(…): this`."""
        self.generic_visit(node)
        manager = node.items[0].context_expr
        known = isinstance(manager, ast.Call) and ast.unparse(manager.func) == "decidable"
        return node.body if known else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """`False and this`, `False or this`."""
        self.generic_visit(node)
        if not _is_false(node.values[0]):
            return node
        return node.values[0] if isinstance(node.op, ast.And) else node.values[1]

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """`that if False else this`."""
        self.generic_visit(node)
        return node.orelse if _is_false(node.test) else node

    def visit_If(self, node: ast.If) -> Any:
        """`if False: … else: this`."""
        self.generic_visit(node)
        return (node.orelse or ast.Pass()) if _is_false(node.test) else node


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


class Plain(ast.NodeTransformer):
    """Takes docstrings, annotations and unused conveniences out."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function without annotations."""
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if argument:
                argument.annotation = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class without its docstring."""
        return self._without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """An assignment; the fields of dataclasses keep their annotations."""
        if isinstance(node.target, ast.Name) and node.value and node.col_offset == 0:
            return ast.Assign([node.target], node.value)
        return node

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def imported(tree: ast.Module, used: set[str]) -> Iterator[str]:
    """The imports of the script that are used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            names = [a.name for a in node.names if (a.asname or a.name) in used]
            if names:
                yield f"from {node.module} import {', '.join(names)}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in used - {*PLAIN_IMPORTS} and not alias.asname:
                    yield f"import {alias.name}"
