"""The newest release of a package comes into constraints.txt, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import upgrade
from tools.__main__ import main
from tools.usage import UsageError

CONSTRAINTS = """# tested together
huggingface_hub==2.3.0
torch==2.14.1
transformers==5.22.2 ; python_version >= "3.11"
"""


def report(**versions: str) -> list[dict[str, Any]]:
    return [{"metadata": {"name": name, "version": v}} for name, v in versions.items()]


def test_what_the_package_asks_for_comes_along() -> None:
    found = report(transformers="5.23.0", **{"huggingface-hub": "2.4.0"}, torch="2.14.1", other="1")
    changed = upgrade.upgraded(CONSTRAINTS, ["transformers"], found)
    assert changed == {"huggingface_hub": ("2.3.0", "2.4.0"), "transformers": ("5.22.2", "5.23.0")}
    assert upgrade.rewritten(CONSTRAINTS, changed) == CONSTRAINTS.replace("2.3.0", "2.4.0").replace(
        "5.22.2", "5.23.0"
    )


def test_a_package_without_a_line_is_refused() -> None:
    with pytest.raises(UsageError, match="no line for numpy"):
        upgrade.upgraded(CONSTRAINTS, ["numpy"], [])


def test_the_command_tells_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "constraints.txt").write_text(CONSTRAINTS)
    monkeypatch.setattr(upgrade, "ROOT", tmp_path)
    monkeypatch.setattr(upgrade, "resolve", lambda text, names: report(transformers="5.23.0"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert main(["upgrade", "transformers"]) == 0
    assert "transformers: 5.22.2 -> 5.23.0" in capsys.readouterr().out
    assert (
        'transformers==5.23.0 ; python_version >= "3.11"'
        in (tmp_path / "constraints.txt").read_text()
    )
    assert "changed=true\nold=5.22.2\nnew=5.23.0\n" in (tmp_path / "output").read_text()
    assert main(["upgrade", "transformers"]) == 0
    assert "nothing newer" in capsys.readouterr().out
