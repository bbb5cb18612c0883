"""A failing check becomes a short script that fails in the same way."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tools import reduce
from tools.reduce import Failure

ROOT = Path(__file__).parents[1]
WANTED = Failure("AssertionError", "logits is off by 2.03e-03 (RMSE), allowed 4.60e-05")


def test_failures_are_alike_whatever_their_numbers_are() -> None:
    other = Failure("AssertionError", "logits is off by 1.00e-01 (RMSE), allowed 1.69e-06")
    assert WANTED.like(other)
    assert WANTED.like(Failure("AssertionError", "loss is off by 1.0e-01 (RMSE), allowed 1e-06"))
    assert not WANTED.like(Failure("ValueError", WANTED.message))
    assert not WANTED.like(Failure("AssertionError", "the loss is 1.0"))


def test_a_short_script_has_the_check_and_no_machinery() -> None:
    script = ROOT / "fixed_tests" / "test_hf_bert.py"
    text = reduce.reduced(script, "padding_invariance", WANTED, exact=False, inputs={})
    ast.parse(text)
    assert text.startswith('"""AssertionError: logits is off')
    assert "def test_padding_invariance(subject):" in text
    assert "BertConfig(" in text
    for left_out in ("argparse", "hashes", "def test_loss", "reference ="):
        assert left_out not in text
    assert text.count("\n") < reduce.LINES + 10  # what does not run is there yet


def test_what_only_graphs_and_other_seeds_need_is_left_out() -> None:
    script = ROOT / "fixed_tests" / "test_hf_bert.py"
    text = reduce.reduced(script, "dtype_bf16", WANTED, exact=False, inputs={})
    for left_out in ("Graph", "decidable", "nudge"):
        assert left_out not in text
    assert "FP32_OUTPUTS" in text
    assert text.count("\n") < reduce.LINES + 10  # what does not run is there yet


def test_small_inputs_are_written_out() -> None:
    script = ROOT / "fixed_tests" / "test_hf_bert.py"
    inputs = reduce.written_out(script)
    assert inputs["attention_mask"] == "torch.tensor([[1] * 12, [1] * 9 + [0, 0, 0]])"
    text = reduce.reduced(script, "padding_invariance", WANTED, exact=False, inputs=inputs)
    assert "[1] * 9 + [0, 0, 0]" in text
    assert "def ragged_mask" not in text


@pytest.mark.parametrize(
    "value", [[], [7], [1, 1, 1, 1], [0] * 5, [[1, 2, 2], [3] * 9 + [4]], [[[True] * 6] * 2], 5]
)
def test_numbers_that_repeat_stand_once(value: Any) -> None:
    assert ast.literal_eval(repr(eval(code := reduce.code_of(value)))) == value
    assert len(code) <= len(str(value)) + 2


SCRIPT = """\
'head'
import math, torch
from typing import Any, Sequence
UNUSED = 1
LIMIT = 2
class Model:
    size = 3
    def called(self): return self.size
    def never(self):
        return self.size + LIMIT
def helper(x):
    if x > LIMIT:
        return x
    else:
        return -x
def checked(x):
    assert x, "zero"
def unused(x): return math.sqrt(x)
def other(x):
    return unused(x)
def test():
    model = Model()
    largest = max(1, 2)
    assert largest == 2
    try:
        value = helper(model.called())
    except ValueError:
        value = helper(9)
    checked(value)
    assert value < LIMIT, f"{value} is no less"
    print("not reached")
test()
"""


def test_what_has_not_run_is_left_out(tmp_path: Path) -> None:
    path, ran = tmp_path / "script.py", tmp_path / "lines"
    path.write_text(SCRIPT)
    wanted = Failure("AssertionError", "3 is no less")
    assert reduce.failure(["-c", reduce.TRACER, str(path), str(ran)], "test") == wanted
    path.write_text(text := reduce.executed(SCRIPT, *ast.literal_eval(ran.read_text())))
    assert reduce.failure([str(path)], "test") == wanted
    left_out = ("import", "UNUSED", "never", "else", "largest", "unused", "other", "try", "reached")
    assert not [word for word in left_out if word in text]
    assert "def checked(x): pass" in text  # it is called, and holds
    assert text.startswith("'head'\nLIMIT = 2\nclass Model:\n")


def test_lines_are_filled_where_python_reads_them_as_the_same() -> None:
    call = f"x = f({', '.join(f'argument_{n}={n}' for n in range(20))})"
    folded = reduce.folded(call)
    assert 2 < folded.count("\n") + 1 < 6
    assert ast.dump(ast.parse(folded)) == ast.dump(ast.parse(call))
    text = f"x = '{'word ' * 40}'"
    assert reduce.folded(text) == text


def test_what_passes_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("print('  pass  loss   1.0e-01 / 2.0e-01   0.1 s  ')")
    assert reduce.failure([str(path)], "loss") is None
    path.write_text("print('  fail  loss   1.0e-01 / 2.0e-01   0.1 s  the loss is 1.0')")
    assert reduce.failure([str(path)], "loss") == Failure("AssertionError", "the loss is 1.0")
    path.write_text("raise ValueError('no such thing')")
    assert reduce.failure([str(path)], "loss") == Failure("ValueError", "no such thing")
