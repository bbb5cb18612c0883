"""No stand-in passes for the real thing: each way to smuggle one in is a mock, or is refused."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place, a_record, check

from generator.registry import template_families
from tools import results, scripts
from tools.parent import WARM
from tools.processes import Call, Limits, Processes

FIXED = scripts.ROOT / "fixed_tests"
BERT = FIXED / "test_hf_bert.py"
NAMES = ("torch", "transformers", "tokenizers", "pillow", "timm")
NEEDED = {"torch", "transformers", "tokenizers"}  # by all scripts
# Of each two packages every one of the four cases, here or there, occurs in one of these.
PAIRWISE: tuple[tuple[str, ...], ...] = (
    (),
    ("torch", "transformers", "tokenizers", "pillow"),
    ("torch", "transformers", "pillow"),
    ("torch", "tokenizers", "timm"),
    ("transformers", "tokenizers", "timm"),
    ("pillow", "timm"),
)
CHECKS = "forward,device_parity,golden"

# Each is code that runs before the script, in its process: what takes the packages' places …
STAND_INS = {
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
}

# … and what takes the model's.
SABOTAGE = {
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
    "a call that does without the forward": """
        import torch; from transformers import BertForMaskedLM
        from transformers.modeling_outputs import MaskedLMOutput
        BertForMaskedLM.__call__ = lambda self, **_: MaskedLMOutput(logits=torch.ones(2, 12, 99))
    """,
    "a hook that replaces the outputs": """
        import torch; from transformers import BertForMaskedLM
        def made(self, *args, _old=BertForMaskedLM.__init__, **kwargs):
            _old(self, *args, **kwargs)
            self.register_forward_hook(lambda _, __, out: {"logits": torch.ones(2, 12, 99)})
        BertForMaskedLM.__init__ = made
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


class Warm:
    """Runs programs in children of processes that have imported torch and transformers already.

    Such a process hides from its start what decides what transformers imports.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, dict[tuple[str, ...], Processes]()

    def run(self, program: Path, arguments: list[str], hidden: tuple[str, ...]) -> tuple[int, str]:
        """The exit code and the output of a program that hides what is `hidden`."""
        optional = tuple(name for name in hidden if name not in NEEDED)
        if optional not in self._known:
            self._known[optional] = self._start(optional)
        log = program.with_suffix(".log")
        call = Call(program, arguments, program.parent, log, timeout=300)
        ended = self._known[optional].run(call)
        assert ended
        return ended.exit_code, log.read_text("utf-8")

    def _start(self, hidden: tuple[str, ...]) -> Processes:
        # torchvision does not come through a failed import unharmed, and Pillow is what it needs.
        modules = [name for name in WARM if name.split(".")[0] not in (*hidden, "torchvision")]
        folder = self._folder / "-".join(("without", *hidden))
        folder.mkdir()
        names = [name.replace("pillow", "PIL") for name in hidden]
        (folder / "hiding.py").write_text(f"import sys; sys.modules |= dict.fromkeys({names})")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)}
        return Processes("warm", Limits(1, None), environment, ["hiding", *modules])

    def stop(self) -> None:
        """End them all."""
        for each in self._known.values():
            each.stop()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    processes = Warm(tmp_path_factory.mktemp("warm"))
    yield processes
    processes.stop()


def run(
    script: Path,
    folder: Path,
    *flags: str,
    code: str = "",
    hidden: tuple[str, ...] = (),
    python: str = sys.executable,
    warm: Warm | None = None,
    **more: str,
) -> tuple[int, dict[str, Any], str]:
    """Exit code, record and output of `script` in a process of its own, behind `code`."""
    record, program = folder / "record.json", folder / "run.py"
    record.unlink(missing_ok=True)
    variables = {f"MOCK_{name.upper()}": "1" for name in hidden}
    before = f"import os; os.environ |= {variables}\n{textwrap.dedent(code)}"
    program.write_text(RUN.replace("<code>", before))
    arguments = [str(script), "--device", "cpu", "--json", str(record), *flags]
    if warm:
        exit_code, said = warm.run(program, arguments, hidden)
    else:
        environment: Mapping[str, str] = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
        done = subprocess.run(
            [python, str(program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
        )
        exit_code, said = done.returncode, done.stdout + done.stderr
    return exit_code, dict(results.read_record(record)) if record.exists() else {}, said


@pytest.mark.parametrize("way", STAND_INS)
def test_what_takes_the_place_of_a_package_is_a_mock(tmp_path: Path, way: str) -> None:
    assert_mock(*run(BERT, tmp_path, "--checks", CHECKS, code=STAND_INS[way]))


@pytest.mark.parametrize("way", SABOTAGE)
def test_what_takes_the_place_of_the_model_is_a_mock(tmp_path: Path, warm: Warm, way: str) -> None:
    assert_mock(*run(BERT, tmp_path, "--checks", CHECKS, code=SABOTAGE[way], warm=warm))


def assert_mock(code: int, record: dict[str, Any], said: str) -> None:
    """The script says in each way that it has that it was a mock."""
    assert (code, record.get("inference")) == (3, "mock"), said
    assert {each["status"] for each in record["checks"]} == {"mock"}
    assert record["proof"] is None
    assert record["measurements"]["latency_seconds"] == []
    assert ("MOCK" in said, "REAL" in said) == (True, False)


def test_the_real_thing_is_proven(tmp_path: Path) -> None:
    code, record, said = run(BERT, tmp_path, "--checks", CHECKS, "--require-real")
    assert (code, record["inference"]) == (0, "real"), said
    assert record["proof"]["class"] == "transformers.models.bert.modeling_bert.BertForMaskedLM"
    assert record["proof"]["executed"] > 0.9
    assert "REAL" in said


UNSOUND = """
    from transformers.models.bert.modeling_bert import BertEmbeddings
    def weak(weight): raise ArithmeticError("the weights are too small")
    def forward(self, *args, _old=BertEmbeddings.forward, **kwargs):
        weight = self.word_embeddings.weight
        self.most = max(getattr(self, "most", 0.0), weight.abs().max().item())
        return weak(weight) if weight.abs().max() < 0.6 * self.most else _old(self, *args, **kwargs)
    space = {"_old": BertEmbeddings.forward, "weak": weak}
    file = sys.modules[BertEmbeddings.__module__].__file__
    exec(compile("def forward(self, *a, **k): return inner(self, *a, **k)", file, "exec"), space)
    space["inner"] = forward
    BertEmbeddings.forward = space["forward"]
