"""Tests of docs/findings.md: each finding names versions and a line, and its code shows it."""

from __future__ import annotations

import builtins
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

ROOT = Path(__file__).parents[1]
SECTIONS = (ROOT / "docs" / "findings.md").read_text("utf-8").split("\n## ")[1:]
FINDINGS = {text.partition("\n")[0]: text for text in SECTIONS}
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NUMBER = r"\bnan\b|-?\d+(?:\.\d+)?(?:e-?\d+)?"
SNIPPETS = {
    title: block
    for title, text in FINDINGS.items()
    if not re.search(r"\((fixed in|since) ", title)  # about another version
    and "```js" not in text  # in a browser
    for block in BLOCK.findall(text)
}


@pytest.mark.parametrize("title", FINDINGS)
def test_a_finding_says_which_version_and_how_to_see_it(title: str) -> None:
    text = FINDINGS[title]
    assert text.count("```") % 2 == 0, "a block of code is not closed"
    assert re.search(
        r"(transformers|torch|openvino|onnxruntime-web) \d+\.\d+\.\d+", text
    ), "no version"
    assert re.search(r"\.py:\d+", text) or "transformers " not in text, "no line (file.py:number)"
    shown = "```" in text or "`python fixed_tests/test_hf_" in text.replace("\n", " ")
    assert shown, "neither a command nor code that shows it"


@pytest.mark.parametrize("title", FINDINGS)
def test_the_lines_of_a_finding_exist(title: str) -> None:
    text = FINDINGS[title]
    if transformers.__version__ not in text:
        pytest.skip(f"about another version than {transformers.__version__}")
    folder = Path(transformers.__file__).parent
    for name, number in re.findall(r"`([a-z]+/[\w/]+\.py):(\d+)", text):
        lines = (folder / name).read_text("utf-8").splitlines()
        assert lines[int(number) - 1].strip(), f"{name} has nothing in line {number}"


@pytest.mark.parametrize("title", SNIPPETS)
def test_the_code_of_a_finding_shows_it(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `# …Error` follows raises it; what is printed is what the comments behind say."""
    monkeypatch.chdir(ROOT)
    code, printed = SNIPPETS[title], io.StringIO()
    raised = re.search(r"# .*?(\w+Error)\b", code)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        if raised:
            with pytest.raises(getattr(builtins, raised[1])):
                exec(code, names)
        else:
            exec(code, names)
    said = re.findall(r"^ *print\(.*\)(?:  |\n)# (.*)$", code, re.MULTILINE)
    said = [comment for comment in said if "Error" not in comment]
    lines = printed.getvalue().splitlines()
    assert raised or said, "no comment says what it prints"
    if len(said) == 1:  # of several lines, or of the turns of a loop
        turns = re.split(r", then |, ", said[0])
        several = len(turns) == len(lines)
        said, lines = (turns, lines) if several else (said, [" ".join(lines)])
    for line, expected in zip(lines, said, strict=not raised):
        assert is_said(line, expected), f"{line!r} is printed, {expected!r} announced"


def is_said(line: str, expected: str) -> bool:
    """Whether the numbers of a printed line are those of the comment behind its `print`."""
    found = [float(number) for number in re.findall(NUMBER, line)]
    if expected.startswith("not "):
        return found[0] != 0
    expected = re.split(r" instead of |, where |; |, although |: ", expected)[0]
    wanted = [float(number) for number in re.findall(NUMBER, expected)]
    pairs = zip(found, wanted, strict=False)
    close = all(a == pytest.approx(b, rel=0.1, nan_ok=True) for a, b in pairs)
    return (len(found) >= len(wanted) > 0 and close) or line.startswith(expected)
