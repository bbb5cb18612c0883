"""Result records and run folders: their types and schemas, and how they are written and read.

A run is a folder `results/<run id>/` with `manifest.json` (what was asked), one record per job,
`logs/`, and `footer.json` (what was finished). Every document is validated against
`tools/schemas/` when it is written and again when it is read.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from jsonschema_rs import Draft202012Validator, ValidationError

SCHEMA_VERSION = 1  # of manifests and footers
RECORD_VERSION = 2  # since 2 a record says what has shown that its model is real, and is sealed
SCHEMAS = Path(__file__).parent / "schemas"

Status = Literal["crash", "timeout", "flaky", "error", "fail", "mock", "skip", "pass"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""All statuses, the worst first."""


class Check(TypedDict):
    """One question about a model and its answer; `reason` is given unless the status is pass."""

    name: str
    status: Status
    reason: str | None
    value: float | None
    bound: float | None
    seconds: float


class Script(TypedDict):
    """The file that ran."""

    name: str
    sha256: str


class Device(TypedDict):
    """The device that was asked for, and what was found there."""

    requested: str
    observed: str | None
    name: str | None
    driver: str | None
    software: bool
    features: list[str]
    memory_bytes: int | None


class Measurements(TypedDict):
    """What was measured, in seconds and bytes."""

    load_seconds: float | None
    first_call_seconds: float | None
    latency_seconds: list[float]
    peak_memory_bytes: int | None
    parameters: int | None


class Held(TypedDict, total=False):
    """What records say of a graph that was made for some values of tensors, since 2026-12."""

    held: list[str]


class Graph(Held):
    """The exported graph that ran: how many of its operators where, and what it took to make it."""

    software: str
    precision: str
    operators: dict[str, int]
    elsewhere: list[str]
    left_out: list[str]
    convert_seconds: float
    compile_seconds: float


class Environment(TypedDict):
    """The software that the script ran on."""

    python: str
    platform: str
    threads: int | None
    packages: dict[str, str | None]


class Retry(TypedDict):
    """An earlier attempt of the same run; None where its machine was lost before it ended."""

    attempt: int
    runner: Literal["warm", "fresh", "page"] | None
    node: str
    status: str  # of the check "script", or "lost": what ran it died, which says nothing of it
    reason: str
    exit_code: int | None
    wall_seconds: float | None
    log: str | None


class RunStatistics(TypedDict, total=False):
    """Where and how it ran; records of older versions lack it."""

    node: str
    cpu_seconds: float
    retries: list[Retry]


class RunFacts(RunStatistics):
    """What the runner adds to a record; `exit_code` is negative for a signal."""

    id: str
    command: list[str]
    exit_code: int
    wall_seconds: float
    runner: Literal["warm", "fresh", "page"]
    attempt: int
    log: str


Proof = TypedDict(
    "Proof",
    {
        "class": str,
        "modules": int,
        "executed": float,
        "origin": Literal["installed", "source", "overlay"],
        "file": str,
        "commit": str | None,
    },
)
"""What shows that the family's own model ran: how much of it, and where its code comes from."""


class Unproven(TypedDict):
    """What was raised when the model was to be shown to be real."""

    failure: str


class ScriptRecord(TypedDict):
    """A record as the script writes it."""

    schema_version: int
    family: str
    architecture: str | None
    model_class: str | None
    checkpoint: str | None
    script: Script
    device: Device
    inference: Literal["real", "mock"]
    proof: Proof | Unproven | None
    seal: str
    missing: list[str]
    weights: str
    size: str
    dtype: str
    seed: int
    checks: list[Check]
    measurements: Measurements
    environment: Environment
    started: str
    seconds: float


class Record(ScriptRecord, total=False):
    """A record; those in a run folder always have `run`, older ones no `graph`."""

    graph: Graph | None
    run: RunFacts


class ScriptFacts(TypedDict):
    """What is known of a script without running it."""

    family: str
    architecture: str | None
    model_class: str | None
    checkpoint: str | None
    script: str
    script_sha256: str


class Job(ScriptFacts):
    """One script on one device: what a run asks for."""

    device: str
    weights: str
    size: str
    dtype: str


class Shard(TypedDict):
    """Which part of a run this is; `whole` is the same in all parts of one, and in no other."""

    index: int  # from 1
    count: int
    asked: int  # jobs of the whole run
    whole: str  # SHA-256 of what the whole run asks


