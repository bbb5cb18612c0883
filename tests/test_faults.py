"""What can go wrong in a run does go wrong here, under both runners where that makes a difference.

Each fault has to become the right status with a reason, and must not cost what is finished. After
each test no process is left of it, and no file where temporary ones belong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest
from tools_fixtures import Place, a_record, gone, script_check, tell_pid, wait_for

from tools import database, devices, processes, results, scripts
from tools.__main__ import main
from tools.parent import OOM_SCORE, PROCESSES
from tools.processes import LOG_BYTES
from tools.publish import BEGIN, END
from tools.results import Record

linux = sys.platform.startswith("linux")  # elsewhere is no warm parent, and nothing that adopts
both_runners = pytest.mark.parametrize("runner", ["fresh", "warm"] if linux else ["fresh"])

WRITE_BROKEN = "Path(options.json).write_text({text!r}); sys.exit({code})"

# 2 ** 7 processes, each for a minute at most, and each in a session of its own.
BOMB = """
for _ in range(7):
    if os.fork() == 0:
        os.setsid()
    signal.alarm(60)
time.sleep(60)
"""

# What a script does after its record is ready -> status, what the reason says, exit code.
FAULTS = {
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
    "pretends": ("record['run'] = {}", "error", 'run: "id" is a required property', 0),
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
    "mock_passes": ("record['inference'] = 'mock'", "error", 'is not of type "null"', 0),
    "escape_codes": ("print('\\x1b[31mred'); sys.exit(0)", "error", "\n [31mred", 0),
    "out_of_memory": ("bytearray(3 * 2**30)", "error", "MemoryError", 1),
    "fork_bomb": (BOMB, "crash", "was killed because it had ", -9),
    "other_json": (
        WRITE_BROKEN.format(text='{"name": "x"}', code=0),
        "error",
        '"schema_version" is a required property',
        0,
    ),
    "other_kind": (
        WRITE_BROKEN.format(text="[]", code=0),
        "error",
        '[] is not of type "object"',
        0,
    ),
    "deep_json": (WRITE_BROKEN.format(text="[" * 10**5, code=0), "error", "recursion depth", 0),
    "no_text": ("Path(options.json).write_bytes(b'\\xff'); sys.exit(0)", "error", "codec can't", 0),
    "endless": (
        "os.truncate(os.open(options.json, os.O_CREAT | os.O_WRONLY), 2**40); sys.exit(0)",
        "error",
        "its record is broken: it has 1099511627776 bytes",
        0,
    ),
    "pipe": ("os.mkfifo(options.json); sys.exit(0)", "error", "exit code 0, but left no record", 0),
}

# It comes back at once, and leaves a process that is nobody's child and ignores what it is told.
DAEMON = """
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(60)
        os.write(tell, str(os.getpid()).encode())
        time.sleep(60)
    os._exit(0)
