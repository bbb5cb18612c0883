"""The catalogue: realistic mistakes in the code of models, each a change of one node of source.

An operator looks at a node and gives back what a careless author might have written in its place.
It is pure syntax: whether the change matters is for the study to find out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

Rewrite = Callable[[Any, "Where"], "cst.CSTNode | None"]
EMPTY = cst.Module([])


@dataclass(frozen=True)
class Where:
    """What stands around a node: the names of classes and functions, outermost first."""

    scopes: tuple[str, ...]

    @property
    def function(self) -> str:
        """The innermost class or function."""
        return self.scopes[-1] if self.scopes else ""

    @property
    def outer(self) -> str:
        """The class or function at the top level."""
        return self.scopes[0] if self.scopes else ""


@dataclass(frozen=True)
class Operator:
    """A kind of mistake; `node` is the type of node that it changes."""

    name: str
    text: str
    node: type[cst.CSTNode]
    rewrite: Rewrite


@dataclass(frozen=True)
class Site:
    """A place where an operator fits: the `index`-th in its module, with the code there."""

    operator: str
    index: int
    scopes: tuple[str, ...]
    line: int  # of the node's beginning, or of the first statement of a function
    before: str
    after: str


OPERATORS: dict[str, Operator] = {}


def operator(node: type[cst.CSTNode]) -> Callable[[Rewrite], Rewrite]:
    """Put a function into the catalogue, under its own name; its docstring says what is wrong."""

    def keep(rewrite: Rewrite) -> Rewrite:
        name = rewrite.__name__
        OPERATORS[name] = Operator(name, (rewrite.__doc__ or "").rstrip("."), node, rewrite)
        return rewrite

    return keep


def find(source: str) -> list[Site]:
    """Every place in `source` where an operator fits."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    visitor = _Visitor(wrapper.resolve(PositionProvider))
    wrapper.module.visit(visitor)
    return visitor.sites


def apply(source: str, site: Site) -> str:
    """`source` with the mistake at `site`."""
    visitor = _Visitor({}, site)
    changed = cst.parse_module(source).visit(visitor)
    if not visitor.done:
        raise ValueError(f"{site.operator} fits nowhere for the {site.index}th time")
    return changed.code


def code(node: cst.CSTNode) -> str:
    """The source of a node."""
    return EMPTY.code_for_node(node).strip()


class _Visitor(cst.CSTTransformer):
    """Collects sites, or changes the one that is asked for."""

    def __init__(self, positions: Any, wanted: Site | None = None) -> None:
        super().__init__()
        self.positions, self.wanted = positions, wanted
        self.scopes: list[str] = []
        self.sites: list[Site] = []
        self.counts = dict.fromkeys(OPERATORS, 0)
        self.done = False

    def visit_ClassDef(self, node: cst.ClassDef) -> None:  # noqa: N802
        self.scopes.append(node.name.value)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:  # noqa: N802
        self.scopes.append(node.name.value)

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        result = updated_node
        where = Where(tuple(self.scopes))
        for each in OPERATORS.values():
            if not isinstance(original_node, each.node):
                continue
            if self.wanted and self.wanted.operator != each.name:
                continue
            if "_init_weights" in self.scopes:  # the weights are set by the scripts
                continue
            changed = each.rewrite(original_node, where)
            if changed is None:
                continue
            index = self.counts[each.name]
            self.counts[each.name] += 1
            if self.wanted is None:
                self.sites.append(self._site(each, index, original_node, changed))
            elif self.wanted.index == index:
                result, self.done = changed, True
        if isinstance(original_node, (cst.ClassDef, cst.FunctionDef)):
            self.scopes.pop()
        return result

    def _site(self, each: Operator, index: int, node: Any, changed: cst.CSTNode) -> Site:
        first, before, after = node, code(node), code(changed)
        if isinstance(node, cst.FunctionDef):
            first = _body(node)[0]
            before, after = code(_body(node)[0]), code(_body(changed)[0])
        line = self.positions[first].start.line
        return Site(each.name, index, tuple(self.scopes), line, before, after)


