"""The matrix on real Ray clusters of several nodes, which listen on the loopback interface only."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import nox.project
import psutil
import pytest
import yaml
from test_matrix import MAIN, gone, tell_pid, wait_for
from tools_fixtures import Place

from tools import devices, node, plan, scripts
from tools.__main__ import main
from tools.matrix import Matrix, NodeLost
from tools.results import Record
from tools.schedule import Room
from tools.worker import Outcome, Task

PATIENCE = 120  # seconds for what takes some on an idle machine


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def here() -> Iterator[node.Loopback]:
    """Two nodes of one core each; `west` says that it has an xpu."""
    loopback = node.Loopback()
    try:
        loopback.add(1, name="east")
        loopback.add(1, ["xpu", "xpu:1"], name="west")
        yield loopback
    finally:
        loopback.close()


def start(place: Place, address: str, *flags: str, device: str = "cpu") -> subprocess.Popen[str]:
    """The matrix in a process of its own, which Ray has to itself."""
    command = ["matrix", *place.flags("--cluster", address, "--runner", "fresh", *flags)]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *command, "--device", device],
        cwd=scripts.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(place: Place, address: str, *flags: str, device: str = "cpu") -> tuple[int, str]:
    """Exit code and output of the matrix."""
    process = start(place, address, *flags, device=device)
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


def kill_node(name: str) -> None:
    """Kill -9 everything that runs on a node, as a power failure does."""
    (raylet,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if process.name() == "raylet"
        and any(word == f"--node-name={name}" for word in process.cmdline())
    )
    for process in [raylet, *raylet.children(recursive=True)]:
        process.kill()


def without_token(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take away the token of the cluster that other tests use."""
    monkeypatch.setenv("HOME", str(home))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def nodes(records: dict[str, Record], device: str) -> set[str]:
    """Where the jobs for `device` ran."""
    return {
        record["run"]["node"] for record in records.values()
        if record["device"]["requested"] == device
    }  # fmt: skip


def test_jobs_go_where_their_device_is_and_results_come_here(
    place: Place, here: node.Loopback, tmp_path: Path
) -> None:
    meeting = tmp_path / "meeting"  # of two jobs for cpu, which one node does not run at once
    meeting.mkdir()
    meet = f"""if options.device == "cpu":
        Path({str(meeting)!r}, FAMILY).touch()
        while len(os.listdir({str(meeting)!r})) < 2: time.sleep(0.05)
    """
    for family in ("alpha", "beta", "gamma"):
        place.script(family, edit=f"print('I am {family}')\n{meet}")
    code, out = run(place, here.address, device="cpu,xpu,xpu:1,mps")
    assert code == 0, out
    run_ = place.run()
    assert run_.complete
    assert len(run_.records) == 12
    assert nodes(run_.records, "cpu") == {"east", "west"}
    assert nodes(run_.records, "xpu") == nodes(run_.records, "xpu:1") == {"west"}
    assert run_.records["alpha-mps"]["run"]["exit_code"] == 4, "nobody has it: any node says so"
    for name, record in run_.records.items():
        text = (run_.folder / record["run"]["log"]).read_text()
        assert text == f"I am {name.partition('-')[0]}\n"
        assert record["environment"]["threads"] == 1
    assert "mps is not here" in out
    assert "no node has it, only cpu, xpu, xpu:1" in out
    counts = Counter(record["run"]["node"] for record in run_.records.values())
    for name, number in counts.items():
        assert re.search(rf"^{name}: {number} jobs, \d+ s of scripts$", out, re.MULTILINE), out
    assert out.count(" on west\n") == counts["west"], "live, a line for each"
    assert place.query("SELECT count(DISTINCT node) FROM records") == [(2,)]


def test_a_device_that_no_node_has_is_told_at_once(place: Place, here: node.Loopback) -> None:
    place.script("alpha")
    begin = time.monotonic()
    code, out = run(place, here.address, device="mps,xpu:7")
    assert time.monotonic() - begin < PATIENCE / 4
    assert code == 4
    assert "mps: no node has it, only cpu, xpu, xpu:1; xpu:7: no node has it" in out
    assert not place.results.exists()