Path({pid!r}).write_text(os.read(ready, 99).decode())
"""

FLOOD = """
print('the beginning', file=sys.{stream})
for _ in range(100): print('x' * 2**20, file=sys.{stream})
print('the end', file=sys.{stream})
"""

# Ways not to come to an end, none of which listens to anybody.
HANGS = {
    "loop": "while True: pass",
    "native": "import ctypes; ctypes.PyDLL(None).sleep(1000)  # which keeps the GIL",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "child": "subprocess.run(['sleep', '1000'])",
    "session": "subprocess.run(['sleep', '1000'], start_new_session=True)",
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_left(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No process of a test outlives it, and no temporary file."""
    mark = secrets.token_hex(8)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("PROVING_GROUND_MARK", mark)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    for process in marked(mark):
        assert gone(process.pid), process
    deadline = time.monotonic() + 10  # after a killed runner, its parent tidies up
    while left := [*temporary.iterdir(), *tmp_path.glob(".*"), *place.results.glob("*/.*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def marked(mark: str) -> list[psutil.Process]:
    """The processes of a test: they have its mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PROVING_GROUND_MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(place: Place, *more: str) -> subprocess.Popen[str]:
    """The matrix in a process of its own."""
    flags = place.flags("--device", "cpu", *more)
    command = [sys.executable, "-m", "tools", "matrix", *flags]
    return subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.PIPE, text=True)


def resume(place: Place) -> int:
    """Go on with the last run; the exit code."""
    return main(["matrix", *place.flags("--runner", "fresh", "--resume")])


def publish(place: Place, folder: Path) -> Any:
    """The published matrix.json."""
    (folder / "README.md").write_text(f"{BEGIN}\n{END}\n")
    assert main(["publish", *place.flags("--output", str(folder))]) == 0
    return json.loads((folder / "compatibility_reports" / "matrix.json").read_text())


def once(path: Path, code: str) -> str:
    """Code that does `code` only where `path` is missing, which it makes first."""
    return f"if not Path({str(path)!r}).exists():\n    Path({str(path)!r}).touch()\n    {code}\n"


def until(path: Path) -> str:
    """Code that waits until `path` exists, a minute at most."""
    return f"for _ in range(600): Path({str(path)!r}).exists() or time.sleep(0.1)\n"


def reason(record: Record) -> str:
    """What the check of the runner says."""
    return script_check(record)["reason"] or ""


# One script.


@both_runners
def test_whatever_a_script_does_becomes_a_record_that_says_so(
    place: Place, runner: str, subtests: pytest.Subtests
) -> None:
    for family, (code, *_) in FAULTS.items():
        place.script(family, edit=code)
    place.script("crash_at_exit", end="os.kill(os.getpid(), signal.SIGSEGV)")
    place.script("good")
    (place.scripts / "test_hf_no_python.py").write_text("def (:\n")
    flags = ("--jobs", "4", "--retries", "0", "--memory", "2")
    assert place.matrix(*flags, runner=runner) == 1
    run = place.run()
    assert {record["run"]["runner"] for record in run.records.values()} == {runner}
    for family, (_, status, said, exit_code) in FAULTS.items():
        with subtests.test(fault=family):
            record = run.records[f"{family}-cpu"]
            assert [check["name"] for check in record["checks"]] == ["script"]
            assert record["checks"][0]["status"] == status
            assert said in reason(record)
            assert "\x1b" not in reason(record)
            assert record["run"]["exit_code"] == exit_code
            assert (record["architecture"], record["model_class"]) == ("encoder_only", "AlphaModel")
            assert (run.folder / record["run"]["log"]).exists()
    with subtests.test("a crash says where"):
        said = reason(run.records["segfault-cpu"])
        assert "in main" in said, "Python's stack is in the output"
        assert 'File "test_hf_segfault.py"' in said, "the folder is this machine's affair"
    with subtests.test("a bomb is stopped before all of it has gone off"):
        assert PROCESSES < int(reason(run.records["fork_bomb-cpu"]).split()[7]) <= 2**7
    with subtests.test("a script that is no Python"):
        record = run.records["no_python-cpu"]
        assert "SyntaxError" in reason(record)
        assert record["architecture"] is None
    with subtests.test("what a script found before it crashed is kept"):
        checks = run.records["crash_at_exit-cpu"]["checks"]
        found = [(check["name"], check["status"]) for check in checks]
        assert found == [("forward", "pass"), ("export", "pass"), ("script", "crash")]
    with subtests.test("the run is complete, and its good script passes"):
        assert run.complete
        assert run.footer is not None
        assert run.footer["counts"] == results.count(run.records)
        cells = "SELECT count(*), any_value(family) FROM cells GROUP BY verdict ORDER BY 1"
        assert place.query(cells)[0] == (1, "good")
        assert [number for number, _ in place.query(cells)] == [1, len(FAULTS) + 2]


@both_runners
def test_what_a_script_leaves_running_or_prints_is_bounded_and_it_passes(
    place: Place, tmp_path: Path, runner: str
) -> None:
    litter = "import tempfile; Path('litter').touch(); tempfile.mkdtemp()\n"
    pids = {family: tmp_path / family for family in ("daemon", "child")}
    place.script("daemon", edit=DAEMON.format(pid=str(pids["daemon"])) + litter)
    hold = f"Path({str(pids['child'])!r}).write_text(str(subprocess.Popen(['sleep', '1000']).pid))"
    place.script("child", edit=hold)
    for stream in ("stdout", "stderr"):
        place.script(stream, edit=FLOOD.format(stream=stream))
    score = f"assert Path('/proc/self/oom_score_adj').read_text().strip() == {OOM_SCORE!r}"
    place.script("victim", edit=score if linux else "")
    assert place.matrix("--jobs", "2", runner=runner) == 0
    run = place.run()
    assert {record["run"]["runner"] for record in run.records.values()} == {runner}
    for family, pid in pids.items():
        assert run.records[f"{family}-cpu"]["run"]["wall_seconds"] < 30, "it was waited for"
        assert gone(int(pid.read_text()))
    for stream in ("stdout", "stderr"):
        log = (run.folder / "logs" / f"{stream}-cpu.txt").read_bytes()
        assert 2 * LOG_BYTES <= len(log) <= 2 * LOG_BYTES + 100
        assert log.startswith(b"the beginning\n")
        assert log.endswith(b"the end\n")
        assert b"bytes are left out here" in log


@both_runners
def test_a_hanging_script_is_stopped_with_all_its_processes(place: Place, runner: str) -> None:
    for family, code in HANGS.items():
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('about to hang')\n"
        place.script(family, edit=deaf + code)
    flags = ("--timeout", "4", "--retries", "0", "--jobs", str(len(HANGS)))
    assert place.matrix(*flags, runner=runner) == 1
    for family in HANGS:
        record = place.record(f"{family}-cpu")
        assert script_check(record)["status"] == "timeout"
        assert re.search(r"was stopped after \d+ s, its time limit", reason(record))
        assert "about to hang" in reason(record)
        assert record["run"]["runner"] == runner


def test_a_script_that_vanishes_or_changes_meanwhile_is_an_error(place: Place) -> None:
    vanishes, changes = place.script("gone"), place.script("new")
    code = f"Path({str(vanishes)!r}).unlink(); Path({str(changes)!r}).open('a').write('#')"
    place.script("alpha", edit=code)
    assert place.matrix("--jobs", "1") == 1
    assert "No such file" in reason(place.record("gone-cpu"))
    assert "script.sha256 is" in reason(place.record("new-cpu"))
    assert place.query("SELECT family FROM cells WHERE verdict = 'pass'") == [("alpha",)]


# Trying again.


@both_runners
def test_what_ends_otherwise_when_tried_again_is_flaky_and_never_a_pass(
    place: Place, tmp_path: Path, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    crash, hang = "os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(1000)"
    for family, code in {"crash_pass": crash, "hang_pass": hang, "crash_fail": crash}.items():
        fails = "record['checks'][0] |= {'status': 'fail', 'reason': 'off by 3'}; code = 1"
        then = fails if family == "crash_fail" else ""
        place.script(family, edit=once(tmp_path / family, code) + then)
    place.script("crash_hang", edit=once(tmp_path / "crash_hang", crash) + hang)
    place.script("crash_crash", edit=crash)
    assert place.matrix("--jobs", "5", "--timeout", "4", runner=runner) == 1
    out = capsys.readouterr().out
    records = place.run().records
    worst = {name.removesuffix("-cpu"): results.worst(each) for name, each in records.items()}
    flaky = ("crash_fail", "crash_hang", "crash_pass", "hang_pass")
    assert worst == dict.fromkeys(flaky, "flaky") | {"crash_crash": "crash"}
    for name, record in records.items():
        [retry] = record["run"]["retries"]
        assert (retry["attempt"], retry["runner"]) == (1, runner)
        assert (record["run"]["attempt"], record["run"]["runner"]) == (2, "fresh")
        assert retry["status"] == ("timeout" if name == "hang_pass-cpu" else "crash")
        for log in (retry["log"], record["run"]["log"]):
            assert (place.run().folder / str(log)).exists()
    assert f"attempt 1 ({runner}): the script was killed by SIGSEGV" in reason(
        records["crash_pass-cpu"]
    )
    assert "attempt 2 (fresh): it ended by itself" in reason(records["crash_pass-cpu"])
    assert [check["status"] for check in records["crash_fail-cpu"]["checks"]] == [
        "fail", "pass", "flaky"
    ]  # fmt: skip
    assert "crash_pass-cpu: flaky" in out
    assert "  flaky script: the script does not end the same way each time" in out
    assert "5 unexpected (5 fresh processes)" in out
    published = publish(place, tmp_path)
    cells = {each["family"]: each["cells"]["cpu"] for each in published["families"]}
    assert {cells[family]["outcome"] for family in flaky} == {"flaky"}
    assert {cell["verdict"] for cell in cells.values()} == {"unexpected"}
    assert "**cpu**: 0 of 5 families pass every check (4 flaky, 1 crash)." in (
        tmp_path / "README.md"
    ).read_text("utf-8")


def test_what_is_not_to_be_tried_again_is_not(place: Place) -> None:
    place.script("alpha", edit="os.kill(os.getpid(), signal.SIGSEGV)")
    place.script("beta", edit="raise OSError")
    assert place.matrix("--retries", "0") == 1
    assert place.record("alpha-cpu")["run"]["attempt"] == 1
    assert place.matrix("--retries", "2") == 1
    attempts = {name: record["run"]["attempt"] for name, record in place.run().records.items()}
    assert attempts == {"alpha-cpu": 3, "beta-cpu": 1}, "an error is an answer"


# A device.


class Poisoned:
    """A simulated accelerator that no longer works after a crash; there is no such device here.

    Two doubles stand in for it: of the look at the devices (`tools.devices.probe`), and of what the
    scripts do, whose device is `poison`, a file. All that is between the two is real.
    """

    def __init__(self, place: Place, poison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.poison, self.looks = place, poison, 0
        monkeypatch.setattr(devices, "probe", self.probe)

    def probe(self, asked: list[str]) -> list[devices.Found]:
        self.looks += 1
        broken = "CUDA error: unspecified launch failure" if self.poison.exists() else None
        return [devices.answer(device, broken if device != "cpu" else None) for device in asked]

    def script(self, family: str, code: str = "") -> None:
        """A script for the device; `code` runs while it still works."""
        self.place.script(
            family,
            edit=f"poison = Path({str(self.poison)!r})\n"
            "passed = {'status': 'pass', 'reason': None}\n"
            "record['device']['observed'], code = options.device, 0\n"
            "for check in checks: check |= passed\n"
            f"if not poison.exists():\n{textwrap.indent(code or 'pass', '    ')}\n"
            "elif options.device != 'cpu':\n"
            "    code = 1\n"
            "    for check in checks: check |= {'status': 'error', 'reason': 'CUDA error'}\n",
        )


@pytest.fixture
def poisoned(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poisoned:
    return Poisoned(place, tmp_path / "poison", monkeypatch)


CRASH = "poison.touch(); os.kill(os.getpid(), signal.SIGSEGV)"


def test_a_device_that_stays_poisoned_is_one_finding(
    poisoned: Poisoned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = poisoned.place
    for number in range(12):
        poisoned.script(f"f{number:02}", CRASH if number == 3 else "")
    assert place.matrix("--jobs", "1", device="cuda,cpu") == 1
    out = capsys.readouterr().out
    run = place.run()
    assert sum(name.endswith("-cpu") for name in run.records) == 12, "other devices go on"
    found = {n: results.worst(r) for n, r in run.records.items() if n.endswith("-cuda")}
    assert found == dict.fromkeys(("f00-cuda", "f01-cuda", "f02-cuda"), "pass") | {
        "f03-cuda": "crash"
    }
    assert "retries" not in run.records["f03-cuda"]["run"], "it could only crash again"
    assert "cuda is broken: CUDA error: unspecified launch failure" in reason(
        run.records["f03-cuda"]
    )
    assert "15 pass, 1 unexpected, 8 not run" in out
    node = os.uname().nodename
    told = f"cuda of {node} works no longer since f03-cuda: CUDA error: unspecified launch failure"
    assert out.count(told) == 1
    assert f"{told}; 8 jobs did not run on it; mend the device, then" in out
    assert place.query(
        "SELECT verdict, count(*), any_value(first_reason) FROM cells WHERE device = 'cuda' "
        "GROUP BY ALL HAVING verdict = 'not run'"
    ) == [("not run", 8, told)]

    published = publish(place, tmp_path)
    [column] = [each for each in published["columns"] if each["device"] == "cuda"]
    assert {key: n for key, n in column["counts"].items() if n} == {
        "pass": 3, "crash": 1, "not_run": 8
    }  # fmt: skip
    page = (tmp_path / "compatibility_reports" / "cuda.md").read_text("utf-8")
    assert page.count("### ") == 1, "one finding"
    [row] = [line for line in page.splitlines() if line.startswith("| ⛔ not run")]
    assert f"{told} | 8 | f04, f05" in row
    assert "mend the device" in page

    poisoned.poison.unlink()
    poisoned.script("f03")
    assert resume(place) == 0
    assert place.run().complete
    assert place.query("SELECT count(*) FROM cells WHERE verdict = 'pass'") == [(24,)]


def test_jobs_that_a_poisoned_device_takes_with_it_are_no_findings(
    poisoned: Poisoned, tmp_path: Path
) -> None:
    place = poisoned.place
    for number in range(6):  # all at once, of which one is to be the first to end
        poisoned.script(f"f{number}", until(poisoned.poison) + "assert False")
    poisoned.script("f6", CRASH)
    assert place.matrix("--jobs", "7", device="cuda") == 1
    [record] = place.run().records.values()
    assert results.worst(record) in ("crash", "error")
    assert place.query("SELECT verdict, count(*) FROM cells GROUP BY ALL ORDER BY 2") == [
        ("unexpected", 1), ("not run", 6)
    ]  # fmt: skip
    poisoned.poison.unlink()
    for number in range(7):
        poisoned.script(f"f{number}")
    assert resume(place) == 0
    assert place.query("SELECT DISTINCT verdict FROM cells") == [("pass",)]


def test_a_device_that_vanishes_between_two_jobs_is_not_skipped(poisoned: Poisoned) -> None:
    place, gone_ = poisoned.place, "for check in checks: check |= {'status': 'skip', 'reason': 'x'}"
    poisoned.script("alpha", "poison.touch()")
    for family in ("beta", "gamma"):
        absent = "record['device']['observed'], code = None, 4\n"
        place.script(family, edit=f"{gone_}\n{absent}")
    assert place.matrix("--jobs", "1", device="cuda") == 1
    assert place.run().records.keys() == {"alpha-cuda"}
    assert place.query("SELECT DISTINCT verdict FROM cells ORDER BY 1") == [("not run",), ("pass",)]


def test_a_device_that_survives_a_crash_is_used_further(poisoned: Poisoned) -> None:
    poisoned.script("alpha", "os.kill(os.getpid(), signal.SIGSEGV)")
    poisoned.script("beta")
    assert poisoned.place.matrix("--jobs", "1", device="cuda") == 1
    worst = {name: results.worst(r) for name, r in poisoned.place.run().records.items()}
    assert worst == {"alpha-cuda": "crash", "beta-cuda": "pass"}
    assert poisoned.looks == 3, "one for the plan, one for each crash"


# Disks.


class Disk:
    """A small disk in memory at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=128k,nr_inodes=100", "proving-ground")

    def grow(self) -> None:
        """Give it all the room that is needed."""
        self._mount("-o", "remount,size=64m")

    def clear(self) -> None:
        """Remove what has filled it."""
        for filler in self.folder.glob("filler*"):
            filler.unlink()

    def lock(self) -> None:
        """Make it read-only, even though files of it are open."""
        exec(LOCK.format(folder=str(self.folder)))

    def unlock(self) -> None:
        """Undo that."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.folder)], capture_output=True, check=True)

    def fill(self) -> None:
        """Leave no byte of it free."""
        exec(FILL.format(folder=str(self.folder)))


# As code, for scripts do it too.
FILL = """
import contextlib, pathlib
with contextlib.suppress(OSError), (pathlib.Path({folder!r}) / "filler").open("wb", 0) as filler:
    for _ in range(100): filler.write(b"x" * 2**12)
"""
LOCK = """
import subprocess
subprocess.run(["mount", "--bind", {folder!r}, {folder!r}], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", {folder!r}], check=True)
"""
NO_NAMES = """
import contextlib, pathlib
with contextlib.suppress(OSError):
    for number in range(200): (pathlib.Path({folder!r}) / f"filler{{number}}").touch()
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        made = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here, which needs root and its rights: {error}")
    yield made
    while made.folder.is_mount():
        made.unlock()


@pytest.mark.parametrize(
    ("fill", "then", "said"),
    [
        (FILL, "", "beta-cpu.json cannot be written ([Errno 28]"),
        (NO_NAMES, "", "beta-cpu.json cannot be written ([Errno 28]"),
        (NO_NAMES, "os.abort()", "beta-cpu cannot be run ([Errno 28]"),
    ],
    ids=["no bytes", "no names", "no names, and a crash"],
)
def test_where_the_disk_of_the_results_is_full_the_run_can_go_on_later(
    place: Place,
    disk: Disk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fill: str,
    then: str,
    said: str,
) -> None:
    place.results = disk.folder / "results"
    code = f"exec({fill.format(folder=str(disk.folder))!r}); {then or 'pass'}"
    place.script("alpha")
    place.script("beta", edit=once(tmp_path / "once", code))
    place.script("gamma")
    disk.fill()
    assert place.matrix() == 5, "it has no room for what is asked"
    assert not [*place.results.iterdir()]
    disk.clear()
    capsys.readouterr()
    assert place.matrix("--jobs", "1") == 5
    told = capsys.readouterr().err
    assert said in told
    assert "1 results are safe" in told
    assert "--resume" in told
    run = place.run()
    assert run.records.keys() == {"alpha-cpu"}
    assert not run.complete
    kept = (run.folder / "alpha-cpu.json").read_bytes()
    disk.clear()
    assert resume(place) == 0
    assert place.run().complete
    assert (run.folder / "alpha-cpu.json").read_bytes() == kept


def test_a_script_that_fills_the_disk_of_temporary_files_costs_no_other(
    place: Place, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(disk.folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    place.script("alpha", edit=f"exec({FILL.format(folder='.')!r})")
    place.script("beta")
    assert place.matrix("--jobs", "1") == 1
    assert "No space left on device" in reason(place.record("alpha-cpu"))
    assert results.worst(place.record("beta-cpu")) == "pass"
    assert not [*disk.folder.iterdir()]


def test_where_the_disk_of_the_database_is_full_it_can_be_made_later(
    place: Place, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    place.database = disk.folder / "matrix.duckdb"
    place.script("alpha")
    disk.fill()
    assert place.matrix() == 5
    assert "the results in" in capsys.readouterr().err
    assert place.run().complete
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]
    disk.clear()
    disk.grow()
    assert main(["ingest", *place.flags()]) == 0
    assert place.query("SELECT verdict, complete FROM cells") == [("pass", True)]


def test_results_that_cannot_be_written_are_told_at_once_and_none_is_lost(
    place: Place, disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.results = disk.folder / "results"
    place.script("alpha")
    lock = f"exec({LOCK.format(folder=str(disk.folder))!r})"
    place.script("beta", edit=once(tmp_path / "once", lock))
    disk.lock()
    assert place.matrix() == 5
    assert "cannot be written ([Errno 30] Read-only file system" in capsys.readouterr().err
    disk.unlock()
    assert place.matrix("--jobs", "1") == 5, "this time it happens while it runs"
    assert "1 results are safe" in capsys.readouterr().err
    assert resume(place) == 5
    assert "cannot be written ([Errno 30] Read-only file system" in capsys.readouterr().err
    assert place.run().records.keys() == {"alpha-cpu"}
    disk.unlock()
    assert resume(place) == 0
    assert place.run().complete


def test_a_file_in_the_way_of_the_results_is_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    place.results.write_text("mine")
    assert place.matrix() == 5
    assert f"{place.results}" in capsys.readouterr().err
    assert place.results.read_text() == "mine"


# The processes that watch over scripts.


@both_runners
def test_a_killed_run_takes_everything_along_and_can_be_resumed(
    place: Place, tmp_path: Path, runner: str
) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    place.script("alpha")
    waits = f"if not Path({str(go)!r}).exists(): time.sleep(1000)"
    place.script("beta", edit="subprocess.Popen(['sleep', '1000'])\n" + tell_pid(pid) + waits)
    place.script("gamma")
    process = start(place, "--runner", runner, "--jobs", "1")
    wait_for(pid, within=90)
    process.kill()
    process.communicate()
    assert gone(int(pid.read_text()), within=20)
    assert main(["ingest", *place.flags()]) == 1
    assert place.query("SELECT verdict, complete FROM cells ORDER BY family") == [
        ("pass", False), ("not run", False), ("not run", False)
    ]  # fmt: skip
    [kept] = place.run().folder.glob("*-cpu.json")
    before = kept.read_bytes()
    go.touch()
    assert resume(place) == 0
    assert kept.read_bytes() == before
    assert place.query("SELECT DISTINCT verdict, complete FROM cells") == [("pass", True)]


@pytest.mark.parametrize("name", ["beta-cpu.json", "footer.json", "matrix.duckdb"])
def test_a_run_killed_while_it_writes_leaves_nothing_half_written(place: Place, name: str) -> None:
    for family in ("alpha", "beta"):
        place.script(family)
    code = f"""if True:
        import os, signal
        replace = os.replace
        def replace_or_die(source, target):
            if str(target).endswith({name!r}):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
        os.replace = replace_or_die
        from tools.__main__ import main
        main()
    """
    flags = place.flags("--device", "cpu", "--runner", "fresh", "--jobs", "1")
    command = [sys.executable, "-c", code, "matrix", *flags]
    assert subprocess.run(command, cwd=scripts.ROOT, check=False).returncode == -9
    run = place.run()
    assert set(run.records) == {"alpha-cpu"} | ({"beta-cpu"} if name[0] != "b" else set())
    assert run.complete == (name == "matrix.duckdb")
    assert not place.database.exists()
    assert resume(place) == 0
    assert place.query("SELECT count(*) FROM cells WHERE verdict = 'pass' AND complete") == [(2,)]


@pytest.mark.skipif(not linux, reason="elsewhere nothing kills the children of a killed parent")
def test_a_script_that_kills_its_parent_costs_no_other(place: Place, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    place.script(
        "killer",
        edit=f"""
subprocess.Popen(['sleep', '1000'])
Path({str(killed)!r}).open('a').write('x')
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
""",
    )
    place.script("victim", edit=until(killed) + "time.sleep(0.5)")
    assert place.matrix("--jobs", "2") == 1
    killer, victim = place.record("killer-cpu"), place.record("victim-cpu")
    assert results.worst(killer) == "crash"
    assert "was killed with the process that had started it" in reason(killer)
    assert killed.read_text() == "xx", "the second time it had a parent of its own"
    assert results.worst(victim) == "pass", "what was lost is run again, and is not flaky"
    assert {retry["status"] for retry in victim["run"]["retries"]} == {"lost"}


@pytest.mark.skipif(not linux, reason="elsewhere nothing kills the children of a killed parent")
def test_a_script_that_stops_its_parent_costs_no_other(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ANSWER_SECONDS", 4)
    monkeypatch.setattr(processes, "KILL_SECONDS", 2)
    stop = "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(60)"
    place.script("alpha", edit=once(tmp_path / "once", stop))
    place.script("beta")
    assert place.matrix("--jobs", "1", "--timeout", "3") == 1
    worst = {name: results.worst(record) for name, record in place.run().records.items()}
    assert worst == {"alpha-cpu": "flaky", "beta-cpu": "pass"}


# Several at once.


def test_two_runs_at_once_share_a_folder_but_no_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script(
        "alpha",
        edit=f"Path({str(tmp_path)!r}, str(os.getpid())).with_suffix('.pid').touch()\n"
        + until(tmp_path / "go"),
    )
    both = [start(place, "--runner", "fresh") for _ in range(2)]
    deadline = time.monotonic() + 60
    while len([*tmp_path.glob("*.pid")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert resume(place) == 2
    assert "is at work in another process" in capsys.readouterr().err
    (tmp_path / "go").touch()
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    assert place.query("SELECT complete, asked, finished FROM runs") == [(True, 1, 1)] * 2
    newest = max(path.name for path in place.results.iterdir())
    assert place.query("SELECT run_id, verdict FROM cells") == [(newest, "pass")]


def test_of_two_ingests_at_once_the_later_knows_what_the_earlier_did(place: Place) -> None:
    place.write_run([a_record("alpha")])
    with results.Lock(place.database.parent):  # as the one at work has it
        later = threading.Thread(target=database.ingest, args=(place.results, place.database))
        later.start()
        later.join(1)
        assert later.is_alive(), "it waits"
        place.write_run([a_record("beta")], run_id="20260101T120001Z-abcdef")
    later.join(60)
    assert place.query("SELECT family FROM cells ORDER BY 1") == [("alpha",), ("beta",)]


def test_a_database_that_another_process_has_locked_is_replaced(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    duckdb.connect(place.database).close()
    with holding(place.database):
        with pytest.raises(duckdb.IOException, match="lock"):
            database.connect(place.database)
        assert place.matrix() == 0
        assert place.query("SELECT verdict FROM cells") == [("pass",)]
    with holding(place.database):
        assert main(["publish", *place.flags("--output", str(tmp_path))]) == 1
        told = capsys.readouterr().err
        assert "Could not set lock on file" in told
        assert "python -m tools ingest" in told
        assert main(["ingest", *place.flags()]) == 0
        publish(place, tmp_path)


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Another process has the database open for writing."""
    code = (
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield
        process.kill()


# The clock.

# In every process of a run the clock of the wall is off by so many hours as a file says. The real
# one belongs to others too. A file that another process is just writing is empty for a moment.
CLOCK = """
import datetime, time
from pathlib import Path

def off():
    while not (hours := Path({hours!r}).read_text()):
        pass
    return 3600 * float(hours)

real, real_ns, Moment = time.time, time.time_ns, datetime.datetime

class Wrong(Moment):
    @classmethod
    def now(cls, tz=None):
        return Moment.now(tz) + datetime.timedelta(seconds=off())

datetime.datetime = Wrong
time.time = lambda: real() + off()
time.time_ns = lambda: real_ns() + int(off() * 10**9)
"""


def test_a_clock_that_jumps_changes_no_duration_no_timeout_and_no_order(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours, site = tmp_path / "hours", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLOCK.format(hours=str(hours)))
    monkeypatch.setenv("PYTHONPATH", str(site))
    jumps = {"alpha": 5, "beta": -5}
    for family, jump in jumps.items():
        place.script(family, edit=f"Path({str(hours)!r}).write_text('{jump}'); time.sleep(0.2)")
    place.script("gamma", edit=f"Path({str(hours)!r}).write_text('-9'); time.sleep(1000)")
    hours.write_text("0")
    flags = ("--runner", "fresh", "--jobs", "1", "--timeout", "9", "--retries", "0")
    out, _ = start(place, *flags).communicate()
    records = place.run().records
    worst = {name: results.worst(record) for name, record in records.items()}
    assert worst == {"alpha-cpu": "pass", "beta-cpu": "pass", "gamma-cpu": "timeout"}, out
    started = [records[f"{family}-cpu"]["started"] for family in ("alpha", "beta", "gamma")]
    assert started[1] > started[0] > started[2], "the clock did jump"
    for family in jumps:
        run = records[f"{family}-cpu"]["run"]
        assert 0.2 <= run["wall_seconds"] < 9
        assert f"{family}-cpu: pass, {run['wall_seconds']:.1f} s" in out
    assert 9 <= records["gamma-cpu"]["run"]["wall_seconds"] < 60
    first = place.run().folder.name

    place.script("gamma")
    hours.write_text("-20")  # the run after that begins before it, by the clock
    process = start(place, "--runner", "fresh")
    assert "3 pass" in process.communicate()[0]
    assert place.run().folder.name > first
    assert place.run().manifest["started"] < results.read_manifest(place.results / first)["started"]
    assert place.query("SELECT DISTINCT run_id, verdict FROM cells") == [
        (place.run().folder.name, "pass")
    ]
    hours.write_text("0")
    place.script("gamma", edit="assert False")
    process = start(place, "--runner", "fresh")
    assert "1 unexpected" in process.communicate()[0]
    assert place.query("SELECT verdict FROM cells WHERE family = 'gamma'") == [("unexpected",)]
