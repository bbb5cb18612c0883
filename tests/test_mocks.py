"""No stand-in passes for the real thing: each way to smuggle one in is a mock, or is refused."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place, a_record, check

from generator.registry import template_families
from tools import results, scripts

FIXED = scripts.ROOT / "fixed_tests"
BERT = FIXED / "test_hf_bert.py"
NAMES = ("torch", "transformers", "tokenizers", "pillow", "timm")
CHECKS = "forward,device_parity,golden"

# Each is code that runs before the script, in its process.
SABOTAGE = {
    "a fake torch in sys.modules": """
        from unittest.mock import MagicMock
        fake = MagicMock(); fake.__spec__ = MagicMock(); sys.modules["torch"] = fake
    """,
    "an empty torch in sys.modules": """
        import types; sys.modules["torch"] = types.ModuleType("torch")
    """,
    "a fake transformers in sys.modules": """
        from unittest.mock import MagicMock
        fake = MagicMock(); fake.__spec__ = MagicMock()
        sys.modules |= {"transformers": fake, "transformers.utils": fake.utils}
    """,
    "a stub of torch on the path": "sys.path.insert(0, stub('torch'))",
    "a stub of transformers on the path": "sys.path.insert(0, stub('transformers'))",
    "a forward that returns constants": """
        import torch; from transformers import BertForMaskedLM
        from transformers.modeling_outputs import MaskedLMOutput
        BertForMaskedLM.forward = lambda self, **_: MaskedLMOutput(logits=torch.ones(2, 12, 99))
    """,
    "the same, dressed up as the original": """
        import functools, torch; from transformers import BertForMaskedLM
        from transformers.modeling_outputs import MaskedLMOutput
        BertForMaskedLM.forward = functools.wraps(BertForMaskedLM.forward)(
            lambda self, **_: MaskedLMOutput(logits=torch.ones(2, 12, 99)))
    """,
    "a forward of one part": """
        from transformers.models.bert.modeling_bert import BertLayer
        BertLayer.forward = lambda self, hidden_states, *_, **__: hidden_states
    """,
    "a forward with the code of another function": """
        from transformers.models.bert.modeling_bert import BertLayer
        def forward(self, hidden_states, *args, **kwargs): return hidden_states
        BertLayer.forward.__wrapped__ = forward
        BertLayer.forward = forward
    """,
    "another class in the model's place": """
        import transformers
        class BertForMaskedLM(transformers.BertForMaskedLM): pass
        put(BertForMaskedLM)
    """,
    "another family in the model's place": """
        import transformers; put(transformers.BertLMHeadModel)
    """,
    "a class that lies about its module": """
        import torch, transformers
        class BertForMaskedLM(transformers.BertForMaskedLM):
            def forward(self, **_): return {"logits": torch.ones(2, 12, 99)}
        BertForMaskedLM.__module__ = "transformers.models.bert.modeling_bert"
        put(BertForMaskedLM)
    """,
    "outputs that depend on no input": """
        import torch; from transformers.models.bert.modeling_bert import BertEmbeddings
        code = compile("def forward(self, input_ids=None, **_): return self.word_embeddings("
                       "input_ids * 0)", sys.modules[BertEmbeddings.__module__].__file__, "exec")
        space = {}; exec(code, space); BertEmbeddings.forward = space["forward"]
    """,
    "outputs that depend on no weight": """
        import torch; from transformers import BertForMaskedLM
        text = "def forward(self, input_ids=None, **_): return {'logits': input_ids[..., None]}"
        code = compile(text, sys.modules[BertForMaskedLM.__module__].__file__, "exec")
        space = {}; exec(code, space); BertForMaskedLM.forward = space["forward"]
    """,
}

RUN = """
import sys, runpy, pathlib, tempfile
def stub(name):
    folder = pathlib.Path(tempfile.mkdtemp()); (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(
        "__version__ = '9.9.9'\\ndef __getattr__(name): return type(name, (), {})")
    return str(folder)
def put(model):
    for name in ("", ".models.bert", ".models.bert.modeling_bert"):
        vars(sys.modules["transformers" + name])["BertForMaskedLM"] = model
<code>
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(
    script: Path,
    folder: Path,
    *flags: str,
    code: str = "",
    python: str = sys.executable,
    **more: str,
) -> tuple[int, dict[str, Any], str]:
    """Exit code, record and output of `script` in a process of its own, behind `code`."""
    record = folder / "record.json"
    text = RUN.replace("<code>", textwrap.dedent(code))
    words = [python, "-c", text, str(script), "--device", "cpu", "--json", str(record), *flags]
    environment: Mapping[str, str] = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    found = results.read_record(record) if record.exists() else {}
    return done.returncode, dict(found), done.stdout + done.stderr


@pytest.mark.parametrize("way", SABOTAGE)
def test_what_is_smuggled_in_is_a_mock(tmp_path: Path, way: str) -> None:
    code, record, said = run(BERT, tmp_path, "--checks", CHECKS, code=SABOTAGE[way])
    assert (code, record.get("inference")) == (3, "mock"), said
    assert {each["status"] for each in record["checks"]} == {"mock"}
    assert record["proof"] is None
    assert "MOCK" in said
    assert "REAL" not in said


def test_the_real_thing_is_proven(tmp_path: Path) -> None:
    code, record, said = run(BERT, tmp_path, "--checks", CHECKS, "--require-real")
    assert (code, record["inference"]) == (0, "real"), said
    assert record["proof"]["class"] == "transformers.models.bert.modeling_bert.BertForMaskedLM"
    assert record["proof"]["executed"] > 0.9
    assert "REAL" in said


def test_a_module_laid_over_the_installed_one_is_real(tmp_path: Path) -> None:
    code = f"""
        import importlib.util
        name = "transformers.models.bert.modeling_bert"
        source = pathlib.Path(importlib.util.find_spec("transformers").origin).parent
        source = source / "models/bert/modeling_bert.py"
        file = pathlib.Path({str(tmp_path)!r}) / "mine.py"; file.write_text(source.read_text())
        class Overlay:
            def find_spec(self, wanted, path=None, target=None):
                if wanted == name:
                    return importlib.util.spec_from_file_location(name, file)
        sys.meta_path.insert(0, Overlay())
    """
    code, record, said = run(BERT, tmp_path, "--checks", CHECKS, code=code)  # type: ignore[assignment]
    assert (code, record["inference"]) == (0, "real"), said
    assert record["proof"]["origin"] == "overlay"
    assert record["proof"]["file"].endswith("mine.py")


@pytest.mark.parametrize("hidden", [*itertools.combinations(NAMES, 1), NAMES])
def test_what_is_hidden_is_missed_by_what_needs_it(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    assert_consistent(BERT, tmp_path, hidden)


def assert_consistent(script: Path, folder: Path, hidden: tuple[str, ...]) -> None:
    """The script says of each hidden package that it is absent, and is a mock where it must be."""
    variables = {f"MOCK_{name.upper()}": "1" for name in hidden}
    code, record, said = run(script, folder, "--checks", "forward", **variables)
    mock = not {"torch", "transformers", "tokenizers"}.isdisjoint(hidden)
    assert record, said
    assert (record["inference"] == "mock") == mock, said
    assert (code == 3) == mock, said
    assert ("MOCK" in said, "REAL" in said) == (mock, not mock)
    packages = record["environment"]["packages"]
    assert [name for name in hidden if packages[name] is not None] == []
    if mock:
        assert set(record["missing"]) >= {name for name in hidden if name not in ("pillow", "timm")}
        assert record["measurements"]["latency_seconds"] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(template_families(scripts.ROOT / "templates").values()))
def test_all_combinations_for_a_family_of_each_architecture(tmp_path: Path, family: str) -> None:
    for count in range(1, len(NAMES) + 1):
        for hidden in itertools.combinations(NAMES, count):
            assert_consistent(FIXED / f"test_hf_{family}.py", tmp_path, hidden)


def test_a_mock_may_be_an_error(tmp_path: Path) -> None:
    code, record, _ = run(BERT, tmp_path, "--require-real", MOCK_TORCH="1")
    assert (code, record["inference"]) == (1, "mock")
    assert {each["status"] for each in record["checks"]} == {"error"}


def test_in_real_environments_without_the_packages(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False, symlinks=True)
    python = str(bare / "bin" / "python")
    code, record, said = run(BERT, tmp_path, python=python)
    assert (code, record["inference"]) == (3, "mock"), said
    assert set(record["missing"]) >= {"torch", "transformers"}
    import torch

    [site] = (bare / "lib").glob("python*/site-packages")
    installed = Path(torch.__file__).parent.parent
    for hidden, missing in (("transformers", ["transformers"]), ("torch", ["torch"])):
        for entry in site.iterdir():
            entry.unlink()
        for entry in installed.iterdir():  # as if only the others were installed
            if entry.name.split("-")[0] != hidden and entry.suffix not in (".pth", ".py"):
                (site / entry.name).symlink_to(entry)
        code, record, said = run(BERT, tmp_path, "--checks", "forward", python=python)
        assert (code, record["missing"]) == (3, missing), said


def test_colours_are_for_terminals_and_signs_for_those_who_have_them(tmp_path: Path) -> None:
    said = run(BERT, tmp_path, MOCK_TORCH="1", PYTHONIOENCODING="ascii")[2]
    assert said.startswith("* MOCK  BertForMaskedLM")
    said = run(BERT, tmp_path, MOCK_TORCH="1", PYTHONIOENCODING="utf-8")[2]
    assert said.startswith("🔷 MOCK  BertForMaskedLM")
    assert "\033" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inference": "real"}, "proof|mock"),
        ({"inference": "real", "checks": [check("forward")]}, "was changed|is not valid"),
        ({"seconds": 0.5}, "was changed after it was written: its seal is broken"),
    ],
)
def test_an_edited_record_is_refused(place: Place, changes: dict[str, Any], message: str) -> None:
    mock = a_record("alpha", check("forward", "mock"), inference="mock", missing=["torch"])
    path = place.write_run([mock]) / "alpha-cpu.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    [problem] = place.run().problems
    assert isinstance(problem, results.BrokenRecord)


def test_a_record_without_a_seal_or_of_another_script_is_refused(place: Place) -> None:
    folder = place.write_run([a_record("alpha"), a_record("beta")])
    old = json.loads((folder / "alpha-cpu.json").read_text())
    del old["seal"]
    (folder / "alpha-cpu.json").write_text(json.dumps(old))
    foreign = json.loads((folder / "beta-cpu.json").read_text())
    foreign["script"] = {"name": "test_hf_beta.py", "sha256": "1" * 64}
    (folder / "beta-cpu.json").write_text(json.dumps(foreign))
    kinds = {problem.path.stem: type(problem) for problem in place.run().problems}
    assert kinds == {"alpha-cpu": results.BrokenRecord, "beta-cpu": results.BrokenRecord}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