"""


def test_a_failure_of_the_proof_is_told(tmp_path: Path, warm: Warm) -> None:
    code, record, said = run(BERT, tmp_path, "--checks", "forward", code=UNSOUND, warm=warm)
    assert (code, record["inference"]) == (1, "real"), said
    assert record["proof"] == {"failure": "ArithmeticError: the weights are too small"}
    assert record["checks"][0]["status"] == "error"
    assert "passes, but the model is not shown to be real: Arith" in record["checks"][0]["reason"]
    assert "not shown to be real: ArithmeticError" in said


def test_a_module_laid_over_the_installed_one_is_real(tmp_path: Path, warm: Warm) -> None:
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
    exit_code, record, said = run(BERT, tmp_path, "--checks", CHECKS, code=code, warm=warm)
    assert (exit_code, record["inference"]) == (0, "real"), said
    assert record["proof"]["origin"] == "overlay"
    assert record["proof"]["file"].endswith("mine.py")


@pytest.mark.parametrize("hidden", [*itertools.combinations(NAMES, 1), NAMES])
def test_what_is_hidden_is_missed_by_what_needs_it(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    assert_consistent(hidden, run(BERT, tmp_path, "--checks", "forward", hidden=hidden))


def assert_consistent(
    hidden: tuple[str, ...], found: tuple[int, dict[str, Any], str], usual: str = "pass"
) -> str:
    """The script says of each hidden package that it is absent, and is a mock where it must be.

    Else its check ends as it `usual`ly does, or is skipped for want of what is hidden.
    """
    code, record, said = found
    mock = not NEEDED.isdisjoint(hidden)
    if mock:
        assert_mock(*found)
        assert set(record["missing"]) >= NEEDED & set(hidden)
    else:
        assert (code != 3, record.get("inference")) == (True, "real"), said
        assert ("MOCK" in said, "REAL" in said) == (False, True)
    packages = record["environment"]["packages"]
    assert [name for name in hidden if packages[name] is not None] == []
    [only] = record["checks"]
    if only["status"] == "skip" != usual:
        assert any(name in only["reason"] for name in hidden), said
    elif not mock:
        assert only["status"] == usual, said
    return str(only["status"])


REFERENCES = sorted(template_families(scripts.ROOT / "templates").values())


@pytest.mark.slow
@pytest.mark.parametrize("family", REFERENCES)
def test_all_combinations_for_a_family_of_each_architecture(
    tmp_path: Path, warm: Warm, family: str
) -> None:
    combined = (itertools.combinations(NAMES, count) for count in range(len(NAMES) + 1))
    assert_all_consistent(family, [*itertools.chain(*combined)], tmp_path, warm)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({*scripts.find(FIXED)} - {*REFERENCES}))
def test_combinations_of_two_for_all_other_families(
    tmp_path: Path, warm: Warm, family: str
) -> None:
    assert_all_consistent(family, PAIRWISE, tmp_path, warm)


def assert_all_consistent(
    family: str, combinations: Sequence[tuple[str, ...]], folder: Path, warm: Warm
) -> None:
    """Of the `combinations` the first hides nothing, and shows how the check ends."""
    usual = None
    for hidden in combinations:
        script = FIXED / f"test_hf_{family}.py"
        found = run(script, folder, "--checks", "forward", hidden=hidden, warm=warm)
        usual = usual or found[1]["checks"][0]["status"]
        assert_consistent(hidden, found, usual)


def test_combinations_of_two_are_complete() -> None:
    for pair in itertools.combinations(NAMES, 2):
        assert {tuple(name in row for name in pair) for row in PAIRWISE} == {
            *itertools.product((False, True), repeat=2)
        }, pair


@pytest.mark.slow
def test_all_scripts_run_as_mocks(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.scripts = FIXED
    assert place.matrix("--mock", runner="warm") == 0
    run = place.run()
    assert run.complete
    families = [*scripts.find(FIXED)]
    assert [*run.records] == [f"{family}-cpu" for family in families]
    for name, record in run.records.items():
        assert (record["inference"], record["proof"]) == ("mock", None), name
        assert {each["status"] for each in record["checks"]} == {"mock"}, name
        assert {"torch", "transformers"} <= {*record["missing"]}, name
        assert record["measurements"]["latency_seconds"] == [], name
    assert place.query("SELECT family FROM mocks ORDER BY ALL") == [(f,) for f in sorted(families)]
    assert place.query("SELECT * FROM records") == []


def test_a_mock_may_be_an_error(tmp_path: Path) -> None:
    code, record, _ = run(BERT, tmp_path, "--require-real", MOCK_TORCH="1")
    assert (code, record["inference"]) == (1, "mock")
    assert {each["status"] for each in record["checks"]} == {"error"}


def test_where_all_but_one_package_is_there(tmp_path: Path) -> None:
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


ALL = ("torch", "transformers", "numpy", "tokenizers", "safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("installed", "missing"),
    [
        ((), ALL),
        (("torch==2.13.0+cpu",), ALL[1:]),
        ((f"transformers=={importlib.metadata.version('transformers')}",), ALL[:1]),
    ],
    ids=["nothing", "torch", "transformers"],
)
def test_in_what_pip_has_installed(
    tmp_path: Path, installed: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    if installed:
        command = [python, "-m", "pip", "install", "--quiet", *installed]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if "No matching distribution" in done.stderr:
            pytest.skip(f"no index that pip knows here has {installed[0]}")
        assert done.returncode == 0, done.stderr
    for family in ("bert", "timm_wrapper", "llava"):
        code, record, said = run(FIXED / f"test_hf_{family}.py", tmp_path, python=python)
        assert_mock(code, record, said)
        assert tuple(name for name in record["missing"] if name in ALL) == missing
        there = {name: record["environment"]["packages"][name] for name in ALL}
        assert tuple(name for name in ALL if there[name] is None) == missing
        for name, version in (each.split("==") for each in installed):
            assert there[name] == version


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
