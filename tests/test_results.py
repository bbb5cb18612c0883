"""Result records and run folders: what is refused, and what the message says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place, a_record, check, damage, edit_json

from tools import database, results


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def changed(record: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`record` with the value at a dotted `key` replaced, or removed where it is `...`."""
    part: Any = record
    *path, last = (int(name) if name.isdecimal() else name for name in key.split("."))
    for name in path:
        part = part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return record


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "architectures",
            "vision",
            r"'architectures' was unexpected\) \(did you mean 'architecture'",
        ),
        ("device.requests", "cpu", "device: .*did you mean 'requested'"),
        ("seed", ..., '"seed" is a required property'),
        ("schema_version", 1, "has schema version 1, which proves nothing; 2 is read here"),
        ("schema_version", 3, "has schema version 3, which is newer than these tools"),
        ("proof", {"failure": "ValueError: no"}, "checks: None of"),
        ("checks.0.status", "passed", r"checks\[0\].status: .passed. .*did you mean 'pass'"),
        ("checks", [], "checks: .* less than 1 item"),
        ("checks.0", check() | {"status": "fail"}, r"checks\[0\].reason: null is not of type"),
        ("checks.0", check("a", "skip") | {"reason": ""}, r"checks\[0\].reason: .* shorter than"),
        ("checks.0.value", 10**400, r"checks\[0\].value: .* greater than the maximum"),
        ("script.sha256", "0" * 63, "script.sha256: .* does not match"),
        ("started", "2026-13-01T00:00:00+00:00", "started: .* is not a .date-time."),
        ("started", "2026-11-01T00:00:00", "started: .* is not a .date-time."),
        ("seconds", -1, "seconds: -1 is less than"),
        ("seconds", float("nan"), "nan is not a finite number"),
        ("inference", "mock", "proof: .* is not of type .null"),
        ("device.memory_bytes", 2**63, "device.memory_bytes: .* greater than the maximum"),
    ],
)
def test_a_record_is_refused_with_the_key_and_the_reason(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = tmp_path / "alpha-cpu.json"
    path.write_text(json.dumps(changed(a_record(), key, value)))
    with pytest.raises(results.BrokenRecord, match=f"(?i){message}") as caught:
        results.read_record(path)
    assert str(path) in str(caught.value)
    assert "matrix --resume" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b'{"family": "al', "Unterminated string"),
        (b"\xff\xfe", "utf-8"),
        (b'{"seconds": 1e400}', "1e400 is not a finite number"),
        (b'{"family": "\\ud800"}', "surrogates not allowed"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "not of type .object"),
    ],
)
def test_what_is_not_strict_json_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "alpha-cpu.json"
    path.write_bytes(text)
    with pytest.raises(results.BrokenRecord, match=message):
        results.read_record(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "alpha-cpu.json"
    record = a_record("alpha", check("forward") | {"reason": "🚀 \x00 ü"})
    results.write(path, record, "result")
    assert results.read_record(path) == record


def test_an_invalid_document_is_not_written_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "alpha-cpu.json"
    results.write(path, a_record(), "result")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"alpha-cpu\.json: seed: .x. is not of type"):
        results.write(path, a_record(seed="x"), "result")
    with pytest.raises(ValueError, match=r"value: .* is not of type"):
        results.write(path, changed(a_record(), "checks.0.value", float("nan")), "result")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


@pytest.mark.parametrize(
    ("schema", "path", "kind"),
    [
        ("result", (), results.Record),
        ("result", ("properties", "script"), results.Script),
        ("result", ("properties", "device"), results.Device),
        ("result", ("properties", "measurements"), results.Measurements),
        ("result", ("properties", "environment"), results.Environment),
        ("result", ("properties", "run"), results.RunFacts),
        ("result", ("$defs", "check"), results.Check),
        ("result", ("$defs", "retry"), results.Retry),
        ("manifest", (), results.Manifest),
        ("manifest", ("properties", "jobs", "items"), results.Job),
        ("footer", (), results.Footer),
        ("footer", ("properties", "broken", "items"), results.BrokenDevice),
    ],
)
def test_types_and_schemas_name_the_same_keys(
    schema: str, path: tuple[str, ...], kind: type
) -> None:
    part = json.loads((results.SCHEMAS / f"{schema}.schema.json").read_text())
    for key in path:
        part = part[key]
    assert set(part["required"]) == kind.__required_keys__  # type: ignore[attr-defined]
    known = kind.__required_keys__ | kind.__optional_keys__  # type: ignore[attr-defined]
    assert set(part["properties"]) == known
    assert part["additionalProperties"] is False


def test_statuses_are_the_same_in_types_schemas_and_sql() -> None:
    schema = json.loads((results.SCHEMAS / "result.schema.json").read_text())
    footer = json.loads((results.SCHEMAS / "footer.schema.json").read_text())
    sql = (database.SQL / "status.sql").read_text()
    assert set(schema["$defs"]["check"]["properties"]["status"]["enum"]) == set(results.STATUSES)
    assert set(footer["properties"]["counts"]["propertyNames"]["enum"]) == set(results.STATUSES)
    real = [status for status in reversed(results.STATUSES) if status != "mock"]
    assert re.findall(r"'(\w+)'", sql) == real  # a mock cannot stand among verdicts