# --- what the operators look at -------------------------------------------------------------------


COMPOUND = (
    cst.BinaryOperation,
    cst.BooleanOperation,
    cst.Comparison,
    cst.IfExp,
    cst.UnaryOperation,
)


def _expression(text: str, **parts: cst.BaseExpression) -> cst.BaseExpression:
    """An expression in which `{names}` are replaced by expressions, in brackets if need be."""
    inner = {
        name: (
            part.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            if isinstance(part, COMPOUND) and not part.lpar
            else part
        )
        for name, part in parts.items()
    }
    config = cst.PartialParserConfig()
    return cst.helpers.parse_template_expression(text, config, **inner)


def _named(node: cst.BaseExpression | None, pattern: str) -> bool:
    """Whether the last name of `a.b.name` matches."""
    name = node.attr if isinstance(node, cst.Attribute) else node
    return isinstance(name, cst.Name) and re.search(pattern, name.value) is not None


def _called(node: cst.Call, pattern: str) -> bool:
    """Whether what is called has a last name that matches wholly."""
    return _named(node.func, rf"^(?:{pattern})$")


def _keyword(node: cst.Call, name: str) -> cst.Arg | None:
    return next((a for a in node.args if a.keyword and a.keyword.value == name), None)


def _with_keyword(node: cst.Call, name: str, value: str, always: bool = False) -> cst.Call | None:
    """The call with another value of a keyword argument; None where it has none."""
    new = cst.parse_expression(value)
    if argument := _keyword(node, name):
        if code(argument.value) == value:
            return None
        return node.with_deep_changes(argument, value=new)
    if not always:
        return None
    added = cst.Arg(new, keyword=cst.Name(name), equal=cst.AssignEqual())
    return node.with_changes(args=[*node.args, added])


def _body(node: Any) -> list[Any]:
    """The statements of a function behind its docstring."""
    body = list(node.body.body)
    first = body[0].body[0] if isinstance(body[0], cst.SimpleStatementLine) else None
    has_text = isinstance(first, cst.Expr) and isinstance(first.value, cst.SimpleString)
    return body[1:] if has_text and len(body) > 1 else body


def _begin_with(node: cst.FunctionDef, *lines: str) -> cst.FunctionDef | None:
    """The function with further statements at its beginning."""
    if not isinstance(node.body, cst.IndentedBlock):
        return None
    body = list(node.body.body)
    at = len(body) - len(_body(node))
    added = [cst.parse_statement(line) for line in lines]
    changed = node.body.with_changes(body=[*body[:at], *added, *body[at:]])
    return node.with_changes(body=changed)


def _parameters(node: cst.FunctionDef) -> list[str]:
    return [p.name.value for p in (*node.params.params, *node.params.kwonly_params)]


def _is_model(where: Where) -> bool:
    return (
        bool(re.search(r"(?:Model|For[A-Z]\w+|LMHead\w*)$", where.outer)) and len(where.scopes) == 2
    )


# --- attention ------------------------------------------------------------------------------------


