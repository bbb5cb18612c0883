"""Publishing to the Hub: the real client over HTTP, against a stand-in of the Hub's endpoints."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, constants

from tests.hub_stand_in import READER, WRITER, Hub
from tools import hub, results
from tools.__main__ import main, parse
from tools.benchmark import run
from tools.scripts import ROOT

MODEL, RAW = "google-bert/bert-base-uncased", "me/benchmarks"
CARD = "---\nlicense: mit\ntags:\n- bert\n---\n\n# BERT\n\nText of its authors.\n"


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as made:
        made.model(MODEL, README=CARD)
        yield made
        made.shutdown()


def record(**changes: Any) -> dict[str, Any]:
    """A record that may be published."""
    asked = next(run.asked(parse(["benchmark", "--family", "bert", "--weights", "pretrained"])))
    latency = {"count": 10, "median": 0.1, "low": 0.09, "high": 0.11, "p90": 0.12, "p99": 0.13}
    return {
        **run.described(asked),
        "revision": "a" * 40,
        "predicted": None,
        "free_bytes": 10**10,
        "latency": {**latency, "iqr": 0.01},
        "throughput_per_second": 10.0,
        "memory": {"loading": 10**9, "resident": 5 * 10**8, "device": None},
        "parameters": 10**8,
        "device_facts": {"name": "A | processor", "software": False},
        "pipeline": {"task": "fill-mask", "status": "pass", "reason": None, "output": "[]"},
        **changes,
    }


@pytest.fixture
def benchmarks(tmp_path: Path, server: Hub) -> Path:
    """A folder with one record of the checkpoint as it is."""
    head = server.repositories["model", MODEL].heads["main"]
    keep(tmp_path / "benchmarks", record(revision=head))
    return tmp_path / "benchmarks"


def keep(folder: Path, *records: dict[str, Any]) -> None:
    below = folder / "20260101T120000Z"
    below.mkdir(parents=True, exist_ok=True)
    for each in records:
        number = len([*below.iterdir()])
        results.write(below / f"{number}.json", each, "benchmark")


@pytest.fixture
def publish(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What `publish --hub` prints; its exit code is to be `code`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HfApi", functools.partial(HfApi, endpoint=server.address))

    def call(benchmarks: Path, *flags: str, token: str | None = WRITER, code: int = 0) -> str:
        monkeypatch.setenv("HF_TOKEN", token or "")
        words = ["publish", "--hub", "--dataset", RAW, "--benchmarks", str(benchmarks), *flags]
        assert main(words) == code
        said = "".join(capsys.readouterr())
        assert WRITER not in said
        assert READER not in said
        return said

    return call


def test_the_command_publishes_to_the_hub_of_the_environment(server: Hub, benchmarks: Path) -> None:
    variables = {**os.environ, "HF_ENDPOINT": server.address, "HF_TOKEN": WRITER}
    variables |= {"HF_HOME": str(benchmarks / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "tools", "publish", "--hub", "--benchmarks", str(benchmarks)]
    done = subprocess.run(
        [*command, "--dataset", RAW, "--create-pr"],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{MODEL}: {server.address}/{MODEL}/discussions/1" in done.stdout
    assert hub.BEGIN in card(server, "refs/pr/1")
    assert WRITER not in done.stdout + done.stderr


def card(server: Hub, head: str = "main") -> str:
    tree = server.repositories["model", MODEL].tree(head)
    assert tree
    return tree["README.md"].decode()


def test_a_dry_run_shows_all_and_sends_nothing(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    said = publish(benchmarks, token=None)
    assert "+## Benchmarks of Proving Ground" in said
    assert f"+++ {MODEL}/README.md" in said
    assert f"+++ {RAW}/records/google-bert__bert-base-uncased/cpu-float32-b1.json" in said
    assert "dry run: 2 repositories would change" in said
    assert not [asked for asked in server.asked if asked.startswith("POST")]


def test_cards_get_a_pull_request_and_the_raw_records_a_repository(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    said = publish(benchmarks, "--create-pr")
    assert f"{MODEL}: {server.address}/{MODEL}/discussions/1" in said
    assert card(server) == CARD
    text = card(server, "refs/pr/1")
    assert "Text of its authors." in text
    assert "| cpu: A \\| processor | float32 | 1 | 100 ms [90 ms, 110 ms] |" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == "mit"
    [found] = metadata["model-index"][0]["results"]
    assert found["metrics"][0]["type"] == "latency"
    assert found["metrics"][0]["value"] == 100
    raw = server.repositories["dataset", RAW].tree("main")
    assert raw
    path = "records/google-bert__bert-base-uncased/cpu-float32-b1.json"
    assert json.loads(raw[path])["latency"]["median"] == 0.1
    assert f"{server.address}/datasets/{RAW}/resolve/main/{path}" in text
    assert json.loads(raw[path.replace("records", "badges")])["message"] == "100 ms"
    assert b"<svg" in raw[path.replace("records", "badges").replace(".json", ".svg")]


def test_to_publish_again_changes_nothing(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    publish(benchmarks, "--commit")
    first = card(server)
    assert first.count(hub.BEGIN) == 1
    trees = {key: dict(each.heads) for key, each in server.repositories.items()}
    assert "the Hub has all of it already" in publish(benchmarks, "--commit")
    assert {key: dict(each.heads) for key, each in server.repositories.items()} == trees


def test_an_open_pull_request_is_renewed(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    publish(benchmarks, "--create-pr")
    head = server.repositories["model", MODEL].heads["main"]
    keep(benchmarks, record(revision=head, batch=8))
    publish(benchmarks, "--create-pr")
    assert server.repositories["model", MODEL].titles == {1: hub.TITLE}
    assert "| float32 | 8 |" in card(server, "refs/pr/1")


def test_figures_of_others_in_the_card_stay(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    theirs = {
        "task": {"type": "fill-mask"},
        "dataset": {"type": "glue", "name": "GLUE"},
        "metrics": [{"type": "accuracy", "value": 0.9}],
    }
    index = yaml.safe_dump({"model-index": [{"name": "theirs", "results": [theirs]}]})
    text = f"---\n{index}---\n\n# BERT\n\n{hub.BEGIN}\nold\n{hub.END}\n\nAfter it.\n"
    server.repositories["model", MODEL].commit({"README.md": text.encode()})
    publish(benchmarks, "--commit")
    metadata = yaml.safe_load(card(server).split("---\n")[1])
    kinds = [each["metrics"][0]["type"] for each in metadata["model-index"][0]["results"]]
    assert kinds == ["accuracy", "latency"]
    assert card(server).endswith(f"{hub.END}\n\nAfter it.\n")
    assert "\nold\n" not in card(server)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": "random"}, "weights are random"),
        ({"weights": "path"}, "weights are path"),
        ({"size": "tiny"}, "size is tiny"),
        ({"revision": None}, "the commit of the checkpoint is not known"),
        ({"status": "noisy", "noise": ["others worked"]}, "noisy: others worked"),
        ({"status": "extrapolated", "reason": "needs 28 GB"}, "extrapolated: needs 28 GB"),
        ({"device_facts": {"name": "SwiftShader", "software": True}}, "a software adapter"),
        ({"device_facts": {}}, "a software adapter"),
        ({"script_sha256": "0" * 64}, "its script has changed since"),
        ({"pipeline": {"task": "x", "status": "fail", "reason": "wrong", "output": None}}, "wrong"),
    ],
)
def test_what_says_nothing_of_a_checkpoint_is_refused(changes: dict[str, Any], why: str) -> None:
    assert hub.refusal(record(), ROOT / "fixed_tests") is None
    assert why in str(hub.refusal(record(**changes), ROOT / "fixed_tests"))


def test_only_refused_records_publish_nothing(
    server: Hub, tmp_path: Path, publish: Callable[..., str]
) -> None:
    keep(tmp_path / "none", record(weights="random"))
    said = publish(tmp_path / "none", "--commit", code=2)
    assert "not published: cpu-float32-b1 of bert: weights are random" in said
    assert "--weights pretrained" in said
    assert not server.asked


def test_other_weights_than_were_measured_are_refused(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    server.repositories["model", MODEL].commit({"model.safetensors": b"other"})
    said = publish(benchmarks, "--commit", code=5)
    assert "have changed since: measure again" in said
    assert ("dataset", RAW) not in server.repositories


def test_another_card_than_was_measured_is_no_matter(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    server.repositories["model", MODEL].commit({"README.md": b"# New text\n"})
    publish(benchmarks, "--commit")
    assert "# New text" in card(server)


@pytest.mark.parametrize(
    ("token", "why"), [(None, "`hf auth login` or HF_TOKEN"), (READER, "no right to write")]
)
def test_a_token_that_may_not_is_told(
    server: Hub, benchmarks: Path, token: str | None, why: str, publish: Callable[..., str]
) -> None:
    said = publish(benchmarks, "--create-pr", token=token, code=5)
    assert why in said
    assert "Published: nothing" in said


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("POST", "/models/google-bert/bert-base-uncased/commit", 412, "it has changed meanwhile"),
        ("POST", "/models/google-bert/bert-base-uncased/commit", 409, "somebody else"),
        ("POST", "/models/google-bert/bert-base-uncased/commit", "drop", "the connection failed"),
        ("POST", "/models/google-bert/bert-base-uncased/commit", 500, "the Hub answers 500"),
    ],
)
def test_what_breaks_half_way_is_told_and_can_be_done_again(
    server: Hub,
    benchmarks: Path,
    method: str,
    path: str,
    status: Any,
    why: str,
    publish: Callable[..., str],
) -> None:
    server.broken = [(method, path, status)]
    said = publish(benchmarks, "--commit", code=5)
    assert why in said
    assert f"Published: {RAW}; the rest is as it was: run the same command again" in said
    assert card(server) == CARD
    server.broken = []
    publish(benchmarks, "--commit")
    assert hub.BEGIN in card(server)


def test_too_many_requests_are_told_with_how_long_to_wait(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    server.broken = [("POST", "/commit/", 429)]
    assert "too many requests: wait 1 s" in publish(benchmarks, "--commit", code=5)


def test_a_checkpoint_that_is_gone_is_told(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    del server.repositories["model", MODEL]
    assert f"{MODEL}: is not there" in publish(benchmarks, code=5)


def test_a_hub_that_is_not_there_is_told(
    server: Hub, benchmarks: Path, publish: Callable[..., str]
) -> None:
    server.shutdown()
    server.server_close()
    assert "the connection failed" in publish(benchmarks, code=5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("---\nlicense: [\n---\n# BERT\n", "the metadata of its card is broken"),
        (f"# BERT\n{hub.BEGIN}\n", "more than once, or one"),
    ],
)
def test_a_broken_card_is_left_alone(
    server: Hub, benchmarks: Path, text: str, why: str, publish: Callable[..., str]
) -> None:
    server.repositories["model", MODEL].commit({"README.md": text.encode()})
    assert why in publish(benchmarks, "--commit", code=5)
    assert card(server) == text


def test_a_badge_holds_what_it_is_given_as_text() -> None:
    made = hub.badge('a"<b>', "1 & 2")
    assert "<b>" not in made
    assert "1 &amp; 2" in made
