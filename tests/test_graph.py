"""Graph devices: a real OpenVINO runs a real model, and each way to cheat is seen by a check."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from templates import _basics, _devices, _main, _openvino, _story, decoder_only, encoder_only
from templates._compare import rmse
from templates._graph import GRAPH_CHECKS, Graph
from templates._subject import Subject
from templates._values import Values
from tools import scripts

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export warns of its own code

transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def bert(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The story is that of Bert; one thread, which is faster for tiny models."""
    monkeypatch.setattr(_story, "active", encoder_only)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def converted() -> Subject:
    """Bert on OpenVINO, made a graph once for all tests that leave it alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_story, "active", encoder_only)
        subject = Subject("openvino")
        assert subject.outputs
    return subject


def outcome(subject: Subject, check: str) -> dict[str, Any]:
    """What the record would say of one check."""
    return _main.run_check(check, getattr(_basics, f"test_{check}"), subject)


@pytest.mark.parametrize("check", GRAPH_CHECKS)
def test_a_sound_graph_passes(check: str, converted: Subject) -> None:
    assert outcome(converted, check)["status"] == "pass"


def test_the_record_says_what_ran(converted: Subject) -> None:
    facts = _main.graph_facts(converted)
    assert facts is not None
    assert facts["operators"].keys() == {"CPU"}
    assert facts["operators"]["CPU"] > 50
    assert (facts["precision"], facts["elsewhere"], facts["left_out"]) == ("f32", [], [])
    assert facts["convert_seconds"] > 0 < facts["compile_seconds"]
    measured = _main.measure(converted, real=True)
    assert measured["load_seconds"] == facts["convert_seconds"] + facts["compile_seconds"]
    assert len(measured["latency_seconds"]) == 5


def test_both_precisions_are_compared(converted: Subject) -> None:
    """At f32 within the bound of fp32; by default, on a processor with bf16, within another."""
    single, half = outcome(converted, "device_parity"), outcome(converted, "dtype_bf16")
    assert single["value"] < single["bound"] < half["bound"]
    if _devices.describe_device("openvino")["features"][-1] == "default bf16":
        assert half["value"] > single["bound"]


def test_wrong_weights_are_seen() -> None:
    subject = Subject("openvino")
    with torch.no_grad():
        subject.model.model.bert.encoder.layer[0].output.dense.weight[0] += 0.01
    assert outcome(subject, "device_parity")["status"] == "fail"


def test_another_device_is_seen(converted: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is asked for a GPU and runs the model on the CPU instead."""
    core = _openvino.import_openvino().Core
    compiled = core.compile_model
    monkeypatch.setattr(
        core,
        "compile_model",
        lambda self, program, where, hint: compiled(self, program, "CPU", hint),
    )
    subject = Subject("openvino:GPU")
    graph = subject.model = Graph(
        converted.model.model, _openvino.OpenVINO, "openvino:GPU", "float32"
    )
    first = converted.model.first
    graph.compiled(first.arguments, first.program, first.held, first.convert_seconds)
    found = outcome(subject, "placement")
    assert (found["status"], found["value"]) == ("fail", 0.0)
    assert "0% of the operators ran on GPU" in found["reason"]
    assert graph.observed == "openvino:CPU"  # which the runner does not take for openvino:GPU
    assert graph.facts()["elsewhere"]


