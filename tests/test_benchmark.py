"""Benchmarks: what the samples mean, whether a model fits, and real measurements of tiny models."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import results
from tools.__main__ import main, parse
from tools.benchmark import report, run, statistics, vs
from tools.reports.data import ReportError
from tools.scripts import ROOT
from tools.usage import UsageError

SCRIPTS = ROOT / "fixed_tests"
TINY = ["--size", "tiny", "--family", "bert"]


def request(**changes: Any) -> dict[str, Any]:
    """The first measurement that the flags of a tiny BERT ask for."""
    return {**next(run.asked(parse(["benchmark", *TINY]))), **changes}


class Timed:
    """Stands for a child whose calls take what `seconds()` says."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds, self.blocks = seconds, 0

    def ask(self, command: str, **_: Any) -> list[float]:
        self.blocks += command == "time"
        return [self.seconds()] * 3


def compared(slowdown: float, seed: int) -> statistics.Ratio:
    """Of two models on a machine that drifts, and is at other work now and then.

    Bursts of work last for some blocks, so they hit one of a pair or both.
    """
    rng, blocks = np.random.default_rng(seed), itertools.count()
    drift, burst = 1 + 0.1 * np.sin(np.arange(400) / 8 + rng.uniform(0, 6)), np.ones(400)
    for begin in np.flatnonzero(rng.random(400) < 0.04):
        burst[begin : begin + rng.integers(1, 6)] = 1 + rng.exponential(0.5)

    def block() -> float:
        number = next(blocks)
        return float(drift[number] * burst[number] * rng.normal(1, 0.03))

    both = Timed(block), Timed(lambda: slowdown * block())
    return vs.in_turn(*both)[0]  # type: ignore[arg-type]


def test_the_same_is_rarely_called_different() -> None:
    assert sum(compared(1, seed)["differs"] for seed in range(200)) <= 4


def test_a_slowdown_of_a_twentieth_is_seen() -> None:
    ratios = [compared(1.05, seed) for seed in range(200)]
    assert sum(ratio["differs"] and ratio["ratio"] > 1 for ratio in ratios) >= 190
    assert sum(ratio["low"] <= 1.05 <= ratio["high"] for ratio in ratios) >= 194


def test_the_interval_of_the_median_covers_it() -> None:
    rng = np.random.default_rng(1)
    found = [statistics.summarise(list(rng.lognormal(0, 0.2, 40))) for _ in range(100)]
    assert sum(summary["low"] <= 1 <= summary["high"] for summary in found) >= 88
    assert all(s["low"] <= s["median"] <= s["high"] <= s["p99"] for s in found)


def test_a_tiny_model_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 0.1)
    record = run.measure(request(batch=3, length=20), 600, {})
    assert record["status"] in ("measured", "noisy")
    assert record["inputs"]["input_ids"] == [3, 20]
    assert record["latency"]["count"] >= run.CALLS
    assert record["predicted"]["weights"] == record["model_bytes"]
    assert record["predicted"]["run"] > record["predicted"]["weights"]
    assert record["throughput_per_second"] == pytest.approx(3 / record["latency"]["median"])
    assert record["flops"] > 0
    assert record["roofline"]["flops_per_second"] > 1e8


def test_a_graph_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 0.1)
    record = run.measure(request(device="openvino"), 600, {})
    assert record["status"] in ("measured", "noisy"), record["reason"]
    assert record["precision"] == "f32"
    assert record["latency"]["count"] >= run.CALLS


@pytest.mark.slow
def test_what_fits_can_be_extrapolated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 0.1)
    record = run.measure(request(family="electra", script=str(SCRIPTS / "test_hf_electra.py"),
                                 size="full", extrapolate=True), 600, {})  # fmt: skip
    found = record["extrapolated"]
    assert record["status"] in ("measured", "noisy")
    assert found["layers"] == record["layers"] == 12
    assert found["resident_bytes"] == pytest.approx(record["memory"]["resident"], rel=0.3)
    assert found["latency_seconds"] > 0


def test_a_model_of_few_layers_is_not_extrapolated() -> None:
    with pytest.raises(run.NotExtrapolated, match="no layers to leave out"):
        run.extrapolate(request(script=str(SCRIPTS / "test_hf_resnet.py")), 600)


def test_what_does_not_fit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SHARE", 1e-9)
    monkeypatch.setattr(run, "Child", None)  # to build one would fail
    record = run.measure(request(), 600, {})
    assert record["status"] == "skip"
    assert "GB, " in record["reason"]
    assert "free" in record["reason"]


def test_a_child_that_dies_says_so(tmp_path: Path) -> None:
    script = tmp_path / "test_hf_x.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(run.ChildFailed, match="exit code -11"):
        run.Child(request(script=str(script)), 300)
    script.write_text("raise ValueError('no such thing')")
    with pytest.raises(run.ChildFailed, match="ValueError: no such thing"):
        run.Child(request(script=str(script)), 300)


def test_a_child_that_dies_while_it_is_watched_says_so() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch = run.Watch(process.pid)
    watch.__enter__()
    process.kill()
    process.communicate()
    watch.__exit__(run.ChildFailed, run.ChildFailed("gone"), None)  # and is not what is told


