"""Two releases are compared by the same scripts; what changed is told with its first release."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tools import compare
from tools.compare import Change, Release

SCRIPT = """\
    import json, sys, made_up
    words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    checks = [
        {"name": "forward", "status": "pass", "reason": None},
        {"name": "golden", "status": made_up.GOLDEN, "reason": "the fingerprint is another"},
    ]
    measured = {"latency_seconds": [made_up.LATENCY, 9.0]}
    json.dump({"checks": checks, "measurements": measured}, open(words["--json"], "w"))
    """


def made_up(folder: Path, version: str, golden: str, latency: float = 0.1) -> Release:
    """A release of a package that the script imports."""
    place = folder / f"made_up-{version}"
    place.mkdir()
    (place / "made_up.py").write_text(f"GOLDEN, LATENCY = {golden!r}, {latency}\n")
    return Release("made_up", version, place)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "test_hf_x.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def found(script: Path, old: Release, new: Release) -> list[Change]:
    return compare.changes({"x": script}, old, new, 1, "fresh")


def test_a_check_with_another_status_is_a_change(tmp_path: Path, script: Path) -> None:
    old, same = made_up(tmp_path, "1.0", "fail"), made_up(tmp_path, "1.1", "fail")
    new = made_up(tmp_path, "2.0", "pass")
    assert found(script, old, same) == []
    (change,) = found(script, old, new)
    assert change.checks == {"golden": ("fail", "pass")}
    text = compare.section([change], old, new, 1)
    assert "| x | `golden` | fail | pass |" in text
    assert "PYTHONPATH=.nox/overlays/made_up-1.0 python fixed_tests/test_hf_x.py" in text
    assert "--checks golden" in text
    assert "the fingerprint is another" in text
    assert "**not explained yet**" in text


def test_a_change_is_explained_where_somebody_has_read_why(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = tmp_path / "releases.toml"
    causes.write_text('["made_up 2.0"]\nx = "the norm comes first"\n')
    monkeypatch.setattr(compare, "CAUSES", causes)
    old, new = made_up(tmp_path, "1.0", "fail"), made_up(tmp_path, "2.0", "pass")
    change = Change("x", script, {"golden": ("fail", "pass")})
    assert "- the norm comes first\n" in compare.section([change], old, new, 1)


def test_a_slower_call_is_a_change_if_it_stays_so(tmp_path: Path, script: Path) -> None:
    old, new = made_up(tmp_path, "1.0", "pass"), made_up(tmp_path, "2.0", "pass", 0.2)
    (change,) = found(script, old, new)
    assert change.latency == (0.1, 0.2)
    assert "| x | a call takes | 100.0 ms | 200.0 ms |" in compare.section([change], old, new, 1)


def test_bisection_names_the_first_release(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {
        f"1.{n}": made_up(tmp_path, f"1.{n}", "pass" if n < 3 else "fail") for n in range(6)
    }
    monkeypatch.setattr(compare, "releases", lambda *names: [f"1.{n}" for n in range(1, 5)])
    monkeypatch.setattr(compare, "release", lambda package, version: versions[version])
    monkeypatch.setattr(compare, "running", lambda each: RUNNING(each, "fresh"))
    change = Change("x", script, {"golden": ("pass", "fail")})
    compare.bisect([change], versions["1.0"], versions["1.5"])
    assert change.first == "1.3"


RUNNING = compare.running


def test_a_section_takes_the_place_of_the_one_before() -> None:
    page = compare.merged("", "## a 1 → 2\n\nstale\n")
    page = compare.merged(page, "## a 2 → 3\n\nother\n")
    page = compare.merged(page, "## a 1 → 2\n\nnew\n")
    assert page.count("## a 1 → 2") == 1
    assert "stale" not in page
    assert "other" in page
    assert page.startswith(compare.HEAD)
