"""A template and an entry make a script: what it looks like, that it runs, and what is refused."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import black
import pytest

from generator import registry
from generator.registry import DIRECTORY, TEMPLATES
from generator.render import render
from generator.source import TemplateError
from generator.sync import SCRIPTS
from generator.transform import STYLE, literal
from tests.generator_fixtures import GOLDEN, scripts

ROOT = Path(__file__).parents[1]
FAMILIES = registry.template_families()
LINES_OF_STORY, LINES_OF_SCRIPT = 250, 2950  # of the latter the aim is 450
# Configurations of several models in one, inputs of three kinds, layers of many kinds, sessions.
LONGER = {  # their configurations hold several models, with many switches
    "cohere_compass", "cosmos3_omni", "deepseek_ocr2", "deepseek_vl_hybrid", "dots3_note",
    "edgetam_video", "ernie4_5_vl_moe", "esmfold2", "gemma3n", "gemma4", "gemma4_unified",
    "glm46v", "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "granite4_vision", "inkling",
    "lfm3_vl", "minicpmv4_7", "minimax_m3_vl", "molmo2",
    "muse_spark", "nemotron3_5_asr", "nemotron3_5_transcribe", "nemotron_asr_streaming",
    "nemotron_h_omni", "omdet_turbo", "oneformer", "pe_audio_video", "phi4_multimodal",
    "qwen2_5_omni", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl",
    "qwen3_vl_moe", "qwen4_exp", "rag", "sam2_video", "sam3_tracker_video", "unlimited_ocr",
}  # fmt: skip


@pytest.fixture(scope="module")
def references() -> dict[str, str]:
    """Architecture -> the script that its template makes for the family it was written for."""
    made = render(registry.load(), FAMILIES.values())
    return {name: made[f"test_hf_{family}.py"] for name, family in FAMILIES.items()}


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# --- what a script looks like ---------------------------------------------------------------------


def test_the_scripts_are_those_that_were_approved(tmp_path: Path) -> None:
    made = {f"test_hf_{family}.py": text for family, text in scripts(tmp_path).items()}
    stored = {path.name: path.read_text("utf-8") for path in GOLDEN.glob("test_hf_*.py")}
    assert made == stored, "if they are better now: `python -m tests.generator_fixtures`"


def test_what_is_not_reached_is_left_out(tmp_path: Path) -> None:
    made = scripts(tmp_path)
    for needed in ("def test_loss", "def halved", "def test_golden", "import copy", "LARGE = "):
        assert needed in made["bert"]
        assert needed not in made["roberta"]
    for never in ("spread", "import numpy", "ALL_OUTPUTS", "SLOTS", "templates._", "story.F"):
        assert never not in "".join(made.values())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_template_is_the_story_of_its_own_script(
    architecture: str, references: dict[str, str]
) -> None:
    def definitions(text: str) -> dict[str, str]:
        parts: dict[str, str] = {"docstring": str(ast.get_docstring(ast.parse(text)))}
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                parts[node.name] = ast.unparse(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                parts[ast.unparse(target)] = ast.unparse(node)
        return parts

    path = TEMPLATES / f"{architecture}.py"
    written, made = definitions(path.read_text("utf-8")), definitions(references[architecture])
    differing = [name for name in written if written[name] != made.get(name, written[name])]
    for name in differing:
        print(f"{path.name} has\n{written[name]}\nand the registry makes\n{made[name]}\n")
    assert not differing, f"make {path.name} agree with {DIRECTORY.name}/{architecture}.toml"


def test_a_script_is_not_longer_than_it_may_be() -> None:
    longer = {}
    for path in SCRIPTS.glob("test_hf_*.py"):
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= LINES_OF_SCRIPT
        story = next(i for i, line in enumerate(lines) if line.startswith("# ---"))
        if story > LINES_OF_STORY:
            longer[path.stem.removeprefix("test_hf_")] = story
    assert longer.keys() <= LONGER, longer


def test_a_script_needs_no_linter(references: dict[str, str], tmp_path: Path) -> None:
    for architecture, text in references.items():
        (tmp_path / f"test_{architecture}.py").write_text(text, "utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = call(tmp_path, "-m", "ruff", "check", "--no-cache", ".")
    assert result.returncode == 0, result.stdout + result.stderr
    for architecture in ("encoder_only", "vision_language"):
        assert black.format_str(references[architecture], mode=STYLE) == references[architecture]


# --- that it runs alone ---------------------------------------------------------------------------


def test_an_approved_script_runs_alone(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "test_hf_bert.py", tmp_path)
    result = call(tmp_path, "test_hf_bert.py")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_script_runs_alone(references: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_hf_bert.py").write_text(references["encoder_only"], "utf-8")
    options = ["--device", "cpu", "--checks", "forward,golden", "--json", "record.json"]
    result = call(tmp_path, "test_hf_bert.py", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert [(check["name"], check["status"]) for check in record["checks"]] == [
        ("forward", "pass"),
        ("golden", "pass"),
    ]


def test_a_script_says_what_is_missing(references: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_hf_bert.py").write_text(references["encoder_only"], "utf-8")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')", "utf-8")
    result = call(tmp_path, "test_hf_bert.py")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "MOCK" in result.stdout


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": ('"Bert": "title"', '"Bort": "title"')}, r"nothing uses the slot 'Bort'"),
        ({"encoder": ('"Bert": "title"', '"FAMLY": "family"')}, r"'FAMLY' \(did you mean 'FAMILY'"),
        ({"encoder": ('"golden"', '"goldn"')}, r"'GOLDEN': the registry has no 'goldn' .*'golden'"),
        ({"encoder": ("constants.steps", "constants.step")}, r"has no 'constants.step' of bert"),
        (
            {"toml": ("steps =", "steps = [1]\nwidth =")},
            r"no slot takes 'width' of \[bert.constants",
        ),
        (
            {"encoder": ('"Bert": "title"', '"Test of Bert": "title", "Bert: does": "title"')},
            r"the slots 'Test of Bert' and 'Bert: does' overlap",
        ),
        (
            {"encoder": ("return BertConfig(hidden_size=32, num_attention_heads=4)", "pass")},
            r"slot 'build_config' is neither a constant nor a function that ends in return",
        ),
        ({"encoder": ("MISSING", "LACKING")}, r"does not define MISSING"),
        ({"encoder": ("SLOTS = ", "SLOT = ")}, r"does not define SLOTS"),
        ({"encoder": ("halved(DOUBLED", "halfed(DOUBLED")}, r"halfed is defined nowhere .*'halv"),
        (
            {"main": ("if story.MISSING", "if story.LACKING")},
            r"_main.py: LACKING is defined",
        ),
        ({"main": ("if story.MISSING", "if story")}, r"_main.py: story is defined nowhere"),
        ({"main": ("def result", "def main")}, r"_main.py: defines main twice"),
        ({"main": ("def result", "def (result")}, r"_main.py: .*[Ee]rror"),
        ({"main": ("result", "noise")}, r"noise is another one than in _\w+"),
        (
            {"main": ("from typing import Any", "from secrets import Any")},
            r"Any is imported from",
        ),
        ({"main": ("from typing import Any", "Any = 3")}, r"Any is imported, and defined in _main"),
        (
            {"encoder": ("DOUBLED = tuple(", "DOUBLED = mask((1,), 1), tuple(")},
            r"mask is needed to define the story, but stands behind it",
        ),
        ({"main": ("import sys", "import sys as system")}, r"_main.py: imports sys as system"),
        (
            {"main": ("def main(", "print(3)\n\n\ndef main(")},
            r"nothing by 'print\(3\)'",
        ),
        (
            {"main": ("def main(", "if sys:\n    pass\n\n\ndef main(")},
            r"nothing by 'if sys:'",
        ),
        ({"toml": ('"RoBERTa"', '\'Ro"""BERTa\'')}, r"makes test_hf_roberta.py wrong: "),
        (
            {"main": ("        return 3", "        break")},
            r"bert.py wrong: 'break' outside",
        ),
        (
            {"encoder": ("Two rows for", "Two rows (BERT) for")},
            r"leaves 'BERT' of bert in test_hf_roberta.py, line \d+",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, tuple[str, str]], message: str
) -> None:
    with pytest.raises(TemplateError, match=message) as error:
        scripts(tmp_path, **change)
    assert re.match(r"templates/\w+\.py: ", str(error.value))


