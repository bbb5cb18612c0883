"""The warm parent: scripts behave as in a fresh Python, and nothing of them lives on."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools_fixtures import Place

from tools import devices, results, scripts, worker
from tools.__main__ import main
from tools.processes import Call, Limits, NoParent, Processes
from tools.results import Record

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="warm needs a safe fork")

SAMPLE = ("bert", "convnext", "llama", "mamba", "whisper")

# What a script can see of the process that it runs in.
LOOK = """
import dataclasses, faulthandler, pickle, signal, tempfile, threading
@dataclasses.dataclass
class Seen:
    here: "int" = 1
globals()["Seen"] = Seen
Seen.__qualname__ = "Seen"
main_module = sys.modules["__main__"]
seen = {
    "name": __name__, "file": __file__, "argv": sys.argv[:-1], "path": sys.path[0],
    "main": main_module.__dict__ is globals(), "pickled": pickle.loads(pickle.dumps(Seen())).here,
    "cwd_is_scratch": os.getcwd() == os.environ["TMPDIR"] == tempfile.gettempdir(),
    "faults": faulthandler.is_enabled(), "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
    "threads": threading.active_count(), "stdin": sys.stdin.read(), "encoding": sys.stdout.encoding,
    "int": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "chld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "handles": len(os.listdir("/proc/self/fd")),
    "environment": {k: v for k, v in os.environ.items()
                    if k != "TMPDIR" and not k.endswith("NUM_THREADS")},
    "threads_of_torch": os.environ["OMP_NUM_THREADS"],
}
import atexit
atexit.register(lambda: print("at exit", Seen is not None))
unclosed = open(%(seen)r + ".unclosed", "w")
unclosed.write("flushed")
threading.Thread(target=lambda: print("thread", time.sleep(0.2), Seen is not None)).start()
Path(%(seen)r).write_text(json.dumps(seen))
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def verdict(record: Record) -> list[Any]:
    """What a record says of its model: all but times, memory and the process."""
    checks = [
        (c["name"], c["status"], c["reason"], c["value"], c["bound"]) for c in record["checks"]
    ]
    same = ("family", "model_class", "script", "device", "inference", "missing", "environment")
    more = [record[key] for key in (*same, "seed")]  # type: ignore[literal-required]
    return [checks, *more, record["measurements"]["parameters"], record["run"]["exit_code"]]


@linux
def test_verdicts_are_the_same_as_of_fresh_processes(tmp_path: Path) -> None:
    found = {}
    for runner in ("warm", "fresh"):
        (tmp_path / runner).mkdir()
        place = Place(tmp_path / runner)
        families = ["--family", ",".join(SAMPLE), "--device", "cpu", "--runner", runner]
        place.scripts = scripts.ROOT / "fixed_tests"
        main(["matrix", *place.flags(*families)])
        found[runner] = place.run().records
        assert {record["run"]["runner"] for record in found[runner].values()} == {runner}
    assert found["warm"].keys() == {f"{family}-cpu" for family in SAMPLE}
    for name, record in found["warm"].items():
        assert verdict(record) == verdict(found["fresh"][name]), name


@linux
def test_a_script_sees_the_same_process(place: Place, tmp_path: Path) -> None:
    seen = {}
    for runner in ("fresh", "warm"):
        place.script("alpha", edit=LOOK % {"seen": str(tmp_path / runner)})
        assert place.matrix("--jobs", "1", runner=runner) == 0, runner
        seen[runner] = json.loads((tmp_path / runner).read_text())
        log = place.run().folder / place.record("alpha-cpu")["run"]["log"]
        assert log.read_text() == "thread None True\nat exit True\n"
        assert (tmp_path / f"{runner}.unclosed").read_text() == "flushed"
    assert seen["warm"] == seen["fresh"]
    assert seen["warm"]["environment"]["HF_HUB_OFFLINE"] == "1"


