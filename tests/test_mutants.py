"""The fault study: what each operator changes, which mutants are chosen, how they are judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import tomli
import torch

from faults import child, clean, mutants, operators, report
from faults.study import SIMPLE, Baseline, Verdict, judge
from templates import _story
from templates._subject import decidable, unless_dead

ROOT = Path(__file__).parents[1]

# A place for each operator, inside `scope`, and what the operator makes of it.
EXAMPLES = {
    "mask_dropped": ("f(x, attention_mask=mask)", "f(x, attention_mask=None)"),
    "mask_not_added": ("y = scores + attention_mask", "y = scores"),
    "mask_inverted": (
        "create_causal_mask(attention_mask=m)",
        "create_causal_mask(attention_mask=None if m is None else 1 - m.long())",
    ),
    "causal_offset": ("kv_idx <= q_idx", "kv_idx <= q_idx + 1"),
    "triangle_offset": ("torch.triu(x, diagonal=1)", "torch.triu(x, diagonal=1 + 1)"),
    "window_offset": ("kv_idx > q_idx - size", "kv_idx >= q_idx - size"),
    "scaling_dropped": ("s = self.head_dim**-0.5", "s = 1.0"),
    "scaling_doubled": ("s = scores / math.sqrt(d)", "s = (2 * (scores / math.sqrt(d)))"),
    "softmax_axis": ("F.softmax(x, dim=-1)", "F.softmax(x, dim=-2)"),
    "wrong_group": ("repeat_kv(k, n)", "k.repeat(1, n, 1, 1)"),
    "residual_dropped": ("x = residual + x", "x = x"),
    "norm_skipped": ("x = self.input_layernorm(x)", "x = x"),
    "wrong_epsilon": ("Norm(8, eps=e)", "Norm(8, eps=100 * e)"),
    "dropout_in_eval": ("self.dropout(x)", "torch.nn.functional.dropout(x, 0.1, True)"),
    "detached": ("self.o_proj(x)", "self.o_proj(x).detach()"),
    "wrong_type": ("x.to(torch.float32)", "x.to(torch.bfloat16).float()"),
    "positions_shifted": ("position_ids = torch.arange(9)", "position_ids = torch.arange(9) + 1"),
    "patch_order": (
        "x.flatten(2).transpose(1, 2)",
        "x.transpose(-1, -2).flatten(2).transpose(1, 2)",
    ),
    "padding_value": ("F.pad(x, (0, 1))", "F.pad(x, (0, 1), value = 1.0)"),
    "cache_swapped": ("cache.update(key, value, 0)", "cache.update(value, key, 0)"),
    "cache_forgotten": ("k, v = cache.update(key, value, 0)", "k, v = (key, value)"),
    "cache_offset": (
        "torch.cat([self.keys, new], dim=-2)",
        "torch.cat([self.keys[..., 1:, :] if self.keys.numel() else self.keys, new], dim=-2)",
    ),
    "router_not_normalised": ("w /= w.sum(-1)", "w /= 1.0"),
    "not_normalised": ("w = w / w.sum(-1)", "w = w"),
    "token_types_ignored": ("x = words + token_type_embeddings", "x = words"),
    "label_shift": ("labels[..., 1:]", "labels[..., :-1]"),
    "tying_lost": ("_tied_weights_keys = {1: 2}", "_tied_weights_keys = None"),
    "output_missing": ('{"hidden_states": A, "attentions": B}', '{"attentions": B}'),
    "hidden_state_missing": ("h = all_hidden_states + (x,)", "h = all_hidden_states"),
}
ELSEWHERE = {
    "rotary_sign": ("def rotate_half(x):\n    return cat(-x, x)", "return cat(x, x)"),
    "rotary_interleaved": ("def rotate_half(x):\n    return x", "return torch.stack("),
    "wrong_expert": (
        "class Router:\n    def f(self):\n        torch.topk(p + q, 2)",
        "topk(-(p + q), 2)",
    ),
    "batch_mixed": (
        'class Layer:\n    def forward(self, x):\n        """Text."""\n        return x',
        "x = x + x.mean(0, keepdim=True)",
    ),
    "input_written": (
        "class BertModel:\n    def forward(self, input_ids):\n        return input_ids",
        "input_ids[..., -1:] = input_ids[..., :1]",
    ),
    "class_changed": (
        "class BertModel:\n    def forward(self, x):\n        return x",
        'type(self).calls = getattr(type(self), "calls", 0) + 1',
    ),
}


def sites(source: str, name: str) -> list[operators.Site]:
    return [site for site in operators.find(source) if site.operator == name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_operator_makes_the_mistake_that_it_is_named_after(name: str) -> None:
    before, after = EXAMPLES[name]
    source = f"def scope():\n    {before}\n"
    (site,) = sites(source, name)
    assert (site.scopes, site.line) == (("scope",), 2)
    assert operators.apply(source, site) == f"def scope():\n    {after}\n"
    changed = operators.apply(source, site)
    assert changed != source
    compile(changed, name, "exec")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_operator_looks_at_where_it_is(name: str) -> None:
    source, after = ELSEWHERE[name]
    (site,) = sites(source, name)
    changed = operators.apply(source, site)
    assert after in changed
    compile(changed, name, "exec")
    assert not sites("def other(x):\n    return torch.topk(-x, 2)\n", name)


def test_every_operator_has_an_example() -> None:
    assert operators.OPERATORS.keys() == EXAMPLES.keys() | ELSEWHERE.keys()
    assert all(each.text for each in operators.OPERATORS.values())


def test_only_the_place_that_is_asked_for_changes() -> None:
    source = "def f(a, b):\n    softmax(a, dim=-1)\n    softmax(b, dim=-1)\n"
    first, second = sites(source, "softmax_axis")
    assert operators.apply(source, first).count("dim=-2") == 1
    assert "softmax(b, dim=-2)" in operators.apply(source, second)


# --- which are chosen -----------------------------------------------------------------------------


def script(family: str, architecture: str = "encoder_only") -> mutants.Script:
    return mutants.Script(Path(f"test_hf_{family}.py"), family, architecture)


def mutant(family: str, operator: str = "softmax_axis", index: int = 0) -> mutants.Mutant:
    site = operators.Site(operator, index, ("f",), index, "a", "b")
    return mutants.Mutant(script(family), "m", Path("m.py"), site)


def test_the_choice_follows_from_the_seed_and_takes_operators_and_families_in_turn() -> None:
    found = [
        mutant(family, operator, index)
        for family in ("a", "b", "c")
        for operator in ("softmax_axis", "detached")
        for index in range(3)
    ]
    chosen = mutants.choose(found, 6, seed=0)
    assert chosen == mutants.choose(found[::-1], 6, seed=0)
    assert chosen != mutants.choose(found, 6, seed=1)
    for key in (lambda m: m.site.operator, lambda m: m.script.family):
        counts = [sum(key(m) == k for m in chosen) for k in {key(m) for m in found}]
        assert max(counts) - min(counts) == 0
    assert len(mutants.choose(found, 99, seed=0)) == len(found)


def test_of_each_architecture_one_script_comes_before_a_second() -> None:
    found = [script(f"a{i}", "a") for i in range(9)] + [script("b", "b"), script("c", "c")]
    chosen = mutants.choose_scripts(found, 4, seed=0)
    assert {s.architecture for s in chosen[:3]} == {"a", "b", "c"}
    assert chosen[3].architecture == "a"


def test_only_code_that_runs_has_mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """\
        class BertModel:
            _tied_weights_keys = {1: 2}
        class Other:
            _tied_weights_keys = {1: 2}
        def f(x):
            return softmax(x, dim=-1)
        def g(x):
            return softmax(x, dim=-1)
        """
    file = tmp_path / "modeling_bert.py"
    file.write_text(textwrap.dedent(source))
    monkeypatch.setattr(mutants, "modules", lambda script: {"m": file})
    found = mutants.of_script(script("bert"), {(str(file), 6)}, {"BertModel"}, {})
    assert [(m.site.operator, m.site.line) for m in found] == [
        ("tying_lost", 2),
        ("softmax_axis", 6),
    ]


# --- how they are judged --------------------------------------------------------------------------


def answer(status: str = "pass", value: float = 1.0, **more: Any) -> dict[str, Any]:
    trace = [["call logits", "torch.float64", [2], value, value]]
    checks = {"loss": [status, None], "golden": ["pass", None], "tying": ["fail", "known"]}
    return {"checks": checks, "trace": trace, "outputs": {"logits": [1.0, -3.0, value]}} | more


def judged(found: dict[str, Any]) -> Verdict:
    return judge(mutant("bert"), Baseline(script("bert"), answer(), [], 1.0), found)


def test_a_mutant_is_caught_by_checks_that_pass_on_the_sound_model() -> None:
    verdict = judged(answer("fail", 2.0))
    assert (verdict.outcome, verdict.checks) == ("caught", ["loss"])
    assert judged({"error": "no import", "checks": {}, "trace": []}).checks == ["script"]


def test_a_mutant_that_changes_nothing_is_equivalent_and_else_it_is_missed() -> None:
    assert judged(answer()).outcome == "equivalent"
    assert judged(answer(value=1 + 1e-14)).outcome == "equivalent"
    missed = judged(answer(value=1.001))
    assert missed.outcome == "missed"
    assert "call logits" in missed.reason
    fp32 = answer()
    fp32["trace"][0][1] = "torch.float32"
    assert judged(fp32).outcome == "missed", "another type"
    assert judged({"refused": "no such function"}).outcome == "refused"


def test_rounding_in_fp32_hides_no_difference_in_fp64() -> None:
    def both(double: float, single: float) -> dict[str, Any]:
        found = answer(value=double)
        found["trace"].append(["call logits", "torch.float32", [2], single, single])
        return found

    def outcome(double: float, single: float) -> str:
        sound = Baseline(script("bert"), both(1.0, 1.0), [], 1.0)
        return judge(mutant("bert"), sound, both(double, single)).outcome

    assert outcome(1.0, 1 + 1e-7) == "equivalent"
    assert outcome(1.0, 1 + 1e-5) == "missed"
    assert outcome(1 + 1e-9, 1 + 1e-7) == "missed"


def test_no_rounding_ends_a_check_early_where_the_model_is_in_fp64() -> None:
    class Subject:
        dtype = "float64"
        eps = 2.2e-16

    given = {"torch": torch, "Subject": Subject, "test_loss": "a", "test_dtype_bf16": "b"}
    script = types.ModuleType("script")
    vars(script).update(given)
    child.judge_as_fp32(script)
    assert Subject().eps == torch.finfo(torch.float32).eps
    assert hasattr(script, "test_loss")
    assert not hasattr(script, "test_dtype_bf16")


def test_simple_oracles_compare_with_the_sound_outputs() -> None:
    assert judged(answer(outputs=None)).simple == [*SIMPLE]
    assert judged(answer(value=1.0005)).simple == []
    assert judged(answer(value=1.005)).simple == ["allclose 1e-3"]
    assert judged(answer(value=1.5)).simple == ["allclose 1e-2", "allclose 1e-3"]
    assert "correlation 0.99" in judged(answer(value=-3.0)).simple
    assert judged(answer(value=float("nan"))).simple == [*SIMPLE[1:]]


def test_the_figures_leave_out_what_is_equivalent() -> None:
    verdicts = [judged(answer("fail", 2.0)), judged(answer()), judged(answer(value=1.1))]
    assert "1 caught, 1 missed (1 for no known reason), 1 equivalent" in report.summary(verdicts)
    assert "50.0 % of the others caught" in report.summary(verdicts)


def test_a_miss_has_its_reason_or_stands_out(tmp_path: Path) -> None:
    name, path = mutant("bert").name, tmp_path / "missed.toml"
    path.write_text("")
    missed, caught = judged(answer(value=1.1)), judged(answer("fail", 2.0))
    assert report.why_missed([missed], path) == {name: report.UNKNOWN}
    assert "1 missed (1 for no known reason)" in report.summary([missed])
    path.write_text(f'"{name}" = "it is too small"')
    assert report.why_missed([missed], path) == {name: "it is too small"}
    assert "has a reason, but it is caught" in report.why_missed([caught], path)[name]
    assert not report.why_missed([], path)


def test_reasons_of_misses_are_of_operators_and_families_that_there_are() -> None:
    folder = ROOT / "fixed_tests"
    for name in tomli.loads(report.MISSED.read_text("utf-8")):
        family, operator, index, place = name.split()
        assert operator in operators.OPERATORS
        assert (folder / f"test_hf_{family}.py").exists()
        assert index.isdigit()
        assert re.fullmatch(r"\w+\.py:\d+", place)


# --- for real -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "module", "checks"),
    [
        ("softmax_axis", "transformers.models.gpt2.modeling_gpt2", {"golden", "attention_parity"}),
        ("causal_offset", "transformers.masking_utils", {"golden", "causality", "cache"}),
        ("cache_offset", "transformers.cache_utils", {"cache", "generate", "chunked_prefill"}),
    ],
)
def test_a_real_mutant_is_caught_and_the_installed_files_stay(
    operator: str, module: str, checks: set[str], tmp_path: Path
) -> None:
    file = mutants.package() / f"{module.removeprefix('transformers.').replace('.', '/')}.py"
    before = file.read_bytes()
    site = next(s for s in operators.find(before.decode()) if s.operator == operator)
    changed = tmp_path / "models" / "gpt2" / file.name
    changed.parent.mkdir(parents=True)
    changed.write_text(operators.apply(before.decode(), site))
    given = ["--source", changed, "--module", module, "--function", ".".join(site.scopes)]
    program = [sys.executable, child.__file__, ROOT / "fixed_tests" / "test_hf_gpt2.py"]
    if module != "transformers.models.gpt2.modeling_gpt2":  # as it is in a warm process
        code = f"import sys, runpy, {module}; sys.argv[:] = sys.argv[1:]; "
        code += "runpy.run_path(sys.argv[0], run_name='__main__')"
        program = [sys.executable, "-c", code, *program[1:]]
    subprocess.run([*map(str, program), str(tmp_path / "a"), *map(str, given)], check=True)
    found = json.loads((tmp_path / "a").read_text())
    assert "refused" not in found
    failing = {name for name, (status, _) in found["checks"].items() if status != "pass"}
    assert checks <= failing
    assert file.read_bytes() == before


# --- false alarms ---------------------------------------------------------------------------------


def test_each_script_has_a_seed_before_one_has_a_second() -> None:
    found = [script(name) for name in "abc"]
    pairs = clean.choose(found, 5, seed=0)
    assert {s.family for s, _ in pairs[:3]} == {"a", "b", "c"}
    assert len({seed for _, seed in pairs}) == 5
    assert pairs == clean.choose(found[::-1], 5, seed=0)


def test_an_alarm_is_a_check_that_passes_with_the_seed_of_the_script(tmp_path: Path) -> None:
    program = """\
        import json, sys
        words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        seed = words.get("--seed", "0")
        found = {"quiet": "pass", "alarm": "pass" if seed == "0" else "fail", "wrong": "fail"}
        checks = [{"name": n, "status": s, "reason": f"of {seed}"} for n, s in found.items()]
        checks.append({"name": "dead", "status": "skip", "reason": "all is 0 with this seed"})
        checks.append({"name": "golden", "status": "skip", "reason": "of seed 0"})
        json.dump({"checks": checks}, open(words["--json"], "w"))
        """
    path = tmp_path / "test_hf_made_up.py"
    path.write_text(textwrap.dedent(program))
    (run,) = clean.runs([(mutants.Script(path, "made_up", "a"), 7)], jobs=1)
    assert (run.verdicts, run.alarms) == (3, {"alarm": "of 7"})
    assert "1 alarms in 3 check runs" in clean.summary([run])
    assert run.undecided == {"dead": "all is 0 with this seed"}
    page = clean.render([run], "x")
    assert "test_hf_made_up.py --device cpu --seed 7 --checks alarm" in page
    assert "1 check runs decided nothing.\n\n- made_up, dead: all is 0 with this seed\n" in page


@pytest.mark.parametrize(
    ("seed", "result", "ends_with"),
    [
        (1, lambda weight: (weight > 1).double(), SkipTest),  # a choice hangs on a rounding
        (0, lambda weight: (weight > 1).double(), AssertionError),  # the seed was chosen
        (1, lambda weight: 2 * weight.double(), AssertionError),  # a mistake
    ],
)
def test_what_hangs_on_a_rounding_is_undecidable_with_another_seed(
    seed: int, result: Any, ends_with: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_story, "active", types.SimpleNamespace(SEED=0))
    norm = torch.nn.BatchNorm1d(99).double()  # whose weights are 1
    subject: Any = types.SimpleNamespace(seed=seed, eps=1e-7, reference=norm)

    def run(model: Any) -> dict[str, torch.Tensor]:
        return {"logits": result(model.weight.detach())}

    with pytest.raises(ends_with, match="is off"), decidable(subject, run, {"logits": 0.1}):
        raise AssertionError("logits is off")


@pytest.mark.parametrize(
    ("seed", "outputs", "ends_with"),
    [
        (1, {"tested": 0, "exact": 0}, SkipTest),
        (1, {"tested": 0, "exact": 1}, AssertionError),  # a mistake
        (0, {"tested": 0, "exact": 0}, AssertionError),  # the seed was chosen
    ],
)
def test_what_is_dead_in_the_exact_model_too_is_undecided_with_another_seed(
    seed: int,
    outputs: dict[str, int],
    ends_with: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_story, "active", types.SimpleNamespace(SEED=0))
    subject: Any = types.SimpleNamespace(seed=seed, model="tested", reference="exact")

    def changes(model: str) -> None:
        assert outputs[model], "the output is 0"

    with pytest.raises(ends_with, match="the output is 0"):
        unless_dead(subject, changes)
    outputs["tested"] = 1
    unless_dead(subject, changes)
