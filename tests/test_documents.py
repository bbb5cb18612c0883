"""What documents say to type works: all of it parses, what takes seconds is run, examples too."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import nox.registry
import pytest

from tools.environment import OWN_PYTHON
from tools.scripts import ROOT

NAMES = [str(path.relative_to(ROOT)) for path in commands.documents()]
Shell = Callable[[str], str]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_taken_by_what_they_call(name: str) -> None:
    for block in commands.blocks(ROOT / name):
        for line in block:
            commands.understand(line)
    for span in commands.spans(ROOT / name):
        if named := re.fullmatch(r"nox -s ([a-z_ ]+)", span):  # which may want arguments
            assert set(named[1].split()) <= set(nox.registry.get()), span
        else:
            commands.understand(span)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a line of a document in a copy of this repository, whose folder is `shell.folder`."""
    folder = tmp_path / "proving-ground"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        OWN_PYTHON: sys.executable,
        **{
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "a"), ("EMAIL", "a@b"))
        },
    }

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", line],
            cwd=folder,
            env={**os.environ, **variables},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    run.folder = folder  # type: ignore[attr-defined]
    run("git init --quiet --initial-branch=main && git add . && git commit --quiet --message copy")
    return run


def section(title: str) -> list[str]:
    """The numbered steps below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    body = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.split(r"^\d\. ", body, flags=re.MULTILINE)[1:]


def block(step: str) -> str:
    """The code in a step."""
    [(_, code)] = commands.FENCE.findall(step)
    return textwrap.dedent(code)


def typed(step: str) -> list[str]:
    """The commands in a step."""
    return [
        span for span in re.findall(r"`([^`\n]+)`", step) if re.match(r"(nox|python|git) ", span)
    ]


QUICK = (
    "python fixed_tests/test_hf_bert.py",
    "pytest fixed_tests/test_hf_bert.py",
    "python -m templates.encoder_only",
    *(f"nox -s {name}" for name in ("combine", "devices", "history", "publish")),
    "nox -s matrix -- --device cpu --shard",
    "nox -s regenerate -- bert",
)
"""What commands that take seconds begin with, where there are two families and few runs."""
NOT_HERE = ("webgpu", "webnn", "cuda", "--bundle")


@pytest.mark.slow
def test_commands_that_take_seconds_run(shell: Any) -> None:
    """Those of all documents, in their order, where bert and gpt2 are all families."""
    for script in shell.folder.glob("fixed_tests/test_hf_*.py"):
        if script.stem not in ("test_hf_bert", "test_hf_gpt2"):
            script.unlink()
    (shell.folder / "tools/expectations.toml").write_text("")
    (shell.folder / "parts").symlink_to("results")
    names = ["docs/quickstart.md", "docs/matrix.md", *NAMES]  # which make the first runs
    blocks = [block for name in names for block in commands.blocks(ROOT / name)]
    lines = dict.fromkeys(line for block in blocks for line in block)
    quick = [
        line
        for line in lines
        if line.startswith(QUICK) and not any(word in line for word in NOT_HERE)
    ]
    assert len(quick) > 12
    for line in quick:
        shell(line)
    assert "bert" in (shell.folder / "compatibility_reports/README.md").read_text()


@pytest.mark.slow
def test_the_example_of_an_override(shell: Any) -> None:
    see, open_it, add, discover, review, render, commit = section("Add what you know of a family")
    shell(*typed(see))
    file = shell.folder / "generator/overrides/encoder_only.toml"
    assert f"`{file.relative_to(shell.folder)}`" in open_it
    script = shell.folder / "fixed_tests/test_hf_canine.py"
    assert f"\n# and [canine] of generator/registry/{file.name};" in script.read_text()
    file.write_text(f"{file.read_text()}\n{block(add)}")
    shell(*typed(discover))
    assert "+num_hash_buckets = 31" in shell(*typed(review))
    for step in (render, commit):
        for line in typed(step):
            shell(line)
    assert "num_hash_buckets=31" in script.read_text()


BROKEN = """
from templates import _main, _story, _subject, encoder_only
from transformers.models.bert.modeling_bert import BertEmbeddings
_story.active, real = encoder_only, BertEmbeddings.forward
def broken(self, input_ids, **others):  # reads the memory as it lies
    return real(self, input_ids.as_strided(input_ids.shape, (12, 1)), **others)
BertEmbeddings.forward = broken
subject = _subject.Subject("cpu", seed=encoder_only.SEED)
_main.run_check("strides", encoder_only.test_strides, subject)
"""


@pytest.mark.slow
def test_the_example_of_a_check(shell: Any) -> None:
    write, _, _, run, *_ = section("Add a check")
    basics = shell.folder / "templates/_basics.py"
    basics.write_text(f"{basics.read_text()}\n\n{block(write)}")
    for name, before, new in (
        ("templates/encoder_only.py", "    test_tying,\n", "    test_strides,\n"),
        ("generator/registry.py", '    "isolation",\n', '    "strides",\n'),
    ):
        path = shell.folder / name
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, new + before))
    assert re.search(r"pass +strides .*1 of 1 checks passed", shell(*typed(run)), re.DOTALL)
    assert re.search(r"fail +strides .*strided inputs", shell(f"python -c {shlex.quote(BROKEN)}"))
    shell("nox -s discover -- bert")
    registry = (shell.folder / "generator/registry/encoder_only.toml").read_text()
    assert '\nstrides = "every encoder_only model"\n' in registry
