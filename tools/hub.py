"""Publish benchmarks to the Hugging Face Hub.

The model card of each checkpoint that was measured gets a section, a dataset repository the raw
records and badges.

Nothing is sent unless that is asked for: all is worked out and shown as a diff first. Each
repository gets one commit, or one pull request, so each is published whole or not at all; the raw
records go first, for the cards link to them. To publish again changes nothing.

Latencies stand in the card's `model-index` (`EvalResult` of the client). The newer
`.eval_results/*.yaml` are scores of a task of a benchmark dataset, ranked on its leaderboard: a
latency belongs to a machine and would be ranked against those of others.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tools.benchmark import report
from tools.benchmark.report import Record
from tools.reports import form, markdown
from tools.scripts import read
from tools.usage import CannotWrite, UsageError, plain

SOURCE = "Proving Ground"
BEGIN, END = "<!-- proving-ground:begin -->", "<!-- proving-ground:end -->"
TITLE = "Benchmarks of Proving Ground"
NO_WEIGHTS = (".md", ".gitattributes", ".gitignore")  # files that a model does not consist of
DATASET_CARD = f"""\
# {TITLE}

Raw records of benchmarks of model checkpoints: one JSON file for each checkpoint, device, type and
batch in `records/`, as `tools/schemas/benchmark.schema.json` of Proving Ground describes them, and
badges with their medians. The model cards that show them link here.
"""


class Refused(UsageError):
    """The Hub does not take something, or cannot be reached; the message says what to do."""

    exit_code = 5


@dataclass(frozen=True)
class Change:
    """What one repository gets: files by path, against what it holds at the commit `parent`."""

    repo: str
    kind: str  # model or dataset
    files: Mapping[str, bytes]
    old: Mapping[str, bytes]  # what the paths hold now; a path that is not there is new
    parent: str | None  # None: the repository is still to be made

    @property
    def changed(self) -> dict[str, bytes]:
        """The files that differ."""
        return {path: data for path, data in self.files.items() if self.old.get(path) != data}

    def diff(self) -> str:
        """The changes as a unified diff."""
        lines: list[str] = []
        for path, data in self.changed.items():
            before, after = (
                each.decode("utf-8").splitlines() for each in (self.old.get(path, b""), data)
            )
            where = f"{self.repo}/{path}"
            lines += difflib.unified_diff(before, after, where, where, "old", "new", lineterm="")
        return "\n".join(lines)


def main(options: argparse.Namespace) -> int:
    """`publish --hub`: 0 when all is shown or sent. Errors: Refused, UsageError."""
    if not options.dataset:
        raise UsageError(
            "where do the raw records go? `publish --hub --dataset NAME/benchmarks` names a "
            "dataset repository of the Hub; without --create-pr or --commit nothing is sent"
        )
    records, refusals = select(report.load(options.benchmarks), options.scripts, options.repo)
    for record, why in refusals:
        print(f"not published: {name(record)} of {record['family']}: {why}")
    if not records:
        raise UsageError(
            f"nothing to publish in {options.benchmarks}: a model card gets figures of its own "
            "checkpoint, `nox -s benchmark -- --family bert --weights pretrained`"
        )
    api = HfApi()
    changes = [change for change in plan(api, records, options.dataset) if change.changed]
    for change in changes:
        print("\n".join(plain(line, len(line)) for line in change.diff().split("\n")))
    if not changes:
        print("the Hub has all of it already")
    elif not (options.create_pr or options.commit):
        print(f"dry run: {len(changes)} repositories would change; --create-pr opens pull requests")
    else:
        send_all(api, changes, direct=options.commit)
    return 0


def select(
    records: Sequence[Record], scripts: Path, repos: Sequence[str] = ()
) -> tuple[list[Record], list[tuple[Record, str]]]:
    """The records that may be published, and the others with the reason why not."""
    taken, refused = [], []
    for record in records:
        why = refusal(record, scripts)
        if why is None and repos and record["checkpoint"] not in repos:
            why = f"of {record['checkpoint']}, which --repo does not name"
        if why:
            refused.append((record, why))
        else:
            taken.append(record)
    return taken, refused


def refusal(record: Record, scripts: Path) -> str | None:
    """Why a record says nothing about a checkpoint on the Hub; None where it does."""
    script, piped = scripts / f"test_hf_{record['family']}.py", record["pipeline"] or {}
    reasons = {
        f"weights are {record['weights']}": record["weights"] != "pretrained",
        "no checkpoint is known": not record["checkpoint"],
        "the commit of the checkpoint is not known": not record["revision"],
        f"size is {record['size']}": record["size"] != "full",
        f"{record['status']}: {record['reason'] or '; '.join(record['noise'])}": (
            record["status"] != "measured"
        ),
        f"its pipeline: {piped.get('reason')}": piped.get("status") not in ("pass", "skip"),
        "a software adapter stood in for the device": (
            record.get("device_facts", {}).get("software") is not False
        ),
        "its script has changed since": (
            not script.exists() or read(script).sha256 != record["script_sha256"]
        ),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def plan(api: HfApi, records: Sequence[Record], dataset: str) -> Iterator[Change]:
    """What each repository is to get, the raw records first. Errors: Refused."""
    groups = report.grouped(records, "checkpoint")
    cards = [card_change(api, repo, of, dataset) for repo, of in groups.items()]
    yield raw_change(api, records, dataset)
    yield from cards


def raw_change(api: HfApi, records: Sequence[Record], dataset: str) -> Change:
    """The raw records and their badges."""
    files = {"README.md": DATASET_CARD.encode()}
    for record in records:
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        files[raw_path(record)] = text.encode()
        files |= badges(record)
    with told(dataset):
        try:
            head = api.dataset_info(dataset)
        except RepositoryNotFoundError:
            return Change(dataset, "dataset", files, {}, None)
    there = {each.rfilename for each in head.siblings or ()}
    old = {p: fetch(api, dataset, p, str(head.sha), "dataset") for p in files if p in there}
    if "README.md" in old:  # it is its owner's
        del files["README.md"]
    return Change(dataset, "dataset", files, old, head.sha)


def card_change(api: HfApi, repo: str, records: Sequence[Record], dataset: str) -> Change:
    """The model card with the section of these records, if it is of that very checkpoint."""
    with told(repo):
        head = api.model_info(repo, files_metadata=True)
        for revision in {str(record["revision"]) for record in records} - {head.sha}:
            measured = api.model_info(repo, revision=revision, files_metadata=True)
            if contents(measured) != contents(head):
                raise Refused(
                    f"{repo}: commit {revision[:10]} was measured, and its weights or its "
                    f"configuration have changed since: measure again"
                )
        there = {each.rfilename for each in head.siblings or ()}
    old = {}
    if "README.md" in there:
        old["README.md"] = fetch(api, repo, "README.md", str(head.sha), "model")
    text = old.get("README.md", b"").decode("utf-8")
    links = raw_links(api, dataset)
    files = {"README.md": card(repo, text, records, links).encode()}
    return Change(repo, "model", files, old, head.sha)


def contents(info: Any) -> dict[str, str]:
    """What a model consists of: its files but for texts, by path, with their hashes."""
    return {
        each.rfilename: each.lfs.sha256 if each.lfs else each.blob_id
        for each in info.siblings or ()
        if not each.rfilename.endswith(NO_WEIGHTS)
    }


def fetch(api: HfApi, repo: str, path: str, revision: str, kind: str) -> bytes:
    """A file of a repository, past the client's cache. Errors: Refused."""
    with told(repo), tempfile.TemporaryDirectory() as folder:
        file = api.hf_hub_download(repo, path, repo_type=kind, revision=revision, cache_dir=folder)
        return Path(file).read_bytes()


