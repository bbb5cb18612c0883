"""The matrix runs real scripts, and whatever they do becomes a record that says so."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tools_fixtures import Place, damage, gone, tell_pid, wait_for

from tools import devices, plan, scripts, worker
from tools.__main__ import main

# A shell that runs the tests in the background makes them ignore SIGINT.
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
MAIN += "from tools.__main__ import main; sys.exit(main())"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_passes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.script("alpha")
    assert place.matrix("--jobs", "1") == 0
    record = place.record("alpha-cpu")
    assert record["run"]["attempt"] == 1
    assert record["run"]["command"][1:] == [
        str(place.scripts / "test_hf_alpha.py"), "--device", "cpu"
    ]  # fmt: skip
    assert record["environment"]["threads"] == worker.cores()
    out = capsys.readouterr().out
    assert "[1/1] alpha-cpu: pass" in out
    assert "1 pass" in out.splitlines()[-1]
    assert place.query("SELECT verdict, complete FROM cells") == [("pass", True)]


def test_on_a_terminal_a_bar_shows_the_progress(place: Place) -> None:
    place.script("alpha")
    ours, theirs = os.openpty()
    command = [
        sys.executable,
        "-m",
        "tools",
        "matrix",
        *place.flags("--device", "cpu", "--runner", "fresh"),
    ]
    environment = os.environ | {"TERM": "xterm"}
    subprocess.run(command, cwd=scripts.ROOT, env=environment, stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 2**16).decode()
    os.close(ours)
    assert "1/1" in shown
    assert "1 pass" in shown


def test_what_is_unexpected_is_shown_with_the_command_that_repeats_it(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    script = place.script("alpha", export="assert False, 'off by 3'")
    assert place.matrix("--seed", "7", "--dtype", "bfloat16") == 1
    out = capsys.readouterr().out
    assert "  fail export: off by 3" in out
    flags = "--device cpu --dtype bfloat16 --seed 7 --checks export"
    assert f"  python {script} {flags}\n" in out
    command = [sys.executable, str(script), *flags.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, check=False, env=environment).returncode == 1


def test_what_is_expected_is_no_failure_and_an_unexpected_pass_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha", export="assert False, 'off by 3'")
    place.expectations.write_text(
        '[[expectation]]\nfamily = "alpha"\ncheck = "export"\ndevice = "cpu"\nstatus = "fail"\n'
        'cause = "device"\nreason = "no such operator"\n'
    )
    assert place.matrix() == 0
    assert place.query("SELECT status, verdict FROM cells") == [("fail", "expected")]
    place.script("alpha")
    capsys.readouterr()
    assert place.matrix() == 1
    assert "pass export:  (expected: fail, no such operator)" in capsys.readouterr().out
    assert place.query("SELECT status, verdict FROM cells") == [("pass", "unexpected")]


def test_a_mock_is_no_success(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    mock = "record['inference'], record['missing'], code = 'mock', ['torch'], 3\n"
    mock += "record['proof'], record['measurements']['latency_seconds'] = None, []\n"
    mock += "for c in checks: c |= {'status': 'mock', 'reason': 'torch is missing'}"
    place.script("alpha", edit=mock)
    assert place.matrix() == 1
    assert "alpha-cpu: mock: torch is missing" in capsys.readouterr().out
    assert place.query("SELECT status, verdict FROM cells") == [("mock", "mock")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_where_it_was(
    place: Place, tmp_path: Path, number: signal.Signals
) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    place.script("alpha")
    wait = f"if not Path({str(go)!r}).exists(): time.sleep(1000)"
    place.script("beta", edit=tell_pid(pid) + wait)
    place.script("gamma")
    command = [
        sys.executable,
        "-c",
        MAIN,
        "matrix",
        *place.flags("--device", "cpu", "--runner", "fresh"),
    ]
    process = subprocess.Popen(
        [*command, "--jobs", "1"], cwd=scripts.ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_for(pid)
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130, out
    assert "--resume" in out
    assert gone(int(pid.read_text()))
    run = place.run()
    assert run.interrupted
    assert run.records.keys() == {"alpha-cpu"}
    assert not run.problems
    first = (run.folder / "alpha-cpu.json").read_bytes()

    go.touch()
    assert main(["matrix", *place.flags("--runner", "fresh", "--resume")]) == 0
    again = place.run()
    assert again.folder == run.folder
    assert again.complete
    assert again.records.keys() == {"alpha-cpu", "beta-cpu", "gamma-cpu"}
    assert (run.folder / "alpha-cpu.json").read_bytes() == first, "what is done is not run again"
    assert place.query("SELECT complete, interrupted, asked, finished FROM runs") == [
        (True, False, 3, 3)
    ]


def test_resume_runs_again_what_changed_broke_or_is_missing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for family in ("alpha", "beta", "gamma", "delta"):
        place.script(family)
    assert place.matrix() == 0
    folder = place.run().folder
    place.script("alpha", forward="assert 1")
    damage(folder / "beta-cpu.json")
    (folder / "gamma-cpu.json").unlink()
    (folder / "footer.json").unlink()
    capsys.readouterr()
    assert main(["matrix", *place.flags("--runner", "fresh", "--resume", folder.name)]) == 0
    assert f"run {folder.name}: 3 jobs" in capsys.readouterr().out
    run = place.run()
    assert run.complete
    attempts = {name: record["run"]["attempt"] for name, record in run.records.items()}
    assert attempts == {"alpha-cpu": 2, "beta-cpu": 1, "gamma-cpu": 1, "delta-cpu": 1}


def test_some_checks_of_those_scripts_that_have_them(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    script = place.script("beta")
    script.write_text(script.read_text().replace("test_export", "test_cache"))
    assert place.matrix("--checks", "cache,forward", "--checks", "export") == 0
    names = {
        family: [check["name"] for check in place.record(f"{family}-cpu")["checks"]]
        for family in ("alpha", "beta")
    }
    assert names == {"alpha": ["forward", "export"], "beta": ["forward", "cache"]}
    assert "does not change the matrix" in capsys.readouterr().out
    assert place.matrix("--checks", "cache") == 0
    assert place.run().records.keys() == {"beta-cpu"}
    assert place.query("SELECT * FROM cells") == []


def test_settings_reach_the_script(place: Place, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    edit = f"Path({str(seen)!r}).write_text(json.dumps([sys.argv[1:], dict(os.environ)]))"
    place.script("alpha", edit=edit)
    (tmp_path / "weights").mkdir()
    flags = ["--weights", str(tmp_path / "weights"), "--size", "full", "--seed", "3"]
    os.environ.pop("HF_HUB_OFFLINE", None)
    assert place.matrix(*flags) == 0
    arguments, environment = json.loads(seen.read_text())
    assert arguments[:-2] == ["--device", "cpu", *flags]
    assert "HF_HUB_OFFLINE" not in environment
    assert place.run().records.keys() == {"alpha-cpu-path-full"}
    assert place.matrix() == 0
    arguments, environment = json.loads(seen.read_text())
    assert arguments[:-2] == ["--device", "cpu"]
    assert environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--family", "brt"], "unknown family 'brt' (did you mean 'bert'?)"),
        (["--family", "bert,,"], "has an empty name"),
        (["--device", "cdua"], "unknown device 'cdua' (did you mean 'cuda'?)"),
        (["--device", "cuda:x"], "unknown device 'cuda:x' (did you mean 'cuda'?)"),
        (["--checks", "forwrad"], "unknown check 'forwrad' (did you mean 'forward'?)"),
        (["--weights", "pretraind"], "'pretraind' (did you mean 'pretrained'?)"),
        (["--dtype", "float23"], "invalid choice: 'float23'"),
        (["--jobs", "0"], "0 is not at least 1"),
        (["--timeout", "inf"], "inf is not a positive number"),
        (["--famly", "bert"], "unknown flag '--famly' (did you mean '--family'?)"),
        (["--famly=bert"], "unknown flag '--famly' (did you mean '--family'?)"),
        (["bert"], "unknown argument 'bert'"),
        (["--resume"], "there is no run in"),
        (["--resume", "--family", "bert"], "leave out --family"),
        (["--scripts", "/nowhere"], "/nowhere has no scripts"),
    ],
)
def test_what_is_misspelt_is_told_with_the_likely_fix(
    place: Place, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    place.script("bert")
    try:
        code = main(["matrix", *place.flags(*flags)])
    except SystemExit as error:  # how argparse ends
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not place.results.exists()


def test_all_commands_accept_the_flags_of_all(place: Place) -> None:
    for command in ("matrix", "publish", "ingest", "devices", "node"):
        options = place.options(command, "--device", "cpu,cuda", "--output", "there", "--json")
        assert (options.device, options.output) == (["cpu", "cuda"], Path("there"))


def test_a_device_that_is_not_here_is_told_at_once(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    assert place.matrix(device="cuda:99") == 4
    assert "cuda:99" in capsys.readouterr().err
    assert not place.results.exists()


def test_beside_a_device_that_is_here_the_absent_one_is_recorded(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    assert place.matrix(device="cpu,cuda:99") == 0
    assert "cuda:99 is not here" in capsys.readouterr().out
    assert place.record("alpha-cuda-99")["run"]["exit_code"] == 4
    assert place.query("SELECT device, status, verdict FROM cells ORDER BY device") == [
        ("cpu", "pass", "pass"),
        ("cuda:99", "skip", "skip"),
    ]


def test_browsers_run_only_when_they_are_asked_for(place: Place) -> None:
    place.script("alpha")
    here = [devices.answer(device, None) for device in ("cpu", "openvino", "webgpu")]
    planned = plan.start(place.options("matrix"), lambda _: here)
    with planned.lock:
        assert [job["device"] for job in planned.manifest["jobs"]] == ["cpu", "openvino"]


def test_the_devices_of_this_machine_are_shown() -> None:
    command = [sys.executable, "-m", "tools", "devices", "--device", "cpu,cuda:99"]
    wide = os.environ | {"COLUMNS": "300", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, cwd=scripts.ROOT, env=wide, capture_output=True, encoding="utf-8", check=True
    )
    here, _, away = done.stdout.partition("not here")
    assert re.search(r"cpu +│ \S+.* │ +│ \d+ GiB │ ", here)
    assert re.search(r"cuda:99 +│ torch \S+ cannot use cuda:99: \S+", away)


def test_the_runner_is_free_of_torch() -> None:
    code = "import sys, tools.matrix; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=scripts.ROOT, check=True)
