"""Commands in documents and workflows: where they stand, and whether what they call takes them.

Nothing is run but `make -n`: a session of Nox says what it would run, and the program that would
get its arguments reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nox.registry

import noxfile
import tools.__main__
from templates import _main, _story
from tools import scripts
from tools.scripts import ROOT

OTHERS = ("cd", "git", "grep", "install", "kubectl", "npm", "pip", "ray", "ssh", "tee", "uv")
OTHER_MODULES = ("http.server", "pip", "pre_commit")
"""Programs that are not of this repository: what they take is theirs to say."""

PLACEHOLDERS = {"<family>": "bert", "<module>": "setup", " …": "", "--clean N": "--clean 1"}
ADDED = "strides"  # the check that CONTRIBUTING.md adds
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:nox|make|python|pytest|\.nox/env/bin/python)(?: |$)")


def documents() -> list[Path]:
    """The Markdown that is written by hand."""
    found = [*ROOT.glob("[!L]*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]
    found += ROOT.glob("generator/*/README.md")
    return [path for path in found if not path.parent.name.endswith("_reports")]


def blocks(document: Path) -> Iterator[list[str]]:
    """The commands of each block that is for a console."""
    for language, block in FENCE.findall(document.read_text("utf-8")):
        if language == "console":
            joined = block.replace("\\\n", "")
            lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in joined.splitlines())
            yield [line for line in lines if line]


def spans(document: Path) -> list[str]:
    """The commands in sentences and tables."""
    found = re.findall(r"`([^`\n]+)`", FENCE.sub("", document.read_text("utf-8")))
    return [each for each in found if COMMAND.match(each)]


def understand(line: str) -> list[str]:
    """Have all that `line` calls read its arguments; gives back the sessions of Nox among it.

    Errors: AssertionError where there is no such program, session, file or argument.
    """
    for old, new in PLACEHOLDERS.items():
        line = line.replace(old, new)
    line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|")
    lexer.whitespace_split = True
    found = []
    for joined, part in itertools.groupby(lexer, lambda word: set(word) <= set("&|")):
        words = [] if joined else [*part]
        while words and (words[0] == "time" or re.fullmatch(r"\w+=.*", words[0])):
            del words[0]
        if words:
            found += _understand(words)
    return found


def _understand(words: Sequence[str]) -> list[str]:
    program, *arguments = words
    if program == "make":
        command = ["make", "--dry-run", "--old-file=.venv/ready", *arguments]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        calls = re.findall(r"-m (nox .*)", done.stdout)
        return [name for call in calls for name in understand(call)]
    if program == "nox":
        return _sessions(arguments)
    if program == "pytest":
        _read_by_pytest(arguments)
    elif Path(program).name == "python" and arguments[0] == "-m":
        _read_by_module(arguments[1], arguments[2:])
    elif program == "python":
        _read_by_script(ROOT / "fixed_tests" / Path(arguments[0]).name, arguments[1:])
    else:
        assert program in OTHERS, f"{program} is not known here"
    return []


def _sessions(arguments: Sequence[str]) -> list[str]:
    """The sessions that Nox is asked for; each says what it runs, which must take it."""
    if "-s" not in arguments:
        assert arguments in ([], ["--list"])
        return []
    end = arguments.index("--") if "--" in arguments else len(arguments)
    names = arguments[1:end]
    for name in names:
        assert name in nox.registry.get(), f"there is no session {name}"
        calls: list[tuple[str, ...]] = []
        given = argparse.Namespace(posargs=[*arguments[end + 1 :]])
        with patch.object(noxfile, "run", lambda _, *words, calls=calls, **__: calls.append(words)):
            nox.registry.get()[name].func(given)
        for module, *rest in (words[1:] for words in calls if words[0] == "-m"):
            _read_by_module(module, rest)
    return [*names]


def _read_by_module(module: str, arguments: Sequence[str]) -> None:
    """Have `python -m module` read its arguments."""
    package, _, name = module.partition(".")
    if module == "pytest":
        _read_by_pytest(arguments)
    elif package == "tools" and not name:
        with _refused(arguments):
            tools.__main__.parse(arguments)
    elif package == "templates":
        _read_by_script(ROOT / package / f"{name}.py", arguments)
    elif package in ("crosscheck", "faults", "generator"):

        def read(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> Any:
            options, rest = parser.parse_known_args(words)
            assert not rest, f"{module} does not take {rest}"
            raise StopIteration(options)  # it has read them, and need not go on

        names = ("parse_args", "parse_intermixed_args")
        patches = patch.multiple(argparse.ArgumentParser, **dict.fromkeys(names, read))
        with patches, _refused(arguments), contextlib.suppress(StopIteration):
            importlib.import_module(f"{module}.__main__").main(arguments)
    else:
        tools_of_lint = ("ruff", "black", "mypy", "codespell_lib", "check_jsonschema")
        assert module in (*OTHER_MODULES, *tools_of_lint), f"{module} is not known here"


def _read_by_script(script: Path, arguments: Sequence[str]) -> None:
    """Have a script or template read its arguments."""
    assert script.exists(), script
    checks = [*scripts.read(script).checks, ADDED]
    with (
        patch.object(sys, "argv", [script.name, *arguments]),
        patch.object(_story, "active", argparse.Namespace(SEED=0)),
        patch.dict(os.environ),  # some flags become variables
        _refused(arguments),
    ):
        _main.parse_arguments("", checks)


def _read_by_pytest(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    for flag in ("-n", "-m", "-k"):
        parser.add_argument(flag)
    parser.add_argument("files", nargs="*")
    with _refused(arguments):
        options = parser.parse_args(arguments)
    for file in options.files:
        assert any((ROOT / folder / file).exists() for folder in ("", "fixed_tests")), file


@contextlib.contextmanager
def _refused(arguments: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except SystemExit as error:
        if error.code:  # --help has none
            raise AssertionError(f"{arguments} are refused") from error
