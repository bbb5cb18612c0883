"""A script of a few lines that shows one failing check, for a bug report.

The check is taken from the family's script with what it needs; the machinery (records, devices,
exact bounds, portable weights) is replaced by the plain code in `PLAIN`, and what has not run when
it fails is left out. That it still fails in the same way is then tried in fresh processes.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import itertools
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.scripts import find, read
from tools.usage import UsageError, unknown

LINES = 60
PLAIN_IMPORTS = ("functools", "tempfile", "torch", "transformers")  # of PLAIN
CHARACTERS = 500  # of a tensor that is written out
TRIES = 3
SECONDS = 300
WIDTH = 120
VERSIONS = 'print("torch", torch.__version__, "transformers", transformers.__version__)'
MODEL = "model.set_attn_implementation(attention if attention in ATTENTIONS else ATTENTIONS[0])"

PLAIN = """\
class Subject:
    SETTINGS

    def __init__(self, dtype="float32", seed=SEED):
        self.dtype, self.seed, self.off = dtype, seed, 1e-4 if dtype == "float32" else 0.05

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
        return replace(self, **changes)

    def make_inputs(self, config):
        return build_inputs(config, self.seed)

    def explained(self, inputs, outputs):
        return {name: self.off * rms(value) for name, value in outputs.items()}

    def objective(self, model):
        with Fp64():
            found = flatten(self.call(model, self.inputs)).items()
        return sum((v * normals(n, v.shape)).sum() for n, v in found if v.is_floating_point())

    def call(self, model, inputs, **options):
        torch.manual_seed(self.seed)
        return model(**placed(inputs, model), **(OPTIONS | options))

    @torch.no_grad()
    def run(self, model, inputs, **options):
        return flatten(self.call(model, inputs, **options))

    model = functools.cached_property(lambda self: self.build(dtype=self.dtype))
    reference = functools.cached_property(lambda self: self.build("eager").double())
    inputs = functools.cached_property(lambda self: build_inputs(self.model.config, self.seed))
    outputs = functools.cached_property(lambda self: self.run(self.model, self.inputs))
    expected = functools.cached_property(lambda self: self.run(self.reference, self.inputs))
    bounds = property(lambda self: self.explained(self.inputs, self.outputs))
    everything = property(lambda self: self.run(self.reference, self.inputs, **ALL_OUTPUTS))

    @property
    def further(self):
        return {n: v for n, v in self.everything.items() if n not in self.expected}