def test_a_device_is_waited_for_as_long_as_asked(place: Place, here: node.Loopback) -> None:
    place.script("alpha")
    code, out = run(place, here.address, "--wait", "2", device="cpu,mps")
    assert code == 1
    assert "no machine is left for mps: 1 jobs did not run" in out
    assert "1 pass, 1 not run" in out
    assert place.run().records.keys() == {"alpha-cpu"}


def test_an_interrupted_run_leaves_nothing_on_the_nodes_and_goes_on(
    place: Place, here: node.Loopback, tmp_path: Path
) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    place.script("alpha")
    wait = f"if not Path({str(go)!r}).exists(): time.sleep(1000)"
    place.script("beta", edit=tell_pid(pid) + wait)
    process = start(place, here.address)
    wait_for(pid, PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not [*place.results.glob("*/alpha-cpu.json")] and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out
    assert gone(int(pid.read_text()))
    assert place.run().interrupted
    first = (place.run().folder / "alpha-cpu.json").read_bytes()
    go.touch()
    command = [*place.flags("--cluster", here.address, "--runner", "fresh", "--resume")]
    again = subprocess.run(
        [sys.executable, "-c", MAIN, "matrix", *command], check=False, cwd=scripts.ROOT
    )
    assert again.returncode == 0
    assert place.run().complete
    assert (place.run().folder / "alpha-cpu.json").read_bytes() == first


def test_an_agent_that_dies_is_replaced(place: Place, here: node.Loopback, tmp_path: Path) -> None:
    once = f"Path({str(tmp_path / 'killed')!r})"
    kill = "import psutil; psutil.Process().parent().parent().kill(); time.sleep(1000)"
    place.script("alpha", edit=f"if not {once}.exists():\n    {once}.touch(); {kill}")
    code, out = run(place, here.address)
    assert code == 0, out
    record = place.record("alpha-cpu")
    (retry,) = record["run"]["retries"]
    assert (retry["status"], retry["runner"], retry["wall_seconds"]) == ("lost", None, None)
    assert retry["node"] != record["run"]["node"]


def test_a_killed_node_loses_nothing_and_a_late_one_gets_work(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the killed node leaves its folders
    done, pid, go = tmp_path / "done", tmp_path / "pid", tmp_path / "go"
    hold = f"if not Path({str(go)!r}).exists():\n    {tell_pid(pid)}    time.sleep(1000)\n"
    for family in ("a", "b", "held", "y", "z"):
        note = f"Path({str(done)!r}).open('a').write('{family} ')"
        place.script(family, edit=hold * (family == "held") + note)
    (tmp_path / "rich.py").write_text("raise ImportError('no rich there')")
    loopback = node.Loopback()
    try:
        loopback.add(0, name="hub")
        with monkeypatch.context() as broken:
            broken.setenv("PYTHONPATH", str(tmp_path))
            loopback.add(1, name="broken")
        loopback.add(1, name="early")
        process = start(place, loopback.address, "--wait", str(PATIENCE))
        wait_for(pid, PATIENCE)
        kill_node("early")
        assert gone(int(pid.read_text()))
        go.touch()
        loopback.add(1, name="late")
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        loopback.close()
    assert process.returncode == 0, out
    assert sorted(done.read_text().split()) == ["a", "b", "held", "y", "z"], "each ended once"
    records = place.run().records
    assert {name: record["run"]["node"] for name, record in records.items()} == {
        "a-cpu": "early", "b-cpu": "early", "held-cpu": "late", "y-cpu": "late", "z-cpu": "late"
    }  # fmt: skip
    (retry,) = records["held-cpu"]["run"]["retries"]
    assert (retry["status"], retry["node"], retry["attempt"]) == ("lost", "early", 1)
    assert records["held-cpu"]["run"]["attempt"] == 2
    assert "held-cpu: early is lost (" in out
    assert "no rich there" in re.search("^broken is left out: .*", out, re.MULTILINE)[0], out
    assert re.search(r"^early: 2 jobs, \d+ s of scripts, 1 lost$", out, re.MULTILINE), out


def test_where_the_cluster_is_lost_the_results_stay(place: Place, tmp_path: Path) -> None:
    pid, go = tmp_path / "pid", tmp_path / "go"
    place.script("alpha")
    wait = f"if not Path({str(go)!r}).exists(): time.sleep(1000)"
    place.script("beta", edit=tell_pid(pid) + wait)
    others = set(psutil.Process().children())
    loopback = node.Loopback()
    try:
        loopback.add(1)
        process = start(place, loopback.address)
        wait_for(pid, PATIENCE)
        for each in set(psutil.Process().children()) - others:
            if each.name() == "gcs_server":
                each.kill()
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        loopback.close()
    assert process.returncode == 1
    assert "error: the first machine of the cluster, 127.0.0.1:" in out
    assert place.run().records.keys() == {"alpha-cpu"}
    assert gone(int(pid.read_text()))
    go.touch()
    assert main(["matrix", *place.flags("--runner", "fresh", "--resume")]) == 0
    assert place.run().complete


def test_a_cluster_of_this_machine_runs_real_scripts_and_leaves_nothing(place: Place) -> None:
    place.scripts = scripts.ROOT / "fixed_tests"
    flags = place.flags("--cluster", "local:2x1", "--device", "cpu", "--family", "bert,vit,t5")
    command = [sys.executable, "-m", "tools", "matrix", *flags]
    process = subprocess.Popen(command, cwd=scripts.ROOT, stdout=subprocess.PIPE, text=True)
    seen: dict[int, str] = {}
    while process.poll() is None:
        for each in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seen[each.pid] = " ".join(each.cmdline())
        time.sleep(0.2)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    records = place.run().records.values()
    assert [record["run"]["runner"] for record in records] == ["warm"] * 3
    assert len({record["run"]["node"] for record in records}) == 2
    found = (re.search(r"/(ray-\w+)/", command) for command in seen.values())
    (folder,) = {match[1] for match in found if match}
    assert not Path("/tmp", folder).exists()
    assert all(gone(pid) for pid in seen)


AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 1,
    "provider": {
        "type": "fake_multinode",  # Ray's own, for tests: it starts nodes on this machine
        "head_node_id": "f" * 51 + "00000",
        "gcs_address": "<address>",
        "disable_node_updaters": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "box": {"resources": {"CPU": 1, "xpu": 1}, "node_config": {}, "max_workers": 1},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "worker_setup_commands": [],
    "worker_start_ray_commands": [],
}


def test_the_autoscaler_brings_a_machine_with_the_device(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "autoscaler.json"
    config.write_text(json.dumps(AUTOSCALER).replace("<address>", f"127.0.0.1:{port}"))
    without_token(monkeypatch, tmp_path)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # 127.0.0.1 only
    place.script("alpha")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        flags = [
            f"--port={port}",
            "--num-cpus=1",
            f"--autoscaling-config={config}",
        ]
        command = [sys.executable, "-m", "tools", "node", "--", *flags]
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        with subprocess.Popen(command, cwd=scripts.ROOT, env={**os.environ, **fake}) as head:
            try:
                wait_for(Path(short, "ray", "ray_current_cluster"), PATIENCE)
                code, out = run(place, "auto", "--wait", str(PATIENCE), device="cpu,xpu")
            finally:
                below = psutil.Process(head.pid).children(recursive=True)
                head.terminate()
                head.wait(PATIENCE)
                for process in below:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
    assert code == 0, out
    assert nodes(place.run().records, "xpu") == {f"{platform.node()}-2"}, "the first has none"
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_node_advertises_the_devices_that_scripts_can_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usable = {"cpu", "cuda", "cuda:0", "cuda:1"}
    monkeypatch.setattr(
        devices,
        "probe",
        lambda asked: [
            devices.answer(each, None if each in usable else "not here")
            for each in asked or scripts.device_kinds()
        ],
    )
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, __: commands.append(command))
    without_token(monkeypatch, tmp_path)
    assert main(["node", "--cluster", "10.0.0.5:6379"]) == 2, "it has no token"
    assert not commands
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    main(["node", "--cluster", "10.0.0.5:6379", "--", "--node-name=box"])
    main(["node"])
    join, head = (dict(itertools.pairwise(command)) for command in commands)
    assert json.loads(join["--resources"]) == {"cuda": 1, "cuda:0": 1, "cuda:1": 1}
    assert join["--address"] == "10.0.0.5:6379"
    assert commands[0][-1] == "--node-name=box"
    assert "--head" in head
    assert "secret" not in str(commands)


def test_without_ray_the_command_that_installs_it_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.script("alpha")
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (["matrix", *place.flags("--cluster", "auto")], ["node"]):
        assert main(command) == 2
        assert f"{sys.executable} -m pip install '{node.RAY}'" in capsys.readouterr().err
    assert not place.results.exists()


def test_a_job_under_which_machine_after_machine_is_lost_is_a_crash(place: Place) -> None:
    class Doomed:
        """Two machines, of which none survives a job."""

        def rooms(self) -> list[Room]:
            return [Room("east", 1), Room("west", 1)]

        def submit(self, node: str, task: Task) -> Future[Outcome | None]:
            lost: Future[Outcome | None] = Future()
            lost.set_exception(NodeLost("power failure"))
            return lost

        def stop(self) -> None:
            pass

    place.script("alpha")
    planned = plan.start(place.options("matrix", "--device", "cpu"))
    with planned.lock:
        Matrix(planned, Doomed()).work()
    record = place.record("alpha-cpu")
    assert place.run().complete
    assert [check["status"] for check in record["checks"]] == ["crash"]
    assert (record["checks"][0]["reason"] or "").count("power failure") == 3
    lost = [(retry["attempt"], retry["node"]) for retry in record["run"]["retries"]]
    assert [*lost, (record["run"]["attempt"], record["run"]["node"])] == [
        (1, "east"), (2, "west"), (3, "east")
    ]  # fmt: skip
    assert (place.run().folder / record["run"]["log"]).exists()


def test_where_nobody_answers_that_is_told(place: Place) -> None:
    place.script("alpha")
    code, out = run(place, "127.0.0.1:1")
    assert code == 2
    assert "--cluster 127.0.0.1:1: nobody answers there" in out


def test_ray_reads_in_the_manifest_for_kubernetes_which_machines_have_which_device() -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    manifest = yaml.safe_load((scripts.ROOT / "docs" / "kuberay.yaml").read_text())
    manifest["metadata"]["namespace"] = "default"
    derived = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    kinds = derived["available_node_types"]
    assert {name: kind["resources"]["CPU"] for name, kind in kinds.items()} == {
        "headgroup": 0, "cpu": 8, "cuda": 8
    }  # fmt: skip
    assert kinds["cuda"]["resources"].items() >= {"GPU": 1, "cuda": 1}.items()
    assert not kinds["cpu"]["resources"].keys() & {"GPU", *scripts.device_kinds()}
    spec = manifest["spec"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert f"ray=={spec['rayVersion']}" in (scripts.ROOT / "constraints.txt").read_text()
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert {each["name"]: each["value"] for each in container["env"]} == node.ENVIRONMENT


def test_ray_accepts_the_configuration_of_its_autoscaler() -> None:
    from ray.autoscaler._private import util

    text = (scripts.ROOT / "docs" / "autoscaler.yaml").read_text()
    config = util.prepare_config(yaml.safe_load(text))
    util.validate_config(config)
    devices_of = {
        name: kind["resources"].keys() & set(scripts.device_kinds())
        for name, kind in config["available_node_types"].items()
    }
    assert devices_of == {"head": set(), "cpu": set(), "cuda": {"cuda"}}
    (start,) = (line for line in config["worker_start_ray_commands"] if " start " in line)
    assert {f"{name}={value}" for name, value in node.ENVIRONMENT.items()} <= set(start.split())


def test_what_pyproject_asks_of_ray_is_what_is_told() -> None:
    project = nox.project.load_toml(scripts.ROOT / "pyproject.toml")
    (extra,) = project["project"]["optional-dependencies"]["cluster"]
    assert extra == node.RAY
    assert extra in project["dependency-groups"]["test"]
    assert f'"{node.RAY}"' in (scripts.ROOT / "docs" / "distributed.md").read_text()