def name(record: Record) -> str:
    """`cuda-bfloat16-b8`: what tells the records of a checkpoint apart."""
    length = f"-l{record['length']}" if record["length"] else ""
    return f"{record['device']}-{record['dtype']}-b{record['batch']}{length}".replace(":", "-")


def raw_path(record: Record, folder: str = "records", suffix: str = "json") -> str:
    """Where something of a record lies in the dataset repository."""
    return f"{folder}/{record['checkpoint'].replace('/', '__')}/{name(record)}.{suffix}"


def raw_links(api: HfApi, dataset: str) -> str:
    """Where files of the dataset repository are found by their path."""
    return f"{api.endpoint}/datasets/{dataset}/resolve/main/"


def card(repo: str, text: str, records: Sequence[Record], links: str) -> str:
    """A model card with the section, in place of an older one or at the end, and `model-index`.

    Errors: Refused where the metadata of the card cannot be read.
    """
    try:
        made = ModelCard(text or "---\n{}\n---\n")
    except (ValueError, yaml.YAMLError) as error:
        raise Refused(f"{repo}: the metadata of its card is broken: {plain(str(error))}") from error
    kept = [r for r in made.data.get("eval_results", []) if r.source_name != SOURCE]
    made.data["eval_results"] = kept + [result(record, links) for record in records]
    made.data["model_name"] = made.data.get("model_name") or repo.rpartition("/")[2]
    section = f"{BEGIN}\n{render(records, links)}\n{END}"
    if (made.text.count(BEGIN), made.text.count(END)) not in ((0, 0), (1, 1)):
        raise Refused(f"{repo}: its card has the markers {BEGIN} and {END} more than once, or one")
    if BEGIN in made.text:
        before, rest = made.text.split(BEGIN)
        made.text = before + section + rest.partition(END)[2]
    else:
        made.text = made.text.rstrip("\n") + f"\n\n{section}\n"
    return str(made)