class PartsOfARun(TypedDict, total=False):
    """What only manifests of special runs have: divided among machines, or of mocks."""

    shard: Shard  # this run is one part
    shards: list[str]  # this run was put together from those with these names
    mock: bool  # torch and transformers were hidden, to test the pipeline


class Manifest(PartsOfARun):
    """What a run was asked; `checks` is None for all."""

    schema_version: int
    run_id: str
    started: str
    host: str
    command: list[str]
    seed: int | None  # None: what each script says
    checks: list[str] | None
    weights_path: str | None
    jobs: list[Job]
    versions: dict[str, str]


class BrokenDevice(TypedDict):
    """A device that stopped working: on which machine, with which job, and what it says now."""

    node: str
    device: str
    job: str
    reason: str


class BrokenDevices(TypedDict, total=False):
    """The part of a footer that those of older versions lack."""

    broken: list[BrokenDevice]


class Footer(BrokenDevices):
    """What a run has finished; `counts` are jobs by the worst status of their checks."""

    schema_version: int
    run_id: str
    ended: str
    finished: int
    asked: int
    interrupted: bool
    counts: dict[str, int]


class ResultsError(Exception):
    """Something in a run folder is not as it must be: which file, what, and how to mend it."""

    advice = ""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.mend}"

    @property
    def mend(self) -> str:
        """What to do about it."""
        return self.advice.format(run=self.path.parent.name)


class BrokenManifest(ResultsError):
    """The manifest is missing or invalid: nothing says what the records of this folder answer."""

    advice = "restore manifest.json, or delete the folder and run the matrix again"


class MissingFooter(ResultsError):
    """The run has not ended: it died, or it still runs."""

    advice = "finish it with `python -m tools matrix --resume {run}`"


class DeviceBroke(ResultsError):
    """A device stopped working during the run, so that nothing more ran on it."""

    advice = "mend the device, then `python -m tools matrix --resume {run}`"


class BrokenFooter(ResultsError):
    """The footer is invalid, or the records contradict it."""

    advice = "mend it with `python -m tools matrix --resume {run}`"


class BrokenRecord(ResultsError):
    """A record is not valid JSON or not a valid record."""

    advice = "run the job again with `python -m tools matrix --resume {run}`"


class ForeignRecord(ResultsError):
    """A record answers something that its run did not ask."""

    advice = "delete it and run `python -m tools matrix --resume {run}`"


def write(path: Path, document: Mapping[str, Any], schema: str) -> None:
    """Write a valid `document` to `path`, all of it or nothing; a record is sealed.

    Errors: ValueError if invalid.
    """
    if schema in ("result", "benchmark"):
        document = {**document, "seal": seal(document)}
    problem = _invalid(document, schema)
    if problem:
        raise ValueError(f"{path}: {problem}")
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, text.encode())


