"""Two releases are compared by the same scripts; what changed is told with its first release."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tools import compare
from tools.compare import Change, Comparison, Release

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


def of(change: Change) -> Comparison:
    """A comparison in which this changed."""
    return Comparison("made_up", "1.0", "2.0", 1, [change])


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
    text = compare.section(of(change))
    assert "| x | `golden` | fail | pass |" in text
    assert "PYTHONPATH=.nox/overlays/made_up-1.0 python fixed_tests/test_hf_x.py" in text
    assert "--checks golden" in text
    assert "the fingerprint is another" in text
    assert "**not explained yet**" in text


def test_checks_that_say_the_same_share_a_line() -> None:
    change = Change("x", dict.fromkeys(("forward", "golden"), ("error", "pass")))
    change.checks["loss"] = ("fail", "pass")
    change.reasons = {"forward": "no module", "golden": "no module", "loss": "is off"}
    text = compare.section(of(change))
    assert "| x | `forward`, `golden` | error | pass |" in text
    assert "| x | `loss` | fail | pass |" in text
    assert "- `forward`, `golden`: `no module`\n- `loss`: `is off`\n" in text
    assert compare.UNEXPLAINED in text
    change.edits = [compare.NEW]
    assert "- it is new in made_up 2.0\n" in compare.section(of(change))


def test_a_change_is_explained_where_somebody_has_read_why(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes = tmp_path / "releases.toml"
    causes.write_text('["made_up 2.0"]\nx = "the norm comes first"\n')
    monkeypatch.setattr(compare, "CAUSES", causes)
    change = Change("x", {"golden": ("fail", "pass")})
    assert "- the norm comes first\n" in compare.section(of(change))


def test_a_slower_call_is_a_change_if_it_stays_so(tmp_path: Path, script: Path) -> None:
    old, new = made_up(tmp_path, "1.0", "pass"), made_up(tmp_path, "2.0", "pass", 0.2)
    (change,) = found(script, old, new)
    assert change.latency == (0.1, 0.2)
    assert "| x | a call takes | 100.0 ms | 200.0 ms |" in compare.section(of(change))


def test_bisection_names_the_first_release(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {
        f"1.{n}": made_up(tmp_path, f"1.{n}", "pass" if n < 3 else "fail") for n in range(6)
    }
    monkeypatch.setattr(compare, "releases", lambda *names: [f"1.{n}" for n in range(1, 5)])
    monkeypatch.setattr(compare, "release", lambda package, version: versions[version])
    monkeypatch.setattr(compare, "running", lambda each: RUNNING(each, "fresh"))
    change = Change("x", {"golden": ("pass", "fail")})
    compare.bisect([change], {"x": script}, versions["1.0"], versions["1.5"])
    assert change.first == "1.3"


RUNNING = compare.running


def test_a_comparison_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "compare.md"
    compare.keep(page, Comparison("made_up", "2.0", "3.0", 7, []))
    compare.keep(page, Comparison("made_up", "1.0", "2.0", 7, []))
    compare.keep(page, of(Change("x", {"golden": ("pass", "fail")}, (0.1, 0.2))))
    assert [compare.heading(each) for each in compare.kept(page)] == [
        "## made_up 1.0 → 2.0",
        "## made_up 2.0 → 3.0",
    ]
    assert compare.rendered(compare.kept(page)) == page.read_text()
    assert "| x | a call takes | 100.0 ms | 200.0 ms |" in page.read_text()


def test_the_committed_page_is_made_of_what_is_kept_and_explains_each_change() -> None:
    page = Path(__file__).parents[1] / "docs" / "compare.md"
    assert page.read_text("utf-8") == compare.rendered(compare.kept(page))
    assert compare.UNEXPLAINED not in page.read_text("utf-8")