def render(records: Sequence[Record], links: str) -> str:
    """The section of a model card."""
    shown = [
        f"[![{name(r)}]({links}{raw_path(r, 'badges', 'svg')})]({links}{raw_path(r)})"
        for r in records
    ]
    header = ["device", "type", "batch", "latency [95 %]", "tokens/s", "peak memory", "raw"]
    commits = ", ".join(sorted({record["revision"][:10] for record in records}))
    note = (
        f"Median of repeated calls with its 95 % bootstrap interval, with the weights of commit "
        f"{commits}. Shapes of the inputs, software and method stand in the raw records."
    )
    rows = [row(record, links) for record in records]
    return "\n".join([f"## {TITLE}\n", *shown, "", markdown.table(header, rows, 4), note])


def row(record: Record, links: str) -> list[str]:
    """A line of the table."""
    latency, tokens = record["latency"], record.get("generation")
    middle, low, high = (form.duration(latency[key]) for key in ("median", "low", "high"))
    device = f"{record['device']}: {record['device_facts'].get('name')}"
    return [
        markdown.text(device),
        record["dtype"],
        str(record["batch"]),
        f"{middle} [{low}, {high}]",
        f"{tokens['tokens_per_second']:.3g}" if tokens else form.NOTHING,
        form.memory(record["memory"]["device"] or record["memory"]["resident"]),
        f"[JSON]({links}{raw_path(record)})",
    ]


def result(record: Record, links: str) -> EvalResult:
    """The latency as an entry of `model-index`."""
    piped = record["pipeline"] or {}
    return EvalResult(
        task_type=piped.get("task") or "other",
        dataset_type="benchmark",
        dataset_name=f"{SOURCE}: {name(record)}",
        metric_type="latency",
        metric_name="median latency of a call, in milliseconds",
        metric_value=float(f"{1000 * record['latency']['median']:.4g}"),
        source_name=SOURCE,
        source_url=f"{links}{raw_path(record)}",
    )


def badges(record: Record) -> dict[str, bytes]:
    """A picture with the median, and the same for shields.io (`endpoint`), by path."""
    label = f"{record['device']} {record['dtype']}"
    value = form.duration(record["latency"]["median"])
    endpoint = {"schemaVersion": 1, "label": label, "message": value, "color": "blue"}
    return {
        raw_path(record, "badges", "svg"): badge(label, value).encode(),
        raw_path(record, "badges", "json"): (json.dumps(endpoint) + "\n").encode(),
    }