@operator(cst.Call)
def mask_dropped(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """An attention mask is not passed on."""
    argument = _keyword(node, "attention_mask")
    if argument and _named(argument.value, "mask"):
        return _with_keyword(node, "attention_mask", "None")
    return None


@operator(cst.BinaryOperation)
def mask_not_added(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """An attention mask is not added to the scores."""
    if isinstance(node.operator, cst.Add) and _named(node.right, "mask"):
        return node.left
    return None


@operator(cst.Call)
def mask_inverted(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """An attention mask means the opposite."""
    argument = _keyword(node, "attention_mask")
    if not argument or not _called(node, r"create_\w*mask\w*|_?prepare_4d\w*"):
        return None
    if not isinstance(argument.value, cst.Name):
        return None
    name = argument.value.value
    return _with_keyword(node, "attention_mask", f"None if {name} is None else 1 - {name}.long()")


@operator(cst.Comparison)
def causal_offset(node: cst.Comparison, where: Where) -> cst.CSTNode | None:
    """A token attends to the next one."""
    return cst.parse_expression("kv_idx <= q_idx + 1") if code(node) == "kv_idx <= q_idx" else None


@operator(cst.Call)
def triangle_offset(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """A triangular mask begins at another diagonal."""
    if not _called(node, "tril|triu"):
        return None
    if argument := _keyword(node, "diagonal"):
        return node.with_deep_changes(argument, value=_expression("{x} + 1", x=argument.value))
    return _with_keyword(node, "diagonal", "1", always=True)


@operator(cst.Comparison)
def window_offset(node: cst.Comparison, where: Where) -> cst.CSTNode | None:
    """The sliding window is one token longer."""
    if re.fullmatch(r"kv_idx > q_idx - \w+", text := code(node)):
        return cst.parse_expression(text.replace(">", ">="))
    return None


@operator(cst.BinaryOperation)
def scaling_dropped(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """The scores are not scaled."""
    if isinstance(node.operator, cst.Power) and code(node.right) == "-0.5":
        return cst.parse_expression("1.0")
    if isinstance(node.operator, cst.Divide) and "sqrt(" in code(node.right):
        return node.left
    return None


@operator(cst.BinaryOperation)
def scaling_doubled(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """The scores are scaled twice as much."""
    if isinstance(node.operator, cst.Power) and code(node.right) == "-0.5":
        return _expression("(2 * {x})", x=node)
    if isinstance(node.operator, cst.Divide) and "sqrt(" in code(node.right):
        return _expression("(2 * {x})", x=node)
    return None


@operator(cst.Call)
def softmax_axis(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Softmax runs over the wrong axis."""
    return _with_keyword(node, "dim", "-2") if _called(node, "softmax|Softmax") else None


@operator(cst.Call)
def wrong_group(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """The heads of grouped queries read the keys of other groups."""
    if _called(node, "repeat_kv") and len(node.args) == 2:
        x, n = (argument.value for argument in node.args)
        return _expression("{x}.repeat(1, {n}, 1, 1)", x=x, n=n)
    return None


# --- the stream of a block ------------------------------------------------------------------------


@operator(cst.BinaryOperation)
def residual_dropped(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """A residual connection is left out."""
    if isinstance(node.operator, cst.Add):
        if _named(node.left, "residual|shortcut|input_tensor"):
            return node.right
        if _named(node.right, "residual|shortcut|input_tensor"):
            return node.left
    return None


NORM = r"\w*norm\w*|\w*layer_?norm\w*|ln_\w+"


@operator(cst.Call)
def norm_skipped(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """A norm is skipped."""
    is_own = isinstance(node.func, cst.Attribute) and _named(node.func.value, "^self$")
    if is_own and _named(node.func, rf"(?i)^(?:{NORM})$") and len(node.args) == 1:
        return node.args[0].value
    return None


@operator(cst.Call)
def wrong_epsilon(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """A norm has another epsilon (100 times)."""
    for name in ("eps", "epsilon"):
        if argument := _keyword(node, name):
            new = _expression("100 * {x}", x=argument.value)
            return node.with_deep_changes(argument, value=new)
    return None


@operator(cst.Call)
def dropout_in_eval(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Dropout is at work when it should not."""
    if _named(node.func, r"^(?:\w+_)?dropout$") and node.args and where.function != "__init__":
        return _expression("torch.nn.functional.dropout({x}, 0.1, True)", x=node.args[0].value)
    return None


@operator(cst.Call)
def detached(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """A value is detached, so that what made it does not learn."""
    names = r"self\.(?:o_proj|out_proj|c_proj|dense|fc2|down_proj|w2|wo|query|q_proj|value|v_proj)"
    if re.fullmatch(names, code(node.func)):
        return _expression("{x}.detach()", x=node)
    return None


@operator(cst.Call)
def wrong_type(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """A value is rounded to bf16 where it should be exact."""
    if not isinstance(node.func, cst.Attribute):
        return None
    is_cast = code(node)[-7:] == ".float()" or code(node).endswith(".to(torch.float32)")
    if is_cast and not code(node).startswith("torch."):
        return _expression("{x}.to(torch.bfloat16).float()", x=node.func.value)
    return None


@operator(cst.FunctionDef)
def batch_mixed(node: cst.FunctionDef, where: Where) -> cst.CSTNode | None:
    """Rows of a batch are mixed."""
    is_layer = re.search(r"(?:Layer|Block|MLP|Attention|Output)$", where.outer)
    first = next(iter(_parameters(node)[1:]), "")
    if (
        node.name.value == "forward"
        and is_layer
        and first in ("hidden_states", "hidden_state", "x")
    ):
        return _begin_with(node, f"{first} = {first} + {first}.mean(0, keepdim=True)")
    return None


# --- positions ------------------------------------------------------------------------------------


@operator(cst.Assign)
def positions_shifted(node: cst.Assign, where: Where) -> cst.CSTNode | None:
    """Positions are shifted by one."""
    if _named(node.targets[0].target, "position_ids|positions") and "arange(" in code(node.value):
        return node.with_changes(value=_expression("({x}) + 1", x=node.value))
    return None


@operator(cst.UnaryOperation)
def rotary_sign(node: cst.UnaryOperation, where: Where) -> cst.CSTNode | None:
    """The rotation goes the wrong way round."""
    is_half = re.search(r"rotate_half|rotate_every_two|apply_rotary", where.function)
    return node.expression if is_half and isinstance(node.operator, cst.Minus) else None


@operator(cst.FunctionDef)
def rotary_interleaved(node: cst.FunctionDef, where: Where) -> cst.CSTNode | None:
    """The rotation pairs neighbours instead of halves, or the other way round."""
    if node.name.value != "rotate_half":
        return None
    if "::2" in code(node):
        line = "return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)"
    else:
        line = "return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)"
    return _begin_with(node, line)


@operator(cst.Call)
def patch_order(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Patches are in another order."""
    text = code(node)
    if text.endswith(".flatten(2).transpose(1, 2)"):
        inner = node.func.value.func.value  # type: ignore[attr-defined] # before `.flatten`
        return _expression("{x}.transpose(-1, -2).flatten(2).transpose(1, 2)", x=inner)
    return None


@operator(cst.Call)
def padding_value(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Padding has another value."""
    if _named(node.func, "^pad$") and not re.search("label", code(node)):
        return _with_keyword(node, "value", "1.0", always=True)
    return None


# --- the cache ------------------------------------------------------------------------------------


def _is_update(node: cst.Call) -> bool:
    return _called(node, "update") and len(node.args) >= 3 and _named(node.args[0].value, "^key")


@operator(cst.Call)
def cache_swapped(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Keys and values change places in the cache."""
    if not _is_update(node):
        return None
    key, value, *others = node.args
    swapped = [key.with_changes(value=value.value), value.with_changes(value=key.value)]
    return node.with_changes(args=[*swapped, *others])


@operator(cst.Call)
def cache_forgotten(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """The cache is not updated."""
    if not _is_update(node):
        return None
    return _expression("({k}, {v})", k=node.args[0].value, v=node.args[1].value)


@operator(cst.Call)
def cache_offset(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """The cache loses its first position at each step."""
    if re.fullmatch(r"torch\.cat\(\[self\.(keys|values), \w+\], dim=-2\)", text := code(node)):
        name = "keys" if "keys" in text else "values"
        new = f"self.{name}[..., 1:, :] if self.{name}.numel() else self.{name}"
        return cst.parse_expression(text.replace(f"self.{name},", f"{new},"))
    return None


# --- experts --------------------------------------------------------------------------------------


@operator(cst.Call)
def wrong_expert(node: cst.Call, where: Where) -> cst.CSTNode | None:
    """Tokens go to the wrong experts."""
    routes = re.search(r"(?i)rout|gate|moe|expert|top_?k", "".join(where.scopes))
    if routes and code(node.func) == "torch.topk" and node.args:
        negative = _expression("-({x})", x=node.args[0].value)
        return node.with_deep_changes(node.args[0], value=negative)
    return None


@operator(cst.AugAssign)
def router_not_normalised(node: cst.AugAssign, where: Where) -> cst.CSTNode | None:
    """The weights of the chosen experts do not add up to one."""
    if isinstance(node.operator, cst.DivideAssign) and ".sum(" in code(node.value):
        return node.with_changes(value=cst.parse_expression("1.0"))
    return None


@operator(cst.BinaryOperation)
def not_normalised(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """Weights are not divided by their sum."""
    if isinstance(node.operator, cst.Divide) and ".sum(" in code(node.right):
        return node.left
    return None


# --- inputs, outputs, loss ------------------------------------------------------------------------


@operator(cst.BinaryOperation)
def token_types_ignored(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """Token types are ignored."""
    if isinstance(node.operator, cst.Add) and _named(node.right, "token_type"):
        return node.left
    if isinstance(node.operator, cst.Add) and _named(node.left, "token_type"):
        return node.right
    return None


@operator(cst.Subscript)
def label_shift(node: cst.Subscript, where: Where) -> cst.CSTNode | None:
    """Labels or logits of the loss are shifted by one."""
    shifted = {"[..., 1:]": "[..., :-1]", "[:, 1:]": "[:, :-1]"}
    for old, new in shifted.items():
        if _named(node.value, "labels$") and code(node).endswith(old):
            return cst.parse_expression(code(node).removesuffix(old) + new)
    if _named(node.value, "logits$") and ":-1, :]" in code(node):
        return cst.parse_expression(code(node).replace(":-1, :]", "1:, :]"))
    return None


@operator(cst.Assign)
def tying_lost(node: cst.Assign, where: Where) -> cst.CSTNode | None:
    """Embeddings that should be tied are not."""
    if _named(node.targets[0].target, "^_tied_weights_keys$") and code(node.value) not in (
        "None",
        "{}",
    ):
        return node.with_changes(value=cst.parse_expression("None"))
    return None


@operator(cst.Dict)
def output_missing(node: cst.Dict, where: Where) -> cst.CSTNode | None:
    """Hidden states or attentions are not among the outputs."""
    names = [code(e.key) for e in node.elements if isinstance(e, cst.DictElement)]
    known = ('"hidden_states"', '"attentions"')
    if names and names[0] in known and len(names) == len(node.elements):
        return node.with_changes(elements=node.elements[1:])
    return None


@operator(cst.BinaryOperation)
def hidden_state_missing(node: cst.BinaryOperation, where: Where) -> cst.CSTNode | None:
    """A layer is missing in the hidden states."""
    is_list = isinstance(node.operator, cst.Add) and isinstance(node.right, cst.Tuple)
    return node.left if is_list and _named(node.left, "hidden_states$|attentions$") else None


@operator(cst.FunctionDef)
def input_written(node: cst.FunctionDef, where: Where) -> cst.CSTNode | None:
    """The model writes on its input."""
    if node.name.value != "forward" or not _is_model(where):
        return None
    for name in ("pixel_values", "input_features", "input_values", "input_ids"):
        if name in _parameters(node):
            line = f"{name}[..., -1:] = {name}[..., :1]"
            return _begin_with(node, f"if {name} is not None:\n    {line}\n")
    return None


@operator(cst.FunctionDef)
def class_changed(node: cst.FunctionDef, where: Where) -> cst.CSTNode | None:
    """A call leaves something in the class."""
    if node.name.value == "forward" and _is_model(where):
        return _begin_with(node, 'type(self).calls = getattr(type(self), "calls", 0) + 1')
    return None
