"""Expectations: typing errors are found, and judgements say what nobody expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place, a_record, check

from tools import expectations, scripts
from tools.expectations import ExpectationError, Verdict, judge, verdict

ENTRY = {
    "family": '"alpha"',
    "check": '"export"',
    "device": '"cpu"',
    "status": '"fail"',
    "cause": '"torch"',
    "reason": '"torch.export loses the mask"',
    "where": '"torch/export/_trace.py:12 (2.14.1)"',
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.script("alpha")
    place.script("bert")
    return place


def load(place: Place, *entries: dict[str, str | None], head: str = "") -> list[Any]:
    """The expectations of entries that differ from ENTRY; None leaves a key out."""
    text = head
    for entry in entries:
        text += "\n[[expectation]]\n"
        pairs = {**ENTRY, **entry}.items()
        text += "\n".join(f"{key} = {value}" for key, value in pairs if value is not None)
    place.expectations.write_text(text)
    return expectations.load(place.expectations, place.scripts)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"family": '"brt"'}, "unknown family 'brt' (did you mean 'bert'?)"),
        (
            {"check": '"exports"'},
            "unknown check of test_hf_alpha.py 'exports' (did you mean 'export'",
        ),
        ({"device": '"cdua"'}, "unknown device 'cdua' (did you mean 'cuda'?)"),
        ({"status": '"failed"'}, "unknown status 'failed' (did you mean 'fail'?)"),
        ({"status": '"pass"'}, "unknown status 'pass'"),
        ({"cause": '"touch"'}, "unknown cause 'touch' (did you mean 'torch'?)"),
        ({"resaon": '"x"'}, "unknown key 'resaon' (did you mean 'reason'?)"),
        ({"reason": None}, "lacks the key 'reason'"),
        ({"reason": '" "'}, "'reason' is empty"),
        ({"reason": "3"}, "'reason' must be text"),
        ({"where": None}, "lacks the key 'where', which the cause 'torch' requires"),
        ({"where": '"somewhere"'}, "where 'somewhere' is not of the form"),
        ({"versions": '">=2"'}, "'versions' must be a table"),
        ({"versions": '{ torch = "new" }'}, "versions.torch 'new' is not a version specifier"),
        ({"versions": "{ torch = 2 }"}, "versions.torch 2 is not a version specifier"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_likely_fix(
    place: Place, entry: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ExpectationError) as caught:
        load(place, {"check": '"forward"'}, entry)
    target = [entry.get(key, ENTRY[key]) for key in ("family", "check", "device")]
    name = " ".join(str(word).strip('"') for word in target)
    assert f"{place.expectations}: expectation 2 ({name}): {message}" in str(caught.value)


def test_all_errors_are_told_at_once(place: Place) -> None:
    with pytest.raises(ExpectationError) as caught:
        load(place, {"family": '"brt"'}, {"cause": '"x"', "device": '"y"'}, head="version = 1\n")
    assert len(str(caught.value).splitlines()) == 4


def test_a_repeated_entry_is_refused(place: Place) -> None:
    with pytest.raises(ExpectationError, match="repeats an earlier entry"):
        load(place, {}, {"status": '"error"'})


@pytest.mark.parametrize(
    ("text", "message"),
    [("[expectation]", r"write \[\[expectation\]\]"), ("x = ", "cannot be read"), ("y = 1", "'y'")],
)
def test_a_file_of_another_form_is_refused(place: Place, text: str, message: str) -> None:
    with pytest.raises(ExpectationError, match=message):
        load(place, head=text)


def test_the_committed_file_is_right() -> None:
    expectations.load(expectations.EXPECTATIONS, scripts.ROOT / "fixed_tests")


def judged(place: Place, record: dict[str, Any], *entries: dict[str, str | None]) -> Verdict:
    return verdict(record, judge(record, load(place, *entries)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "entries", "expected"),
    [
        (("pass", "pass"), (), "pass"),
        (("pass", "fail"), (), "unexpected"),
        (("pass", "fail"), ({},), "expected"),
        (("pass", "error"), ({},), "unexpected"),
        (("pass", "pass"), ({},), "unexpected"),
        (("fail", "fail"), ({},), "unexpected"),
        (("pass", "skip"), (), "expected"),
        (("pass", "skip"), ({},), "unexpected"),
        (("skip", "skip"), (), "skip"),
        (("mock", "mock"), ({},), "mock"),
        (("mock", "fail"), ({},), "unexpected"),
        (("pass", "fail"), ({"device": '"*"'},), "expected"),
        (("pass", "fail"), ({"device": '"torch"'},), "expected"),
        (("pass", "fail"), ({"device": '"graph"'},), "unexpected"),
        (("pass", "fail"), ({"device": '"torch"', "status": '"error"'}, {}), "expected"),
        (
            ("pass", "fail"),
            ({"device": '"*"', "status": '"error"'}, {"device": '"torch"'}),
            "expected",
        ),
        (("pass", "fail"), ({"device": '"mps"'},), "unexpected"),
        (("pass", "pass"), ({"device": '"mps"'},), "pass"),
        (("pass", "fail"), ({"family": '"bert"'},), "unexpected"),
        (("pass", "fail"), ({"versions": '{ torch = ">=2.14" }'},), "expected"),
        (("pass", "fail"), ({"versions": '{ torch = "<2.14" }'},), "unexpected"),
        (("pass", "pass"), ({"versions": '{ torch = "<2.14" }'},), "pass"),
        (("pass", "fail"), ({"versions": '{ timm = ">=1" }'},), "unexpected"),
        (("pass", "fail"), ({"feature": '"avx2"'},), "expected"),
        (("pass", "fail"), ({"feature": '"amx_bf16"'},), "unexpected"),
        (("pass", "pass"), ({"feature": '"amx_bf16"'},), "pass"),
        (("pass", "fail"), ({"device": '"*"', "status": '"error"'}, {}), "expected"),
        (("pass", "pass"), ({"check": '"script"', "status": '"crash"'},), "unexpected"),
    ],
)
def test_verdicts(
    place: Place,
    statuses: tuple[str, str],
    entries: tuple[dict[str, str | None], ...],
    expected: str,
) -> None:
    checks = [
        check(name, status) for name, status in zip(("forward", "export"), statuses, strict=True)
    ]
    record = a_record("alpha", *checks, inference="mock" if "mock" in statuses else "real")
    assert judged(place, record, *entries) == expected


def test_an_expected_crash_is_expected(place: Place) -> None:
    record = a_record("alpha", check("script", "crash"))
    assert judged(place, record, {"check": '"script"', "status": '"crash"'}) == "expected"


def test_a_kind_of_device_means_each_of_it(place: Place) -> None:
    device = a_record()["device"] | {"requested": "cuda:1", "observed": "cuda:1"}
    record = a_record("alpha", check("export", "fail"), device=device)
    assert judged(place, record, {"device": '"cuda"'}) == "expected"