@linux
def test_warm_is_used_where_it_is_safe_and_pays(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for family in ("alpha", "beta"):
        place.script(family)
    assert place.matrix("--jobs", "1", runner="auto") == 0
    assert "2 pass (2 warm processes)" in capsys.readouterr().out
    assert place.query("SELECT DISTINCT runner, retries FROM records") == [("warm", 0)]
    assert place.matrix("--jobs", "2", runner="auto") == 0
    assert "2 pass (2 fresh processes)" in capsys.readouterr().out


def test_a_device_with_a_driver_gets_fresh_processes() -> None:
    job: Any = {"device": "cuda:1"}
    assert worker.Settings("auto").fresh(job)
    assert not worker.Settings("warm").fresh(job)
    assert not worker.Settings("auto").fresh(job | {"device": "cpu"})


def test_jobs_times_threads_are_the_cores(place: Place) -> None:
    place.script("alpha")
    for jobs in {1, worker.cores()}:
        assert place.matrix("--jobs", str(jobs)) == 0
        assert place.record("alpha-cpu")["environment"]["threads"] * jobs == worker.cores()


@linux
def test_the_output_of_the_matrix_may_be_a_file(place: Place, tmp_path: Path) -> None:
    place.script("alpha", forward="print('said', flush=True)")
    words = ["-m", "tools", "matrix", *place.flags("--device", "cpu", "--runner", "warm")]
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        done = subprocess.run(
            [sys.executable, *words], check=False, cwd=scripts.ROOT, stdout=file, stderr=file
        )
    assert (done.returncode, "1 pass (1 warm processes)" in said.read_text()) == (0, True)
    [log] = place.results.glob("*/logs/alpha-cpu.txt")
    assert log.read_text() == "said\n"


def test_facts_of_a_script_are_those_of_its_whole_text() -> None:
    made = [*scripts.find(scripts.ROOT / "fixed_tests").values()]
    for path in [*(scripts.ROOT / "templates").glob("*.py"), *made[::20]]:
        facts, body = scripts.read(path), ast.parse(path.read_bytes()).body
        functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        checks = [name.removeprefix("test_") for name in functions if name.startswith("test_")]
        assert (facts.checks, facts.constants) == (tuple(checks), scripts.literals(body))


def test_the_longest_goes_first(place: Place, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for family, seconds in {"alpha": 0.1, "beta": 0.8, "gamma": 0.4}.items():
        note = f"Path({str(order)!r}).open('a').write({family!r} + ' ')"
        place.script(family, edit=f"{note}; time.sleep({seconds})")
    assert place.matrix("--jobs", "1") == 0
    assert order.read_text().split() == ["alpha", "beta", "gamma"]
    place.script("delta", edit=f"Path({str(order)!r}).open('a').write('delta ')")
    assert place.matrix("--jobs", "1") == 0
    assert order.read_text().split()[3:] == ["delta", "beta", "gamma", "alpha"]


@linux
def test_the_parent_is_replaced_when_what_it_has_imported_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("VERSION = 1\n")  # found before the real one
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = tmp_path / "script.py"
    script.write_text("import os, timm; print(timm.VERSION, os.getppid())")
    processes = Processes("warm", Limits(1, None), os.environ, ["timm"])
    said = []
    for version in (1, 1, 2):
        if version == 2:
            (tmp_path / "timm.py").write_text("VERSION = 2 # new\n")
        ended = processes.run(Call(script, [], tmp_path, tmp_path / "log", 60))
        assert ended is not None
        assert ended.exit_code == 0, ended.last
        said.append(ended.last.decode().split())
    processes.stop()
    assert [version for version, _ in said] == ["1", "1", "2"]
    assert said[0][1] == said[1][1] != said[2][1]


@linux
def test_where_the_parent_does_not_start_scripts_run_fresh(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "timm.py").write_text("raise RuntimeError('built for another CPU')")
    monkeypatch.setenv("PYTHONPATH", str(site))
    place.script("alpha")
    assert place.matrix(runner="warm") == 0
    assert "built for another CPU" in capsys.readouterr().out
    assert place.record("alpha-cpu")["run"]["runner"] == "fresh"


@linux
def test_for_devices_with_a_driver_no_parent_is_warmed_up(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('somebody warms it up')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(devices, "probe", lambda asked: [devices.answer("cuda", None)])
    for family in ("alpha", "beta"):
        place.script(family)
    assert place.matrix("--jobs", "1", device="cuda", runner="auto") == 0
    assert "no warm parent" not in capsys.readouterr().out
    assert {record["run"]["runner"] for record in place.run().records.values()} == {"fresh"}


@linux
def test_a_parent_with_threads_refuses_to_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()"
    (tmp_path / "timm.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    processes = Processes("warm", Limits(1, None), os.environ, ["timm"])
    script = tmp_path / "script.py"
    script.touch()
    with pytest.raises(NoParent, match="has started 1 threads"):
        processes.run(Call(script, [], tmp_path, tmp_path / "log", 60))
    processes.stop()


@linux
def test_the_parent_runs_no_operator_and_wakes_no_driver() -> None:
    code = """if True:
        import os, sys
        sys.argv = ["parent"]
        from tools import parent
        parent._import(parent.WARM)
        import torch
        assert not torch.cuda.is_initialized()
        assert len(os.listdir("/proc/self/task")) == 1, "threads would not survive a fork"
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=scripts.ROOT, env=environment, check=True)


def test_statistics_of_a_run_are_in_its_record(place: Place) -> None:
    place.script("alpha", edit="sum(range(10**7))")
    assert place.matrix() == 0
    run = results.read_run(place.run().folder).records["alpha-cpu"]["run"]
    assert 0.01 < run["cpu_seconds"] < 60
    assert run["node"] == os.uname().nodename
    assert "retries" not in run