def test_a_name_that_is_the_familys_too_may_stay(tmp_path: Path) -> None:
    change = {
        "encoder": ("Two rows for", "Two rows (BERT) for"),
        "toml": ('"takes no labels"', '"unlike BERT it takes no labels"'),
    }
    assert "(BERT)" in scripts(tmp_path, **change)["roberta"]


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (None, "None"),
        (True, "True"),
        (1e-05, "1e-05"),
        (float("-inf"), 'float("-inf")'),
        ("config.a", "'config.a'"),
        ([1], "(1,)"),
        ([[1, "a"], []], "((1, 'a'), ())"),
        ({"a": [2, 3]}, "{'a': (2, 3)}"),
        ({"class": "A", "b": {"class": "B"}}, "A(b=B(),)"),
    ],
)
def test_values_become_literals(value: Any, source: str) -> None:
    assert literal(value) == source


def test_expressions_of_the_configuration_stay_so() -> None:
    value = ["config.a.b // 2", "3 * config.a ** 2", "config", "config.a / 2", "os.remove"]
    source = "(config.a.b // 2, 3 * config.a ** 2, 'config', 'config.a / 2', 'os.remove')"
    assert literal(value, of_config=True) == source


# --- who may import whom --------------------------------------------------------------------------


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {start + alias.name for alias in node.names}
    return names


THIRD_PARTY = {"torch", "transformers", "numpy", "pytest"}
RUNTIMES = {"openvino", "onnx_ir", "playwright"}  # of devices, imported where they are asked for


def imported_at_once(path: Path) -> set[str]:
    """The packages that a file imports when it is imported itself."""
    module = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    found = (node for node in ast.walk(module) if isinstance(node, (ast.Import, ast.ImportFrom)))
    names = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in found]
    return {str(name).partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "fixed_tests").glob("*.py")), ids=lambda p: p.name)
def test_a_script_imports_nothing_of_this_repository(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imported(path)}
    assert packages <= THIRD_PARTY | RUNTIMES | sys.stdlib_module_names
    assert not RUNTIMES & imported_at_once(path)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.py")), ids=lambda p: p.name)
def test_a_template_imports_only_what_templates_share(path: Path) -> None:
    others = {name for name in imported(path) if not name.startswith("templates._")}
    packages = {name.partition(".")[0] for name in others}
    assert packages <= THIRD_PARTY | RUNTIMES | sys.stdlib_module_names
    assert not RUNTIMES & imported_at_once(path)


def test_generator_and_tools_do_not_know_each_other() -> None:
    for path in (ROOT / "generator").rglob("*.py"):
        assert not [name for name in imported(path) if name.startswith("tools")], path
    for path in (ROOT / "tools").rglob("*.py"):
        names = {name for name in imported(path) if name.startswith(("generator", "templates"))}
        shared = ("templates._devices", "templates._browser")
        assert all(name.startswith(shared) for name in names), path