def test_a_child_that_hangs_is_given_up(tmp_path: Path) -> None:
    script = tmp_path / "test_hf_x.py"
    script.write_text("import time\ntime.sleep(600)")
    with pytest.raises(run.ChildFailed, match="no answer within 1 s"):
        run.Child(request(script=str(script)), 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed=1", "unknown key"),
        ("dtype", "say with what"),
        ("python=/no/such", "is not a program"),
        ("loop=while", "is not timeit"),
        ("passes=half", "no number of passes, such as 21"),
    ],
)
def test_an_impossible_comparison_is_refused(text: str, words: str) -> None:
    with pytest.raises(Exception, match=words):
        vs.parse(text)


def test_depth_cuts_all_stacks_alike() -> None:
    code = """
        import sys; sys.path.insert(0, "tools/benchmark")
        import child, pathlib
        script = child.load_script(pathlib.Path("fixed_tests/test_hf_whisper.py"))
        whole = script.WhisperConfig()
        child.cut_layers(script, 0.5)
        half = script.WhisperConfig()
        assert half.encoder_layers == whole.encoder_layers / 2, half.encoder_layers
        assert half.decoder_layers == whole.decoder_layers / 2, half.decoder_layers
        assert max(child.layer_counts(whole)) == whole.encoder_layers
    """
    lines = "\n".join(line.strip() for line in code.strip().splitlines())
    subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder of records: measured on two devices, noisy, extrapolated, skipped."""
    folder = tmp_path / "benchmarks" / "20260101T120000Z"
    folder.mkdir(parents=True)
    base = {**run.described(request(size="full")), "predicted": None, "free_bytes": 10**10}
    latency = {"count": 10, "median": 0.1, "low": 0.09, "high": 0.11, "p90": 0.12, "p99": 0.13}
    measured = {
        **base,
        "latency": {**latency, "iqr": 0.01},
        "warm_up_calls": 10,
        "load_seconds": 1.0,
        "first_call_seconds": 0.5,
        "parameters": 10**8,
        "model_bytes": 4 * 10**8,
        "inputs": {"input_ids": [1, 12]},
        "precision": "float32",
        "threads": 2,
        "throughput_per_second": 10.0,
        "memory": {"loading": 10**9, "resident": 5 * 10**8, "device": None},
        "predicted": {"weights": 4 * 10**8, "build": 4 * 10**8, "run": 45 * 10**7, "error": None},
        "flops": 10**9,
        "roofline": {"flops_per_second": 1e11, "bytes_per_second": 1e10},
    }
    extrapolated = {
        "layers": 24,
        "depths": [2, 4],
        "latency_seconds": 3.5,
        "resident_bytes": 10**10,
    }
    variants = [
        {**measured, "extrapolated": {**extrapolated, "latency_seconds": 0.08}},
        {**measured, "device": "openvino", "flops": None},
        {**measured, "batch": 8, "throughput_per_second": 30.0},
        {**measured, "family": "gpt2", "status": "noisy", "noise": ["other processes took 80%"]},
        {**base, "family": "llama", "status": "extrapolated", "reason": "needs 28 GB, 9 free",
         "extrapolated": extrapolated},
        {**base, "family": "vit", "status": "skip", "reason": "needs <b>28</b> GB | 9 free"},
    ]  # fmt: skip
    for number, record in enumerate(variants):
        results.write(folder / f"{number}.json", record, "benchmark")
    return folder.parent


def test_the_reports_say_what_each_record_is(records: Path) -> None:
    files = report.render(report.load(records), "../fixed_tests")
    text = files["README.md"].decode()
    assert "100 ms [90 ms, 110 ms]" in text
    assert "(noisy)" in text
    assert "3,500 ms (extrapolated)" in text
    assert "<b>" not in text
    assert "2 and 4 of 24 layers" in files["families/llama.md"].decode()
    assert "| memory | cpu | 3 | 10.0% | 10.0% |" in text
    assert "| latency, extrapolated | cpu | 1 | 20.0% | 20.0% |" in text
    assert "| memory, extrapolated | cpu | 1 | 1900.0% |" in text
    assert "other processes took 80%" in files["families/gpt2.md"].decode()
    assert len(json.loads(files["benchmarks.json"])) == 6
    assert files["benchmarks.csv"].count(b"\n") == 7
    assert {"latency.png", "throughput.png", "memory.png", "roofline.png"} <= files.keys()
    assert files == report.render(report.load(records), "../fixed_tests")


def test_a_price_list_gives_what_calls_and_tokens_cost(records: Path) -> None:
    loaded = report.load(records)
    text = report.render(loaded, "x", {"cpu": 3.6})["README.md"].decode()
    assert "$ / 1,000 calls | $ / 1 M tokens |" in text
    line = next(line for line in text.splitlines() if "| cpu | float32 | 1 | 100 ms" in line)
    assert line.endswith("| 0.1 | n/a |")
    assert report.costs(loaded[0] | {"generation": {"tokens_per_second": 100.0}}, {"cpu": 3.6}) == [
        "0.1",
        "10",
    ]
    assert "$" not in report.render(loaded, "x")["README.md"].decode()


def test_a_quiet_measurement_is_not_replaced_by_a_noisy_one(records: Path) -> None:
    first = results.read_benchmark(records / "20260101T120000Z" / "0.json")
    later = records / "20260102T120000Z"
    later.mkdir()
    noisy = {**first, "status": "noisy", "noise": ["x"], "throughput_per_second": 1.0}
    results.write(later / "0.json", noisy, "benchmark")
    [kept] = [r for r in report.load(records) if r["family"] == "bert" and r["device"] == "cpu"
              and r["batch"] == 1]  # fmt: skip
    assert kept["status"] == "measured"


def test_a_broken_record_is_named(records: Path) -> None:
    (records / "20260101T120000Z" / "0.json").write_text("{}")
    with pytest.raises(ReportError, match=r"0\.json: .*delete it, or measure again"):
        report.load(records)


def test_the_command_writes_a_record_for_each_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(request: dict[str, Any], *_: Any) -> dict[str, Any]:  # another test measures
        facts = {"status": "skip", "reason": "no", "predicted": None, "free_bytes": 1}
        return {**run.described(request), **facts}

    monkeypatch.setattr(run, "measure", told)
    assert main(["benchmark", *TINY, "--batch", "1,2", "--benchmarks", str(tmp_path)]) == 0
    paths = sorted(path.name for path in tmp_path.glob("*/*.json"))
    assert paths == ["bert-cpu-float32-b1-tiny.json", "bert-cpu-float32-b2-tiny.json"]
    assert "[2/2] bert-cpu-float32-b2-tiny: " in capsys.readouterr().out
    assert len(report.load(tmp_path)) == 2


def test_a_run_goes_on_with_what_is_missing_or_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {1: "skip", 2: "noisy", 3: "error"}

    def told(request: dict[str, Any], *_: Any) -> dict[str, Any]:
        if request["batch"] not in status:
            raise KeyboardInterrupt
        reason = {"status": status[request["batch"]], "reason": "no"}
        if reason["status"] == "noisy":
            reason |= {"latency": statistics.summarise([1.0, 1.0])}
        return {**run.described(request), "predicted": None, "free_bytes": 1, **reason}

    monkeypatch.setattr(run, "measure", told)
    command = ["benchmark", *TINY, "--batch", "1,2,3,4", "--benchmarks", str(tmp_path)]
    assert main(command) == 130
    status |= {2: "skip", 4: "skip"}
    assert main([*command, "--resume"]) == 1
    out = capsys.readouterr().out
    assert f"4 measurements, 1 of them are there, in {tmp_path}" in out
    assert "[3/3] bert-cpu-float32-b4-tiny: skip" in out
    assert len([*tmp_path.glob("*/*.json")]) == 4
    assert len([*tmp_path.iterdir()]) == 1
    with pytest.raises(UsageError, match="unknown folder '2025'"):
        run._folder(parse([*command, "--resume", "2025"]))


def test_two_attentions_are_compared_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vs, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(vs, "PAIRS", (8,))
    assert main(["benchmark", *TINY, "--vs", "attention=eager"]) == 0
    assert "bert: attention eager takes " in capsys.readouterr().out


def test_more_passes_take_longer_by_as_much(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vs, "PAIRS", (8,))
    assert main(["benchmark", *TINY, "--vs", "passes=40", "--repeats", "2"]) == 0
    *both, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("bert: passes 40 takes ") for line in both)
    assert all(" times as long as 20: " in line for line in both)
    found = re.fullmatch(
        r"bert: 2 comparisons, \d differ; median ratio (\S+); "
        r"\d intervals hold 2\.000, which is true",
        last,
    )
    assert found, last
    assert float(found[1]) > 1.3, "on a machine that does something else too"


def test_pairs_are_added_until_the_interval_is_narrow() -> None:
    rng = np.random.default_rng(0)
    for spread, pairs in ((0.01, vs.PAIRS[0]), (0.05, vs.PAIRS[2]), (0.5, vs.PAIRS[-1])):
        first, second = (Timed(lambda s=spread: rng.lognormal(-3, s)) for _ in range(2))
        ratio, _ = vs.in_turn(first, second)  # type: ignore[arg-type]
        assert ratio["pairs"] == first.blocks == second.blocks == pairs
        told = "or less" in vs.verdict(ratio)
        assert told == (spread == 0.5), "says what could not have been seen"


def test_a_plain_loop_is_refused_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="timeit runs with --size full alone"):
        vs.other(request(), {}, "loop", "timeit")


@pytest.mark.slow
def test_a_plain_loop_finds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--family", "mobilenet_v2", "--vs", "loop=timeit"]) == 0
    line = capsys.readouterr().out
    assert 0.8 < float(line.split(" takes ")[1].split()[0]) < 1.25, line


def test_an_edited_record_is_refused(records: Path) -> None:
    path = records / "20260101T120000Z" / "0.json"
    path.write_text(path.read_text("utf-8").replace('"median": 0.1', '"median": 0.05'), "utf-8")
    with pytest.raises(ReportError, match="its seal is broken"):
        report.load(records)
