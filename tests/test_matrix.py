"""The matrix runs real scripts, and whatever they do becomes a record that says so."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tools_fixtures import Place, damage

from tools import results, scripts, worker
from tools.__main__ import main
from tools.processes import LOG_BYTES
from tools.results import Check, Record

# A shell that runs the tests in the background makes them ignore SIGINT.
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
MAIN += "from tools.__main__ import main; sys.exit(main())"
WRITE_BROKEN = "Path(options.json).write_text({text!r}); sys.exit({code})"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def gone(pid: int, within: float = 5) -> bool:
    """Whether the process has ended, or does soon."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody has waited for it
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path, within: float = 20) -> None:
    """Wait until `path` exists."""
    deadline = time.monotonic() + within
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.02)


def tell_pid(path: Path) -> str:
    """Code that writes the number of its process to `path`, at once."""
    fresh = f"Path({str(path)!r}).with_suffix('.new')"
    return f"{fresh}.write_text(str(os.getpid())); {fresh}.rename({str(path)!r})\n"


def script_check(record: Record) -> Check:
    """The check that the runner has added."""
    return next(check for check in record["checks"] if check["name"] == "script")


# What a script does after its record is ready -> status, what the reason says, exit code.
SABOTAGE = {
    "segfault": ("import ctypes; ctypes.string_at(0)", "crash", "was killed by SIGSEGV (11)", -11),
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "crash",
        "probably the kernel was out of",
        -9,
    ),
    "aborted": ("os.abort()", "crash", "was killed by SIGABRT (6)", -6),
    "realtime": ("os.kill(os.getpid(), 40)", "crash", "was killed by a signal (40)", -40),
    "silent": ("sys.exit(0)", "error", "exit code 0, but left no record", 0),
    "raises": ("raise OSError('no space')", "error", "OSError: no space", 1),
    "usage": ("parser.error('no such thing')", "error", "exit code 2, but left no record", 2),
    "truncated": (
        WRITE_BROKEN.format(text='{"schema_version": 1, "fam', code=0),
        "error",
        "its record is broken: cannot be read (Unterminated",
        0,
    ),
    "foreign": ("record['family'] = 'other'", "error", "family is 'other', asked was 'foreign'", 0),
    "other_file": ("record['script']['sha256'] = '0' * 64", "error", "script.sha256 is '0000", 0),
    "other_size": ("record['size'] = 'full'", "error", "size is 'full', asked was 'tiny'", 0),
    "other_seed": ("record['seed'] = 1", "error", "seed is 1, asked was 0", 0),
    "other_device": (
        "record['device']['requested'] = 'mps'",
        "error",
        "device.requested is 'mps'",
        0,
    ),
    "elsewhere": ("record['device']['observed'] = 'cuda'", "error", "checks passed on cuda", 0),
    "nowhere": ("record['device']['observed'] = None", "error", "checks passed on None", 0),
    "pretends": ("record['run'] = {}", "error", "run: 'id' is a required property", 0),
    "misspelt": ("record['sed'] = 0", "error", "did you mean 'seed'", 0),
    "not_finite": (
        "record['checks'][0]['value'] = float('nan')",
        "error",
        "NaN is not a finite",
        0,
    ),
    "passes_but_1": ("code = 1", "error", "contradicts that (real inference, 2 pass)", 1),
    "fails_but_0": (
        "record['checks'][0] |= {'status': 'fail', 'reason': 'x'}",
        "error",
        "contradicts that (real inference, 1 fail, 1 pass)",
        0,
    ),
    "forgets": ("checks.pop()", "error", "the checks forward; asked were forward, export", 0),
    "invents": ("checks.append(checks[0])", "error", "forward, export, forward; asked were", 0),
    "passes_but_3": ("code = 3", "error", "ended with exit code 3, but its record contradicts", 3),
    "passes_but_4": ("code = 4", "error", "ended with exit code 4, but its record contradicts", 4),
    "passes_but_9": ("code = 9", "error", "ended with exit code 9, but its record contradicts", 9),
    "mock_passes": ("record['inference'] = 'mock'", "error", "'pass' should not be valid", 0),
    "escape_codes": ("print('\\x1b[31mred'); sys.exit(0)", "error", "\n [31mred", 0),
}