class Fp64(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        if kwargs and kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64  # what models cast to fp32 stays fp64
        return f(*args, **(kwargs or {}))

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

def placed(inputs, model):
    return {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in inputs.items()}

def replace(subject, **changes):
    return Subject(**({"dtype": subject.dtype, "seed": subject.seed} | changes))

def assert_shows(subject, name, other, model):
    value = subject.inputs[name]
    if name.endswith("mask"):
        half, other = max(1, value.shape[-1] // 2), value.clone()
        other[..., slice(half) if value.ndim < 3 else slice(-half, None)] = 0
    elif torch.equal(value, other):  # it does not follow from a seed
        other = value.flip(0)
    outputs, effect = subject.run(model, subject.inputs | {name: other}), 0
    for key, bound in subject.bounds.items():
        effect = max(effect, rms(outputs[key] - subject.outputs[key]) / bound)
    if name in INSENSITIVE:
        assert not effect, f"{name} changes the outputs, but {INSENSITIVE[name]}"
    else:
        assert effect > 0.01, f"{name} changes the outputs by only {effect:.1f} times the bound"

def row_of(tensors, row):
    return {name: value[row : row + 1] for name, value in tensors.items()}

def assert_agree(actual, expected, bounds, what):
    for name, value in expected.items():
        error, bound = rms(actual[name] - value), bounds[name]
        assert error <= bound, f"{what}: {name} is off by {error:.2e} (RMSE), allowed {bound:.2e}"

def assert_gradients(subject):
    model, values, step = subject.reference, [], 1e-8
    subject.objective(model).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    learning = {name: p for name, p in trained.items() if p.grad is not None and rms(p.grad)}
    wrong = sorted(name for name in trained.keys() - learning.keys() if not excused(name))
    assert not wrong, f"no gradient, or zero, or not finite: {wrong}"
    directions = {name: normals(name, p.shape).double() for name, p in learning.items()}
    slopes = torch.stack([(p.grad * directions[name]).sum() for name, p in learning.items()])
    for move in (step, -2 * step):
        for name, p in learning.items():
            p.data += move * directions[name]
        values.append(subject.objective(model).item())
    slope, expected = slopes.sum(), (values[0] - values[1]) / (2 * step)
    error, bound = abs(slope - expected), 1e-4 * slopes.norm()
    assert error <= bound, f"the slope is {slope:.6e}, fp64 says {expected:.6e} (±{bound:.1e})"
    return set()

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
EXCUSED = """
def excused(parameter):
    return False
"""
BLOCKS = "(?:def|class|if|elif|else|for|while|with|try|except|finally)"
ALONE = rf"(?m)^(( *){BLOCKS}\b.*:)\n\2    (?!{BLOCKS}\b|@)(\S.*)$(?!\n\2    )"
TRACER = """\
import runpy, sys, traceback
path, seen = sys.argv[1], set()
def line(frame, event, _):
    seen.add(frame.f_lineno)
    return line
def called(frame, event, _):
    return line(frame, event, _) if frame.f_code.co_filename == path else None
sys.settrace(called)
try:
    runpy.run_path(path, run_name="__main__")
except BaseException as error:
    sys.settrace(None)
    frames = traceback.extract_tb(error.__traceback__)
    failed = [frame.lineno for frame in frames if frame.filename == path]
    with open(sys.argv[2], "w") as file:
        print([*seen], failed, sep=", ", file=file)
    raise"""
WRITER = """\
import runpy, sys
own = runpy.run_path(sys.argv[1])
inputs = own["build_inputs"](own["build_config"](), own["SEED"])
print({n: v.tolist() for n, v in inputs.items() if not v.is_floating_point()})"""
EXACT = ("normals", "token_ids", "row_of")  # of the script, where its very values are needed


@dataclass(frozen=True)
class Failure:
    """How a check ends: the type of the error, and its message."""

    kind: str
    message: str

    def like(self, other: Failure) -> bool:
        """Whether it is the same failure, whatever the numbers are."""
        # Which of the outputs is named depends on numbers, as the first that is off is.
        numbers = r"[\w.]+(?= is off)|[\d.e+-]+"
        mine, theirs = (re.sub(numbers, "#", f.message)[:60] for f in (self, other))
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
    path = options.results.parent / "reduced" / f"{family}_{check}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: list[str] = []  # those that fail so
    values = written_out(script)
    for exact, inputs in itertools.product((False, True), (values, {})):
        text = reduced(script, check, wanted, exact, inputs)
        path.write_text(text, "utf-8")
        with tempfile.TemporaryDirectory() as folder:
            ran = Path(folder) / "lines"
            seen = failure(["-c", TRACER, str(path), str(ran)], check)
            if not (seen and seen.like(wanted)):
                continue
            path.write_text(executed(text, *ast.literal_eval(ran.read_text("utf-8"))), "utf-8")
        tried = [failure([str(path)], check) for _ in range(TRIES)]
        if all(each and each.like(wanted) for each in tried):
            found.append(path.read_text("utf-8"))
            if found[-1].count("\n") <= LINES:
                break
    if not found:
        path.unlink()
        print(f"no short script fails in the same way; use python {script} --checks {check}")
        return 1
    shortest = min(found, key=lambda text: text.count("\n"))
    path.write_text(shortest, "utf-8")
    length = shortest.count("\n")
    print(f"{path}: {length} lines, fails {TRIES} of {TRIES} times: {wanted.message[:200]}")
    return 0 if length <= LINES else 1


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


def written_out(script: Path) -> dict[str, str]:
    """The code of the small input tensors of a script that are integers or booleans."""
    command = [sys.executable, "-c", WRITER, str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    values = ast.literal_eval(ended.stdout.splitlines()[-1])
    codes = {name: f"torch.tensor({code_of(value)})" for name, value in values.items()}
    return {name: code for name, code in codes.items() if len(code) <= CHARACTERS}


def code_of(value: Any) -> str:
    """The code of nested lists, in which a number that repeats stands once: `[7] + [0] * 9`."""
    if not isinstance(value, list) or (value and isinstance(value[0], list)):
        return f"[{', '.join(map(code_of, value))}]" if isinstance(value, list) else str(value)
    runs = [(item, len([*group])) for item, group in itertools.groupby(value)]
    parts = ["[]"]
    for item, count in runs:
        if count > 4:
            parts.append(f"[{item}] * {count}")
        else:
            items = ", ".join([str(item)] * count)
            joins = parts[-1].endswith("]") and parts[-1] != "[]"
            parts.append(f"{parts.pop()[:-1]}, {items}]" if joins else f"[{items}]")
    return " + ".join(parts[1:] or parts)


def reduced(
    script: Path, check: str, wanted: Failure, exact: bool, inputs: Mapping[str, str]
) -> str:
    """The short script; with `exact` weights and inputs are those of the long one.

    The code of the tensors that `inputs` has is what stands there.
    """
    tree = ast.parse(script.read_text("utf-8"))
    own = definitions(AsItIs().visit(tree))
    tensors = next(n for n in ast.walk(own["build_inputs"]) if isinstance(n, ast.Dict))
    for index, key in enumerate(tensors.keys):
        if key and (code := inputs.get(ast.literal_eval(key))):
            tensors.values[index] = ast.parse(code, mode="eval").body
    wanted_constants = ("ATTENTIONS", "EXPERTS", "MODEL_CLASS", "OPTIONS", "SEED")
    constants: dict[str, Any] = {
        name: ast.literal_eval(ast.unparse(own[name]).partition(" = ")[2])
        for name in wanted_constants
        if name in own
    }
    plain = PLAIN.replace("MODEL(", f"{constants['MODEL_CLASS']}(")
    weights = "set_weights(model, SEED)" if exact else RANDOM.replace("\n", "\n        ")
    settings = "\n    ".join(f"{name} = {value!r}" for name, value in SETTINGS.items())
    plain = plain.replace("SETTINGS", settings)
    if own.get("NO_GRADIENT") and ast.unparse(own["NO_GRADIENT"]).endswith("= {}"):
        plain += EXCUSED
    if constants.get("EXPERTS"):  # the default implementation has no fp64
        plain = plain.replace('self.build("eager").double()', 'in_fp64(self.build("eager"))')
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
    end = ast.parse(f"{VERSIONS}\ntest_{check}(Subject())").body
    plainly = ast.parse(f"import {', '.join(PLAIN_IMPORTS)}").body
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    theirs = [n for n in imports if not {a.name for a in n.names} & {*PLAIN_IMPORTS, "annotations"}]
    return rendered(head, [*plainly, *theirs, *body, *end])


def rendered(head: str, body: Sequence[ast.stmt]) -> str:
    """The text of a script, without the imports and constants that it does not use."""
    names = [n for each in body for n in ast.walk(each) if isinstance(n, ast.Name)]
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    tree = Used(used).visit(ast.Module([*body], []))
    if len(tree.body) < len(body):  # what is left may use less
        return rendered(head, tree.body)
    code = ast.unparse(ast.fix_missing_locations(tree))
    code = re.sub(r"\n+", "\n", code)
    code = re.sub(ALONE, lambda m: m[0] if len(m[1] + m[3]) >= WIDTH else f"{m[1]} {m[3]}", code)
    return "\n".join([head, *map(folded, code.splitlines())]) + "\n"


def executed(text: str, lines: Iterable[int], failed: Iterable[int]) -> str:
    """The script `text` without what lies on none of these `lines`, on which it has run.

    Of the assertions, those on the lines that have `failed` are left.
    """
    head, _, rest = text.partition("\n")
    return rendered(head, Executed({*lines}, {*failed}).visit(ast.parse(f"\n{rest}")).body)


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
    """The names that a statement of a class or a function gives a value."""
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
        """`isinstance(model, Graph)` is False, `note(x, bound)` is x.

        `unless_dead(subject, partial(check, x))` is `check(x, subject.model)`.
        """
        self.generic_visit(node)
        called = ast.unparse(node.func)
        if called == "note":
            return node.args[0]
        if called == "unless_dead":
            check, model = node.args[1], ast.parse("subject.model", mode="eval").body
            if isinstance(check, ast.Call):
                return ast.Call(check.args[0], [*check.args[1:], model], [])
            return ast.Call(check, [model], [])
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


class Used(ast.NodeTransformer):
    """Leaves out the imports, constants and functions of a module whose names nobody uses."""

    def __init__(self, names: set[str]) -> None:
        """Keep these names."""
        self.names = names

    def visit(self, node: ast.AST) -> Any:
        """A statement of a module."""
        if isinstance(node, ast.Module):
            return self.generic_visit(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [each for each in node.names if (each.asname or each.name) in self.names]
            return node if node.names else None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return node if node.name in self.names else None
        return node if not isinstance(node, ast.Assign) or names_of(node) & self.names else None


class Executed(ast.NodeTransformer):
    """Leaves out the statements that lie on none of the lines that a program has run.

    And the assertions that held, with the values that only they use.
    """

    def __init__(self, lines: set[int], failed: set[int]) -> None:
        """Keep what is on `lines`, and the assertions on the lines that have `failed`."""
        self.lines, self.failed = lines, failed

    def visit(self, node: ast.AST) -> Any:
        """A statement, if it has run, without those in it that have not."""
        if isinstance(node, (ast.stmt, ast.ExceptHandler)):
            its = {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
            held = isinstance(node, ast.Assert) and not its & self.failed
            if held or isinstance(node, ast.Pass) or not its & self.lines:
                return None
        node = super().visit(node)
        return node if getattr(node, "body", True) else getattr(node, "orelse", None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function, without what it computes for nobody."""
        self.generic_visit(node)
        names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
        read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        for each in [*node.body]:
            given = names_of(each) if isinstance(each, ast.Assign) else set()
            if given and given.isdisjoint(read) and is_pure(each):
                node.body.remove(each)
        node.body = node.body or [ast.Pass()]  # it is named at least
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class, without the methods that were not called."""
        for each in [*node.body]:
            inside = {*range(getattr(each, "body", [each])[0].lineno, (each.end_lineno or 0) + 1)}
            if not inside & self.lines:
                node.body.remove(each)
        return self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> Any:
        """`try: this except: …`, of which nothing but the first has run."""
        self.generic_visit(node)
        return node if node.handlers or node.finalbody else [*node.body, *node.orelse]


def is_pure(node: ast.stmt) -> bool:
    """Whether a statement calls nothing but builtins, none of which changes anything here."""
    calls = [ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)]
    return all(hasattr(builtins, name) or name == "excused" for name in calls)