def test_a_whole_run_is_complete(place: Place) -> None:
    run = results.read_run(place.write_run([a_record("alpha"), a_record("beta")]))
    assert run.complete
    assert not run.problems
    assert run.records.keys() == {"alpha-cpu", "beta-cpu"}


def test_a_run_without_footer_is_not_complete(place: Place) -> None:
    run = results.read_run(place.write_run([a_record()], footer=False))
    (problem,) = run.problems
    assert isinstance(problem, results.MissingFooter)
    assert f"--resume {run.folder.name}" in str(problem)
    assert not run.complete


def test_an_interrupted_run_is_not_complete(place: Place) -> None:
    run = results.read_run(place.write_run([a_record()], interrupted=True))
    assert (run.interrupted, run.complete) == (True, False)


def test_a_footer_that_counts_more_records_than_there_are_is_broken(place: Place) -> None:
    folder = place.write_run([a_record("alpha"), a_record("beta")])
    (folder / "beta-cpu.json").unlink()
    (problem,) = results.read_run(folder).problems
    assert isinstance(problem, results.BrokenFooter)
    assert "says that 2 of 2 jobs have a record, but 1 of 2 have" in str(problem)


def test_a_broken_device_is_a_problem_only_where_jobs_did_not_run_because_of_it(
    place: Place,
) -> None:
    told = {"node": "far", "device": "cpu", "job": "alpha-cpu", "reason": "it smokes"}
    records = [a_record("alpha"), a_record("beta")]
    folder = place.write_run(records[:1], asked=records)
    edit_json(folder / "footer.json", broken=[told])
    run = results.read_run(folder)
    (problem,) = run.problems
    assert isinstance(problem, results.DeviceBroke)
    smokes = "cpu of far works no longer since alpha-cpu: it smokes"
    assert f"{smokes}; 1 jobs did not run on it; mend the device, then" in str(problem)
    assert [run.why_not_run(job) for job in run.manifest["jobs"]] == [None, smokes]
    folder = place.write_run(records, run_id="20260102T120000Z-abcdef")
    edit_json(folder / "footer.json", broken=[told])
    assert results.read_run(folder).complete, "another machine ran what was left"


def test_broken_and_foreign_records_are_problems_beside_the_good_ones(place: Place) -> None:
    folder = place.write_run([a_record(name) for name in ("alpha", "beta", "gamma", "delta")])
    damage(folder / "alpha-cpu.json")
    (folder / "beta-cpu.json").write_bytes((folder / "gamma-cpu.json").read_bytes())
    (folder / "omega-cpu.json").write_bytes((folder / "gamma-cpu.json").read_bytes())
    signed = json.loads((folder / "delta-cpu.json").read_text())["run"]
    edit_json(folder / "delta-cpu.json", run=signed | {"id": "20250101T120000Z-abcdef"})
    run = results.read_run(folder)
    assert run.records.keys() == {"gamma-cpu"}
    problems = {problem.path.stem: problem for problem in run.problems}
    assert isinstance(problems.pop("alpha-cpu"), results.BrokenRecord)
    assert {type(problem) for problem in problems.values()} == {results.ForeignRecord}
    assert "family is 'gamma', asked was 'beta'" in str(problems["beta-cpu"])
    assert "belongs to no job" in str(problems["omega-cpu"])
    assert "it is of run 20250101T120000Z-abcdef" in str(problems["delta-cpu"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": "20250101T120000Z-abcdef"}, "is of run 20250101T120000Z-abcdef"),
        ({"jobs": []}, "jobs: .* less than 1 item"),
        ({"sed": 0}, "did you mean 'seed'"),
    ],
)
def test_a_wrong_manifest_is_refused(place: Place, changes: dict[str, Any], message: str) -> None:
    folder = place.write_run([a_record()])
    edit_json(folder / "manifest.json", **changes)
    with pytest.raises(results.BrokenManifest, match=message):
        results.read_run(folder)


def test_a_manifest_that_asks_twice_is_refused(place: Place) -> None:
    folder = place.write_run([a_record()])
    jobs = json.loads((folder / "manifest.json").read_text())["jobs"]
    edit_json(folder / "manifest.json", jobs=jobs * 2)
    with pytest.raises(results.BrokenManifest, match="asks twice for alpha-cpu"):
        results.read_run(folder)


def test_job_names_show_what_is_special() -> None:
    job = results.Job(
        family="alpha",
        architecture=None,
        model_class=None,
        checkpoint=None,
        device="cuda:1",
        weights="pretrained",
        size="full",
        dtype="bfloat16",
        script="test_hf_alpha.py",
        script_sha256="0" * 64,
    )
    assert results.job_name(job) == "alpha-cuda-1-pretrained-full-bfloat16"
    usual = results.Job(**(job | {"weights": "random", "size": "tiny", "dtype": "float32"}))
    assert results.job_name(usual) == "alpha-cuda-1"