def badge(label: str, value: str) -> str:
    """A small SVG: a label on grey, a value on blue."""
    widths = [12 + 7 * len(text) for text in (label, value)]
    left, whole = widths[0], sum(widths)
    told = escape(f"{label}: {value}", {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img" '
        f'aria-label="{told}"><title>{told}</title>'
        f'<rect width="{left}" height="20" fill="#555"/>'
        f'<rect x="{left}" width="{widths[1]}" height="20" fill="#0072b2"/>'
        '<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2:g}" y="14">{escape(label)}</text>'
        f'<text x="{left + widths[1] / 2:g}" y="14">{escape(value)}</text></g></svg>\n'
    )


def send_all(api: HfApi, changes: Sequence[Change], direct: bool) -> None:
    """Send the changes in turn. Errors: CannotWrite, which says what is done and what is not."""
    for number, change in enumerate(changes):
        try:
            print(f"{change.repo}: {send(api, change, direct)}", flush=True)
        except Refused as error:
            done = ", ".join(each.repo for each in changes[:number]) or "nothing"
            raise CannotWrite(
                f"{error}. Published: {done}; the rest is as it was: run the same command again"
            ) from error


def send(api: HfApi, change: Change, direct: bool) -> str:
    """Send all files of a change as one commit or pull request; its address. Errors: Refused."""
    where: dict[str, Any] = {"repo_id": change.repo, "repo_type": change.kind}
    added = [CommitOperationAdd(path, data) for path, data in change.changed.items()]
    with told(change.repo):
        if change.parent is None:  # its first commit has nobody to ask
            api.create_repo(**where, private=False, exist_ok=True)
            direct = True
        options: dict[str, Any] = {"parent_commit": change.parent} if change.parent else {}
        if not direct:
            asked = api.get_repo_discussions(
                **where, discussion_type="pull_request", discussion_status="open"
            )
            opened = [each for each in asked if each.title == TITLE]
            options = {"revision": f"refs/pr/{opened[0].num}"} if opened else options
            options |= {"create_pr": not opened}
        found = api.create_commit(**where, operations=added, commit_message=TITLE, **options)
    return str(found.pr_url or found.commit_url)


@contextlib.contextmanager
def told(repo: str) -> Iterator[None]:
    """Errors of the client, told as Refused: what happened to which repository, what to do."""
    try:
        yield
    except Refused:
        raise
    except HfHubHTTPError as error:
        raise Refused(f"{repo}: {explained(error)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise Refused(f"{repo}: the Hub cannot be reached, or HF_HUB_OFFLINE is set") from error
    except HFValidationError as error:
        raise Refused(f"{repo}: is no name of a repository: {plain(str(error))}") from error
    except Exception as error:  # the client's HTTP library has its own, by version
        if "http" not in type(error).__module__:
            raise
        raise Refused(f"{repo}: the connection failed: {plain(str(error))}") from error


def explained(error: HfHubHTTPError) -> str:
    """An answer of the Hub in words."""
    code = error.response.status_code
    if isinstance(error, GatedRepoError):
        return "is gated: ask for access on its page, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "has no such commit any more: measure again"
    if isinstance(error, EntryNotFoundError):
        return f"has no such file: {plain(str(error))}"
    if code == 401 or isinstance(error, RepositoryNotFoundError):
        return "is not there, or not for you: check the name, `hf auth login` or HF_TOKEN"
    said = plain(getattr(error, "server_message", None) or "")
    known = {
        403: "your token has no right to write there: one with that right, or --create-pr",
        409: "somebody else is changing it: run again",
        412: "it has changed meanwhile: run again",
        429: f"too many requests: wait {error.response.headers.get('retry-after', 'some')} s",
    }
    return known.get(code, f"the Hub answers {code}") + (f" ({said})" if said else "")