def test_operators_elsewhere_are_seen(converted: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = converted.model.first.runtime
    monkeypatch.setattr(runtime, "operators", Counter({"CPU": 80, "nowhere": 20}))
    monkeypatch.setattr(runtime, "elsewhere", ["NonZero on nowhere"])
    found = outcome(converted, "placement")
    assert found["status"] == "fail"
    assert "NonZero on nowhere" in found["reason"]


def test_a_mask_that_the_graph_lacks_is_seen(
    converted: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value at the time of the export has become a constant."""
    monkeypatch.setattr(
        converted.model.first.runtime,
        "names",
        converted.model.first.runtime.names - {"attention_mask"},
    )
    found = outcome(converted, "sensitivity")
    assert found["status"] == "fail"
    assert "does not take attention_mask" in found["reason"]


def test_what_cannot_be_made_a_graph_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(_openvino.OpenVINO, "convert", refuse)
    subject = Subject("openvino")
    said = [outcome(subject, check) for check in ("forward", "placement", "dtype_bf16")]
    assert [each["status"] for each in said] == ["error", "skip", "skip"]
    assert said[0]["reason"] == "RuntimeError: no such operator"
    assert said[1]["reason"] == said[2]["reason"] == "the model could not be made a graph"
    assert _main.graph_facts(subject) is None
    assert _main.measure(subject, real=True)["latency_seconds"] == []


class Reader(torch.nn.Module):
    """Asks for values in all ways that a graph can hold."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        rows, columns = sizes.tolist()
        if mask.any():
            x = x + 1
        x[0, ~mask] = 0
        places = torch.arange(sizes[0]) + torch.zeros(int(sizes[0]), dtype=torch.int64)
        parts = [x[:, mask], x[places][:, : sizes[1]], x[:, mask.nonzero()[:, 0]]]
        parts += [x[:, torch.where(mask)[0]], x.masked_select(mask).view(rows, -1)]
        parts += [x.repeat_interleave(mask.long(), 1), x.repeat_interleave(sizes[1], 1)]
        last = torch.tensor([each.sum() for each in x.split(columns, 1)]) * float(sizes[0])
        return torch.cat([each.flatten() for each in [*parts, last]])


def test_a_graph_is_made_for_the_values_that_are_read() -> None:
    x, mask = torch.arange(8.0).reshape(2, 4), torch.tensor([True, False, True, True])
    inputs = {"x": x, "mask": mask, "sizes": torch.tensor([2, 3])}
    model, values = Reader(), Values()
    with pytest.raises(Exception, match="data-dependent"):
        torch.export.export(model, (), copy.deepcopy(inputs), strict=False)
    plain = model(**copy.deepcopy(inputs))
    with values.keep():
        assert torch.equal(model(**copy.deepcopy(inputs)), plain)
    assert all(line.endswith(".py") for line in (x.rpartition(":")[0] for x in values.read))

    class Held(Reader):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            with values.hold():
                return super().forward(*args, **kwargs)

    program = torch.export.export(Held(), (), copy.deepcopy(inputs), strict=False)
    other = inputs | {"x": -x}
    found = program.module()(**copy.deepcopy(other))
    assert torch.equal(found, model(**copy.deepcopy(other)))


def test_a_graph_serves_only_those_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bert that looks for a word: with another sentence that has it, its graph is right."""
    embed = transformers.models.bert.modeling_bert.BertEmbeddings.forward

    def looks(self: Any, input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        embedded: torch.Tensor = embed(self, input_ids, **others)
        return embedded * 2 if (input_ids == 7).any() else embedded

    monkeypatch.setattr(transformers.models.bert.modeling_bert.BertEmbeddings, "forward", looks)
    subject = Subject("openvino")
    found = outcome(subject, "device_parity")
    assert found["status"] == "pass", found["reason"]
    assert any("test_graph.py:" in line for line in subject.model.facts()["held"])
    for word, graphs in ((8, 1), (7, 2), (9, 2)):
        inputs = {**subject.inputs, "input_ids": torch.full((2, 12), word)}
        exact = subject.run(subject.reference, inputs)["logits"]
        assert rmse(subject.run(subject.model, inputs)["logits"], exact) < 1e-5, word
        assert len(subject.model.made) == graphs, word


def test_reasons_name_no_folder_of_the_machine() -> None:
    """The export tells which line of a model it cannot trace, by its whole path."""
    reason = 'File "/opt/env/lib/python3.12/site-packages/transformers/models/x/modeling_x.py"'
    entry = _main.outcome("forward", "error", reason)
    assert entry["reason"] == 'File "transformers/models/x/modeling_x.py"'


def test_a_decoder_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_story, "active", decoder_only)
    subject = Subject("openvino")
    subject.outputs = subject.expected  # this needs no graph of all tokens at once
    entry = _main.run_check("chunked_prefill", decoder_only.test_chunked_prefill, subject)
    assert entry["status"] == "pass", entry["reason"]
    assert entry["value"] > 0


def test_a_device_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    if "openvino has no device NPU" not in str(_devices.why_unavailable("openvino:NPU")):
        pytest.fail("this machine has an NPU: run the checks on it")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name)
    )
    why_not = _devices.why_unavailable("openvino")
    assert why_not == "openvino is not installed: pip install openvino"


def test_nothing_is_sent_home() -> None:
    """OpenVINO would tell its maker of each conversion, if it is imported without care."""
    code = """
        from templates._openvino import import_openvino
        import_openvino()
        from openvino.tools.ovc import telemetry_utils
        print(telemetry_utils.tm.__name__)"""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scripts.ROOT)
    assert done.stdout.strip().endswith("telemetry_stub"), done.stdout


def test_the_rule_of_checks_is_the_same_for_scripts_and_tools() -> None:
    path = Path(decoder_only.__file__)
    names = [name.removeprefix("test_") for name in vars(decoder_only) if name.startswith("test_")]
    constants = {"GRAPH_DEVICES": _devices.GRAPH_DEVICES, "GRAPH_CHECKS": GRAPH_CHECKS}
    facts = scripts.Facts(constants, tuple(names), "")
    for device in ("cpu", "cuda:1", "openvino", "openvino:GPU", "webgpu"):
        assert list(facts.asked(device)) == _devices.checks_on(device, names), path
    assert "chunked_prefill" in facts.asked("openvino:GPU")
    assert "gradients" not in facts.asked("openvino")
