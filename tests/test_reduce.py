"""A failing check becomes a short script that fails in the same way."""

from __future__ import annotations

import ast
from pathlib import Path

from tools import reduce
from tools.reduce import Failure

ROOT = Path(__file__).parents[1]
WANTED = Failure("AssertionError", "logits is off by 2.03e-03 (RMSE), allowed 4.60e-05")


def test_failures_are_alike_whatever_their_numbers_are() -> None:
    other = Failure("AssertionError", "logits is off by 1.00e-01 (RMSE), allowed 1.69e-06")
    assert WANTED.like(other)
    assert not WANTED.like(Failure("ValueError", WANTED.message))
    assert not WANTED.like(Failure("AssertionError", "the loss is 1.0"))


def test_a_short_script_has_the_check_and_no_machinery() -> None:
    script = ROOT / "fixed_tests" / "test_hf_bert.py"
    text = reduce.reduced(script, "padding_invariance", exact=False, wanted=WANTED)
    ast.parse(text)
    assert text.startswith('"""AssertionError: logits is off')
    assert "def test_padding_invariance(subject):" in text
    assert "BertConfig(" in text
    for left_out in ("argparse", "hashes", "def test_loss", "reference ="):
        assert left_out not in text
    assert text.count("\n") <= reduce.LINES


def test_what_only_graphs_and_other_seeds_need_is_left_out() -> None:
    script = ROOT / "fixed_tests" / "test_hf_bert.py"
    text = reduce.reduced(script, "dtype_bf16", exact=False, wanted=WANTED)
    for left_out in ("Graph", "decidable", "nudge"):
        assert left_out not in text
    assert "FP32_OUTPUTS" in text
    assert text.count("\n") <= reduce.LINES


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