@pytest.fixture(scope="module", params=["fresh", "warm"])
def sabotaged(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Place:
    """A finished run of all kinds of SABOTAGE, one script that is no Python, and a good one."""
    place = Place(tmp_path_factory.mktemp("sabotage"))
    for family, (code, *_) in SABOTAGE.items():
        place.script(family, edit=code)
    place.script("crash_at_exit", end="os.kill(os.getpid(), signal.SIGSEGV)")
    place.script("good")
    (place.scripts / "test_hf_no_python.py").write_text("def (:\n")
    assert place.matrix("--jobs", "4", "--retries", "0", runner=request.param) == 1
    assert {record["run"]["runner"] for record in place.run().records.values()} == {request.param}
    return place


@pytest.mark.parametrize("family", SABOTAGE)
def test_whatever_a_script_does_becomes_a_record_that_says_so(
    sabotaged: Place, family: str
) -> None:
    _, status, reason, exit_code = SABOTAGE[family]
    record = sabotaged.record(f"{family}-cpu")
    assert [check["name"] for check in record["checks"]] == ["script"]
    assert record["checks"][0]["status"] == status
    assert reason in (record["checks"][0]["reason"] or "")
    assert "\x1b" not in (record["checks"][0]["reason"] or "")
    assert record["run"]["exit_code"] == exit_code
    assert (record["architecture"], record["model_class"]) == ("encoder_only", "AlphaModel")
    assert (sabotaged.run().folder / record["run"]["log"]).exists()


def test_a_crash_says_where(sabotaged: Place) -> None:
    reason = script_check(sabotaged.record("segfault-cpu"))["reason"]
    assert "in main" in (reason or ""), "the last output has Python's stack"


def test_a_script_that_is_no_python_is_an_error(sabotaged: Place) -> None:
    record = sabotaged.record("no_python-cpu")
    assert "SyntaxError" in (script_check(record)["reason"] or "")
    assert record["architecture"] is None


def test_what_a_script_found_before_it_crashed_is_kept(sabotaged: Place) -> None:
    record = sabotaged.record("crash_at_exit-cpu")
    found = [(check["name"], check["status"]) for check in record["checks"]]
    assert found == [("forward", "pass"), ("export", "pass"), ("script", "crash")]


def test_a_run_with_sabotage_is_complete_and_its_good_script_passes(sabotaged: Place) -> None:
    run = sabotaged.run()
    assert run.complete
    assert run.footer is not None
    assert run.footer["counts"] == results.count(run.records)
    assert sabotaged.query("SELECT family FROM cells WHERE verdict = 'pass'") == [("good",)]
    assert sabotaged.query("SELECT count(*) FROM cells WHERE verdict = 'unexpected'") == [
        (len(SABOTAGE) + 2,)
    ]


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
    mock += "for c in checks: c |= {'status': 'mock', 'reason': 'torch is missing'}"
    place.script("alpha", edit=mock)
    assert place.matrix() == 1
    assert "alpha-cpu: mock: torch is missing" in capsys.readouterr().out
    assert place.query("SELECT status, verdict FROM cells") == [("mock", "mock")]


@pytest.mark.parametrize("own_session", [False, True])
def test_a_hanging_script_is_stopped_with_all_its_processes(
    place: Place, own_session: bool
) -> None:
    pids = place.scripts / "pids"
    place.script(
        "alpha",
        edit=f"child = subprocess.Popen(['sleep', '1000'], start_new_session={own_session})\n"
        f"Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('about to hang'); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)",
    )
    assert place.matrix("--timeout", "2", "--retries", "0") == 1
    check = script_check(place.record("alpha-cpu"))
    assert check["status"] == "timeout"
    assert "was stopped after 2 s, its time limit" in (check["reason"] or "")
    assert "about to hang" in (check["reason"] or "")
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_process_that_outlives_its_script_is_killed_and_not_waited_for(place: Place) -> None:
    pid = place.scripts / "pid"
    hold = f"Path({str(pid)!r}).write_text(str(subprocess.Popen(['sleep', '1000']).pid))"
    place.script("alpha", edit=hold)
    assert place.matrix() == 0
    assert place.record("alpha-cpu")["run"]["wall_seconds"] < 10
    assert gone(int(pid.read_text()))


def test_a_flood_of_output_is_bounded_and_keeps_both_ends(place: Place) -> None:
    flood = "print('the beginning')\nfor _ in range(100): print('x' * 2**20)\nprint('the end')"
    place.script("alpha", edit=flood)
    assert place.matrix() == 0
    log = (place.run().folder / "logs" / "alpha-cpu.txt").read_bytes()
    assert 2 * LOG_BYTES <= len(log) <= 2 * LOG_BYTES + 100
    assert log.startswith(b"the beginning\n")
    assert log.endswith(b"the end\n")
    assert b"bytes are left out here" in log


def test_a_script_that_vanishes_or_changes_meanwhile_is_an_error(place: Place) -> None:
    gone, changes = place.script("gone"), place.script("new")
    code = f"Path({str(gone)!r}).unlink(); Path({str(changes)!r}).open('a').write('#')"
    place.script("alpha", edit=code)
    assert place.matrix("--jobs", "1") == 1
    assert "No such file" in (script_check(place.record("gone-cpu"))["reason"] or "")
    assert "script.sha256 is" in (script_check(place.record("new-cpu"))["reason"] or "")
    assert place.query("SELECT family FROM cells WHERE verdict = 'pass'") == [("alpha",)]


def test_scripts_leave_nothing_behind(place: Place, tmp_path: Path) -> None:
    litter = "import tempfile; Path('litter').touch(); tempfile.mkdtemp()\n"
    where = f"Path({str(tmp_path / 'where')!r}).write_text(os.getcwd())"
    place.script("alpha", edit=litter + where)
    assert place.matrix() == 0
    assert not Path((tmp_path / "where").read_text()).exists()


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


def test_a_run_that_dies_is_marked_and_can_be_resumed(place: Place, tmp_path: Path) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    wait = f"if not Path({str(go)!r}).exists(): time.sleep(1000)"
    place.script("alpha", edit=tell_pid(pid) + wait)
    command = [
        sys.executable,
        "-m",
        "tools",
        "matrix",
        *place.flags("--device", "cpu", "--runner", "fresh"),
    ]
    process = subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.DEVNULL)
    wait_for(pid)
    process.kill()
    process.wait()
    with contextlib.suppress(psutil.NoSuchProcess):  # the kernel may have been quicker
        psutil.Process(int(pid.read_text())).wait(10)
    assert main(["ingest", *place.flags()]) == 1
    assert place.query("SELECT verdict, complete FROM cells") == [("not run", False)]
    go.touch()
    assert main(["matrix", *place.flags("--runner", "fresh", "--resume")]) == 0
    assert place.query("SELECT verdict, complete FROM cells") == [("pass", True)]


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
    for command in ("matrix", "publish", "ingest", "devices"):
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


def test_the_devices_of_this_machine_are_shown() -> None:
    command = [sys.executable, "-m", "tools", "devices", "--device", "cpu,cuda:99"]
    wide = os.environ | {"COLUMNS": "300", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, cwd=scripts.ROOT, env=wide, capture_output=True, encoding="utf-8", check=True
    )
    assert re.search(r"cpu +│ ✓ ", done.stdout)
    assert re.search(r"cuda:99 +│ ✗ +│ \S+", done.stdout)


def test_the_runner_is_free_of_torch() -> None:
    code = "import sys, tools.matrix; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=scripts.ROOT, check=True)
