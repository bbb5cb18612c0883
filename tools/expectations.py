"""Expectations: reviewed, reasoned statements that a check does not pass on a device.

They live in `expectations.toml`, whose head explains the format, and are strict: a name that is
misspelt, an entry that says something twice, and a check that passes unexpectedly are reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from tools import scripts
from tools.results import Check, Record, Status, worst
from tools.usage import UsageError, unknown

EXPECTATIONS = Path(__file__).parent / "expectations.toml"

REQUIRED = ("family", "check", "device", "status", "cause", "reason")
OPTIONAL = ("where", "versions", "feature")
STATUSES = ("fail", "error", "skip", "timeout", "crash")
CAUSES = ("harness", "transformers", "torch", "architecture", "device")
UPSTREAM = ("transformers", "torch")  # causes that must say where the fault sits
WHERE = re.compile(r"\S+:\d+ \(\d[^()]*\)")

SCRIPT_CHECK = "script"
"""The check that the runner adds to a script that did not end well; every script has it."""

Verdict = Literal["pass", "expected", "unexpected", "mock", "skip"]


class ExpectationError(UsageError):
    """`expectations.toml` is wrong; the message names file, entry, key and the likely fix."""


@dataclass(frozen=True)
class Expectation:
    """That `check` of `family` ends with `status` on `device`, and why.

    That is a kind of device ("cuda"), or a group of kinds ("torch", "graph", "*").
    """

    family: str
    check: str
    device: str
    status: Status
    cause: str
    reason: str
    where: str | None
    versions: Mapping[str, SpecifierSet]
    feature: str | None

    def applies(self, record: Record, check: str) -> bool:
        """Whether this speaks of `check` in `record`."""
        kind = record["device"]["requested"].partition(":")[0]
        packages = record["environment"]["packages"]
        return (
            (self.family, self.check) == (record["family"], check)
            and kind in scripts.device_groups().get(self.device, (self.device,))
            and all(_within(packages.get(name), span) for name, span in self.versions.items())
            and self.feature in (None, *record["device"]["features"])
        )


@dataclass(frozen=True)
class Judgement:
    """A check with the expectation that applies to it, and whether it ended as expected.

    Without an expectation that is: it passes, or the script itself says why it does not apply.
    """

    check: Check
    expectation: Expectation | None

    @property
    def expected(self) -> bool:
        """Whether the check ended as expected."""
        usual = (self.expectation.status,) if self.expectation else ("pass", "skip")
        return self.check["status"] in usual


def judge(record: Record, expectations: Sequence[Expectation]) -> list[Judgement]:
    """Each check of `record` beside the expectation that applies to it.

    Where the script was expected not to end well but did, a passed check "script" says so.
    """
    relevant = [entry for entry in expectations if entry.family == record["family"]]
    checks = list(record["checks"])
    if all(check["name"] != SCRIPT_CHECK for check in checks):
        ended: Check = {
            "name": SCRIPT_CHECK,
            "status": "pass",
            "reason": None,
            "value": None,
            "bound": None,
            "seconds": record["seconds"],
        }
        checks += [ended for entry in relevant if entry.applies(record, SCRIPT_CHECK)][:1]
    return [
        Judgement(check, next((e for e in relevant if e.applies(record, check["name"])), None))
        for check in checks
    ]


def verdict(record: Record, judgements: Sequence[Judgement]) -> Verdict:
    """What a record says of its cell.

    "mock" where a stand-in ran, "skip" where nothing did (the device is not there), else whether
    its checks pass, do not all pass but as expected, or end in a way that nobody expects.
    """
    status = worst(record)
    if status == "mock":
        return "mock"
    if all(check["status"] == "skip" for check in record["checks"]):
        return "skip"
    if not all(judgement.expected for judgement in judgements):
        return "unexpected"
    return "pass" if status == "pass" else "expected"


def load(path: Path, folder: Path) -> list[Expectation]:
    """Read `path` strictly against the scripts in `folder`; those for fewer devices come first.

    Errors: ExpectationError, with everything that is wrong.
    """
    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExpectationError(f"{path}: cannot be read ({error})") from error
    families = scripts.find(folder)
    entries = document.pop("expectation", [])
    problems = [unknown("key", key, ["expectation"]) for key in document]
    if not isinstance(entries, list):
        problems, entries = [*problems, "write [[expectation]], not [expectation]"], []
    found: dict[str, Expectation] = {}
    for number, entry in enumerate(entries, start=1):
        target = " ".join(str(entry.get(key, "?")) for key in REQUIRED[:3])
        wrong = list(_problems(entry, families))
        if not wrong:
            versions = entry.get("versions", {})
            says = f"{target} {sorted(versions.items())} {entry.get('feature')}"
            wrong = ["repeats an earlier entry: keep one of them"] if says in found else []
            spans = {name: SpecifierSet(span) for name, span in versions.items()}
            usual = {"where": None, "feature": None}
            found[says] = Expectation(**usual | entry | {"versions": spans})
        problems += [f"expectation {number} ({target}): {problem}" for problem in wrong]
    if problems:
        raise ExpectationError("\n".join(f"{path}: {problem}" for problem in problems))
    groups = scripts.device_groups()
    return sorted(found.values(), key=lambda entry: len(groups.get(entry.device, ())))


def _problems(entry: Mapping[str, Any], families: Mapping[str, Path]) -> Iterable[str]:
    """What is wrong with an entry, in words."""
    strange = [key for key in entry if key not in REQUIRED + OPTIONAL]
    missing = [key for key in REQUIRED if key not in entry]
    texts = (*REQUIRED, "where", "feature")
    words = [key for key in texts if not isinstance(entry.get(key, ""), str)]
    if strange or missing or words:
        yield from (unknown("key", key, REQUIRED + OPTIONAL) for key in strange)
        yield from (f"lacks the key {key!r}" for key in missing)
        yield from (f"{key!r} must be text" for key in words)
        return
    family = entry["family"]
    if family in families:
        checks = (*scripts.read(families[family]).checks, SCRIPT_CHECK)
        if entry["check"] not in checks:
            yield unknown(f"check of {families[family].name}", entry["check"], checks)
    else:
        yield unknown("family", family, families)
    for key, known in (
        ("device", (*scripts.device_groups(), *scripts.device_kinds())),
        ("status", STATUSES),
        ("cause", CAUSES),
    ):
        if entry[key] not in known:
            yield unknown(key, entry[key], known)
    if not entry["reason"].strip():
        yield "'reason' is empty"
    if entry["cause"] in UPSTREAM and "where" not in entry:
        yield f"lacks the key 'where', which the cause {entry['cause']!r} requires"
    if "where" in entry and not WHERE.fullmatch(entry["where"]):
        yield f"where {entry['where']!r} is not of the form 'path/file.py:12 (1.2.3)'"
    yield from _version_problems(entry.get("versions", {}))


def _version_problems(versions: object) -> Iterable[str]:
    if not isinstance(versions, dict):
        yield "'versions' must be a table such as { transformers = \">=5.20\" }"
        return
    for name, span in versions.items():
        try:
            SpecifierSet(span)
        except (InvalidSpecifier, TypeError, AttributeError):
            yield f"versions.{name} {span!r} is not a version specifier such as '>=5.20,<6'"


def _within(version: str | None, span: SpecifierSet) -> bool:
    try:
        return version is not None and span.contains(version, prereleases=True)
    except InvalidVersion:
        return False
