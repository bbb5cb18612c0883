"""The generated scripts find what is wrong: faults are put into real models, a check must see each.

The faults are put into transformers or torch while a script's checks run, as a broken release, a
driver or a compiler would have them.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from generator import registry
from tools import expectations

ROOT = Path(__file__).parents[1]

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load(family: str) -> ModuleType:
    """The script of `family` as a module."""
    path = ROOT / "fixed_tests" / f"test_hf_{family}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(script: ModuleType, check: str) -> dict[str, Any]:
    """What the record would say of one check of a fresh subject."""
    subject = script.Subject("cpu", seed=script.SEED)
    entry: dict[str, Any] = script.run_check(check, getattr(script, f"test_{check}"), subject)
    return entry


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models run faster on one thread, and tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def after(function: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """`function` with its result changed."""

    @functools.wraps(function)  # heads look at the signature
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(function(*args, **kwargs))

    return changed


def without(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """`function` that ignores the arguments `names`."""
    return lambda *args, **kwargs: function(*args, **(kwargs | dict.fromkeys(names)))


Patch = pytest.MonkeyPatch
BERT, LLAMA = transformers.BertForMaskedLM, transformers.LlamaForCausalLM


def nan_in_output(patch: Patch) -> None:
    def spoil(output: Any) -> Any:
        output.logits[0, 0, 0] = float("nan")
        return output

    patch.setattr(BERT, "forward", after(BERT.forward, spoil))


def mask_ignored(patch: Patch) -> None:
    model = transformers.BertModel
    patch.setattr(model, "forward", without(model.forward, "attention_mask"))


def token_types_ignored(patch: Patch) -> None:
    model = transformers.BertModel
    patch.setattr(model, "forward", without(model.forward, "token_type_ids"))


def parameter_elsewhere(patch: Patch) -> None:
    def spoil(model: Any) -> Any:
        model.cls.predictions.bias = torch.nn.Parameter(torch.zeros(99, device="meta"))
        return model

    patch.setattr(torch.nn.Module, "to", after(torch.nn.Module.to, spoil))


def dropout_in_evaluation(patch: Patch) -> None:
    dropout = torch.nn.functional.dropout
    patch.setattr(torch.nn.Dropout, "forward", lambda self, x: dropout(x, 0.1, training=True))
    patch.setattr(torch, "manual_seed", lambda seed: None)


def rows_mixed(patch: Patch) -> None:
    def spoil(output: Any) -> Any:
        output.logits = output.logits + 0.01 * output.logits.mean(0, keepdim=True)
        return output

    patch.setattr(BERT, "forward", after(BERT.forward, spoil))


def input_written(patch: Patch) -> None:
    forward = BERT.forward

    def spoil(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        output = forward(self, input_ids=input_ids, **kwargs)
        input_ids[0, 0] = 7
        return output

    patch.setattr(BERT, "forward", spoil)


def epsilon_changed(patch: Patch) -> None:
    norm = torch.nn.functional.layer_norm

    def spoil(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        return norm(x, shape, weight, bias, eps + 1e-4)

    patch.setattr(torch.nn.functional, "layer_norm", spoil)


def sdpa_scaled(patch: Patch) -> None:
    attention = torch.nn.functional.scaled_dot_product_attention
    spoil = lambda q, *args, **kwargs: attention(1.01 * q, *args, **kwargs)  # noqa: E731
    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spoil)


def loss_not_masked(patch: Patch) -> None:
    loss = torch.nn.CrossEntropyLoss.forward
    spoil = lambda self, logits, labels: loss(self, logits, labels.clamp(min=0))  # noqa: E731
    patch.setattr(torch.nn.CrossEntropyLoss, "forward", spoil)


def hidden_state_missing(patch: Patch) -> None:
    def spoil(output: Any) -> Any:
        if output.hidden_states:
            output.hidden_states = output.hidden_states[1:]
        return output

    patch.setattr(BERT, "forward", after(BERT.forward, spoil))


def gradient_cut(patch: Patch) -> None:
    layer = transformers.models.bert.modeling_bert.BertIntermediate
    patch.setattr(layer, "forward", after(layer.forward, lambda output: output.detach()))


def tying_lost(patch: Patch) -> None:
    patch.setattr(transformers.PreTrainedModel, "tie_weights", lambda *args, **kwargs: None)


def weight_not_saved(patch: Patch) -> None:
    state_dict = torch.nn.Module.state_dict

    def spoil(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = state_dict(self, *args, **kwargs)
        state.pop("cls.predictions.transform.dense.bias", None)
        return state

    patch.setattr(torch.nn.Module, "state_dict", spoil)


HEAD = transformers.BertForTokenClassification


def head_scaled(patch: Patch) -> None:
    def spoil(output: Any) -> Any:
        output.logits = output.logits * 1.001
        return output

    patch.setattr(HEAD, "forward", after(HEAD.forward, spoil))


def head_remembers(patch: Patch) -> None:
    def spoil(output: Any) -> Any:
        HEAD.calls = getattr(HEAD, "calls", 0) + 1
        return output

    patch.setattr(HEAD, "forward", after(HEAD.forward, spoil))
    patch.setattr(HEAD, "calls", 0, raising=False)


def asking_changes_the_answer(patch: Patch) -> None:
    forward = BERT.forward

    def spoil(self: Any, **kwargs: Any) -> Any:
        output = forward(self, **kwargs)
        if kwargs.get("output_attentions"):
            output.logits = output.logits * 1.001
        return output

    patch.setattr(BERT, "forward", spoil)


def switch_ignored(patch: Patch) -> None:
    layer = transformers.models.llama.modeling_llama.LlamaMLP
    initialise = layer.__init__

    def spoil(self: Any, config: Any) -> None:
        config.mlp_bias = False
        initialise(self, config)

    patch.setattr(layer, "__init__", spoil)


def low_precision(patch: Patch) -> None:
    linear = torch.nn.functional.linear

    def spoil(x: Any, weight: Any, bias: Any = None) -> Any:
        if x.dtype != torch.float32:
            return linear(x, weight, bias)
        return linear(x.half().float(), weight, bias)

    patch.setattr(torch.nn.functional, "linear", spoil)


def sees_the_future(patch: Patch) -> None:
    attention = transformers.models.llama.modeling_llama.LlamaAttention
    forward = attention.forward

    def spoil(self: Any, hidden_states: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = hidden_states.new_zeros(1, 1, 1, 1)
        return forward(self, hidden_states, **kwargs)

    patch.setattr(attention, "forward", spoil)


def cache_forgets(patch: Patch) -> None:
    layer = transformers.cache_utils.DynamicLayer
    update = layer.update

    def spoil(self: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        all_keys, all_values = update(self, keys, values, *args, **kwargs)
        if all_keys.shape != keys.shape:
            all_values = all_values.clone()
            all_values[..., 0, :] = 0
        return all_keys, all_values

    patch.setattr(layer, "update", spoil)


def videos_scaled(patch: Patch) -> None:
    model = transformers.Glm4vModel
    features = model.get_video_features

    @functools.wraps(features)
    def spoil(self: Any, pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return features(self, pixels * 1.001, *args, **kwargs)

    patch.setattr(model, "get_video_features", spoil)


FAULTS: list[tuple[Callable[[Patch], None], str, str, str]] = [
    (nan_in_output, "bert", "forward", "NaN"),
    (hidden_state_missing, "bert", "forward", "shapes"),
    (mask_ignored, "bert", "sensitivity", "attention_mask"),
    (mask_ignored, "bert", "padding_invariance", "padded"),
    (token_types_ignored, "bert", "sensitivity", "token_type_ids"),
    (parameter_elsewhere, "bert", "placement", "on meta, not on cpu"),
    (dropout_in_evaluation, "bert", "determinism", "another seed"),
    (rows_mixed, "bert", "batch_invariance", "alone"),
    (input_written, "bert", "isolation", "inputs"),
    (epsilon_changed, "bert", "golden", "fingerprint"),
    (sdpa_scaled, "bert", "attention_parity", "sdpa"),
    (sdpa_scaled, "bert", "device_parity", "fp64"),
    (low_precision, "bert", "device_parity", "fp64"),
    (head_scaled, "bert", "heads", "BertForTokenClassification has the fingerprint"),
    (head_remembers, "bert", "heads", "BertForTokenClassification changes.*classes"),
    (videos_scaled, "glm4v", "parts", "videos has the fingerprint"),
    (asking_changes_the_answer, "bert", "forward", "hidden states and the like"),
    (switch_ignored, "llama", "golden", "mlp_bias has the fingerprint"),
    (loss_not_masked, "bert", "loss", "formula"),
    (gradient_cut, "bert", "gradients", "no gradient"),
    (tying_lost, "bert", "tying", "tied"),
    (weight_not_saved, "bert", "save_load", "missing|meta tensor"),
    (sees_the_future, "llama", "causality", "all but the last"),
    (cache_forgets, "llama", "cache", "decoding"),
    (cache_forgets, "llama", "generate", "cache"),
]


@pytest.mark.parametrize(("fault", "family", "check", "message"), FAULTS)
def test_a_fault_is_seen(
    fault: Callable[[Patch], None],
    family: str,
    check: str,
    message: str,
    monkeypatch: Patch,
) -> None:
    script = load(family)
    assert outcome(script, check)["status"] == "pass"
    fault(monkeypatch)
    entry = outcome(script, check)
    assert entry["status"] in ("fail", "error"), entry
    assert re.search(message, entry["reason"]), entry["reason"]


EXPECTED = {
    (each.family, each.check): each.status
    for each in expectations.load(ROOT / "tools" / "expectations.toml", ROOT / "fixed_tests")
}


# Those for which the templates were written; the matrix runs all.
@pytest.mark.parametrize("family", sorted(registry.template_families().values()))
def test_a_script_passes_as_it_is(family: str) -> None:
    script = load(family)
    subject = script.Subject("cpu", seed=script.SEED)
    checks = {name: run for name, run in vars(script).items() if name.startswith("test_")}
    entries = [script.run_check(name[5:], run, subject) for name, run in checks.items()]
    assert not [
        e for e in entries if e["status"] not in ("pass", EXPECTED.get((family, e["name"])))
    ]