def replace(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: no reader sees half of it, whatever happens."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files for the owner only; these are to be shared
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class Lock:
    """Holds a folder for this process, until it is left or dies.

    Errors: BlockingIOError where another process holds it, unless this is to `wait`.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self._handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def read_benchmark(path: Path) -> dict[str, Any]:
    """Read and validate the record of a benchmark. Errors: BrokenRecord."""
    record = cast("dict[str, Any]", _read(path, "benchmark", BrokenRecord))
    _check_seal(path, record)
    return record


def read_record(path: Path) -> Record:
    """Read and validate a record. Errors: BrokenRecord."""
    record = cast(Record, _read(path, "result", BrokenRecord))
    _check_seal(path, record)
    return record


def _check_seal(path: Path, record: Mapping[str, Any]) -> None:
    if record["seal"] != seal(record):
        raise BrokenRecord(path, "was changed after it was written: its seal is broken")


def seal(record: Mapping[str, Any]) -> str:
    """What `record` is sealed with, as scripts do it: a hash of the script's and of all it says.

    No signature: it shows what was edited, copied or left behind, not who has sealed it.
    """
    said = {key: value for key, value in record.items() if key != "seal"}
    text = json.dumps(said, sort_keys=True)
    script = record.get("script_sha256") or record["script"]["sha256"]
    return hashlib.sha256(f"{script} {text}".encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and validate the manifest of a run folder. Errors: BrokenManifest."""
    path = folder / "manifest.json"
    manifest = cast(Manifest, _read(path, "manifest", BrokenManifest))
    if manifest["run_id"] != folder.name:
        raise BrokenManifest(path, f"is of run {manifest['run_id']}")
    names = Counter(map(job_name, manifest["jobs"]))
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise BrokenManifest(path, f"asks twice for {', '.join(twice)}")
    return manifest


def read_footer(folder: Path) -> Footer:
    """Read and validate the footer of a run folder. Errors: MissingFooter, BrokenFooter."""
    path = folder / "footer.json"
    if not path.exists():
        raise MissingFooter(path, "is missing: the run has not ended")
    footer = cast(Footer, _read(path, "footer", BrokenFooter))
    if footer["run_id"] != folder.name:
        raise BrokenFooter(path, f"is of run {footer['run_id']}")
    return footer


@dataclass(frozen=True)
class Run:
    """A run folder as read; `records` are by job name, `problems` are what could not be read."""

    folder: Path
    manifest: Manifest
    footer: Footer | None
    records: dict[str, Record]
    problems: list[ResultsError]

    @property
    def tags(self) -> list[str]:
        """What somebody has named the run, in the order given: a line each in `tags.txt`."""
        return read_tags(self.folder)

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped the run."""
        return self.footer is not None and self.footer["interrupted"]

    @property
    def complete(self) -> bool:
        """Whether the run ended by itself and has a record for everything that it asked."""
        ended = self.footer is not None and not self.interrupted
        return ended and len(self.records) == len(self.manifest["jobs"]) and not self.problems

    def why_not_run(self, job: Job) -> str | None:
        """Why `job` has no record; None where it has one."""
        if job_name(job) in self.records:
            return None
        broken = [_broke(each) for each in _broken(self.footer) if each["device"] == job["device"]]
        return "; ".join(broken) or "the run ended before this job"


def read_run(folder: Path) -> Run:
    """Read all of a run folder, keeping what is wrong with its parts as `problems`.

    Errors: BrokenManifest, because without it the rest has no meaning.
    """
    manifest = read_manifest(folder)
    jobs = {job_name(job): job for job in manifest["jobs"]}
    records: dict[str, Record] = {}
    problems: list[ResultsError] = []
    footer = None
    for path in sorted(folder.glob("*.json")):
        if path.name in ("manifest.json", "footer.json"):
            continue
        try:
            records[path.stem] = _own_record(path, manifest, jobs.get(path.stem))
        except ResultsError as error:
            problems.append(error)
    try:
        footer = read_footer(folder)
        there = sum((folder / f"{name}.json").exists() for name in jobs)
        if (footer["asked"], footer["finished"]) != (len(jobs), there):
            said = f"says that {footer['finished']} of {footer['asked']} jobs have a record"
            raise BrokenFooter(folder / "footer.json", f"{said}, but {there} of {len(jobs)} have")
    except ResultsError as error:
        problems.append(error)
    for device in _broken(footer):
        lost = [
            n for n, job in jobs.items() if job["device"] == device["device"] and n not in records
        ]
        if lost:
            told = f"{_broke(device)}; {len(lost)} jobs did not run on it"
            problems.append(DeviceBroke(folder / "footer.json", told))
    return Run(folder, manifest, footer, records, problems)


def read_tags(folder: Path) -> list[str]:
    """The tags of a run folder; a file that cannot be read has none."""
    try:
        text = (folder / "tags.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def job_name(job: Job) -> str:
    """The name of a job's files in a run folder: `bert-cpu`, `bert-cuda-1-full-bfloat16`."""
    usual = ("random", "tiny", "float32")
    special = [word for word in (job["weights"], job["size"], job["dtype"]) if word not in usual]
    return "-".join([job["family"], job["device"].replace(":", "-"), *special])


def job_of(record: Record) -> Job:
    """The job that `record` answers."""
    return {
        "family": record["family"],
        "architecture": record["architecture"],
        "model_class": record["model_class"],
        "checkpoint": record["checkpoint"],
        "device": record["device"]["requested"],
        "weights": record["weights"],
        "size": record["size"],
        "dtype": record["dtype"],
        "script": record["script"]["name"],
        "script_sha256": record["script"]["sha256"],
    }


def differences(record: Record, job: Job, seed: int | None) -> list[str]:
    """In what `record` does not answer `job`, in words; any seed will do where none was asked."""
    pairs = {
        "family": (record["family"], job["family"]),
        "script.name": (record["script"]["name"], job["script"]),
        "script.sha256": (record["script"]["sha256"], job["script_sha256"]),
        "device.requested": (record["device"]["requested"], job["device"]),
        "weights": (record["weights"], job["weights"]),
        "size": (record["size"], job["size"]),
        "dtype": (record["dtype"], job["dtype"]),
        "seed": (record["seed"], record["seed"] if seed is None else seed),
    }
    return [
        f"{key} is {found!r}, asked was {asked!r}"
        for key, (found, asked) in pairs.items()
        if found != asked
    ]


def worst(record: Record) -> Status:
    """The worst status of a record's checks."""
    return min((check["status"] for check in record["checks"]), key=STATUSES.index)


def count(records: Mapping[str, Record]) -> dict[str, int]:
    """How many of `records` have which worst status, the worst first; those that occur."""
    counts = Counter(worst(record) for record in records.values())
    return {status: counts[status] for status in STATUSES if counts[status]}


def _broken(footer: Footer | None) -> list[BrokenDevice]:
    return footer.get("broken", []) if footer else []


def _broke(device: BrokenDevice) -> str:
    return "{device} of {node} works no longer since {job}: {reason}".format(**device)


def _own_record(path: Path, manifest: Manifest, job: Job | None) -> Record:
    record = read_record(path)
    if job is None:
        raise ForeignRecord(path, "belongs to no job of the manifest")
    problems = differences(record, job, manifest["seed"])
    if "run" not in record:
        problems.append("the runner has not signed it (it has no `run`)")
    elif record["run"]["id"] not in (manifest["run_id"], *manifest.get("shards", ())):
        problems.append(f"it is of run {record['run']['id']}")
    if problems:
        raise ForeignRecord(path, ", ".join(problems))
    return record


def _read(path: Path, schema: str, error: type[ResultsError]) -> Any:
    try:
        document = parse(path.read_bytes())
    except (OSError, ValueError, RecursionError) as problem:
        raise error(path, f"cannot be read ({problem})") from problem
    problem_found = _other_version(document, schema) or _invalid(document, schema)
    if problem_found:
        raise error(path, problem_found)
    return document


def _other_version(document: Any, schema: str) -> str | None:
    """That a record was written by a script of another version than these tools; else None."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if schema != "result" or not isinstance(version, int) or version == RECORD_VERSION:
        return None
    why = "is newer than these tools" if version > RECORD_VERSION else "proves nothing"
    return f"has schema version {version}, which {why}; {RECORD_VERSION} is read here"


def parse(data: bytes) -> Any:
    """The JSON document in `data`, strictly: no NaN, no infinity, no half of a surrogate pair.

    Errors: ValueError (of which JSONDecodeError and UnicodeDecodeError are kinds).
    """
    text = data.decode("utf-8")
    document = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if "\\ud" in text.lower():
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _invalid(document: Mapping[str, Any], schema: str) -> str | None:
    """What is wrong with `document`, as one sentence that names the key and the likely fix."""
    validator, text = _validator(schema)
    errors = sorted(validator.iter_errors(document), key=lambda each: len(each.instance_path))
    if not errors:
        return None
    error = errors[0]  # the outermost explains those below it
    for branch in getattr(error.kind, "context", ()):  # of an anyOf: the one that nearly fits
        error = next((each for each in branch if each.kind.name != "type"), error)
    where = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in error.instance_path)
    said = f"{error.message}{_hint(error, text)}"
    return f"{where.removeprefix('.')}: {said}" if where else said


def _hint(error: ValidationError, schema: Any) -> str:
    kind: Any = error.kind
    if kind.name == "enum":
        wrong, known = [str(error.instance)], [word for word in kind.options if word]
    elif kind.name == "additionalProperties":
        for step in error.schema_path[:-1]:
            schema = schema[step]
        wrong, known = kind.unexpected, [*schema.get("properties", ())]
    else:
        return ""
    near = [match for word in wrong for match in difflib.get_close_matches(word, known, 1)]
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


@cache
def _validator(schema: str) -> tuple[Draft202012Validator, Any]:
    document = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    formats = {"date-time": _is_moment}
    return Draft202012Validator(document, formats=formats, validate_formats=True), document


def _is_moment(text: str) -> bool:
    """Whether `text` is a time with its offset from UTC."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
