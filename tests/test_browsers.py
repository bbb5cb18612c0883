"""Models in a real Chromium: webgpu, webnn, bundles, and what must not look green there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from templates._browser import find_browser
from tools import browsers, bundles, results
from tools.reports.data import Matrix, load_matrix
from tools.reports.markdown import render_column, render_matrix

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "fixed_tests"

WEIGHTS = """    import onnx_ir

    weight = next(v for v in program.graph.initializers.values() if v.const_value.size > 999)
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 1.001, name=weight.name)
"""
# By family, text of its script that is replaced: each makes of WebGPU what is not what it says.
SABOTAGE = {
    "deit": ("provider(device)], enable", '"wasm"], enable'),
    "vit_msn": (
        "provider(device)], enable",
        '(places.CPUExecutionProvider = "webgpu", "wasm")], enable',
    ),
    "dinov2": ("    import onnx_ir\n", WEIGHTS),
}


@pytest.fixture(scope="session")
def needed() -> None:
    """What browsers need is here; in CI it has to be."""
    if find_browser() is None or not browsers.ORT_WEB.exists():
        told = "no Chromium or no onnxruntime-web: make browsers"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(told)


def tools(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="session")
def ran(needed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and database of three models, and of three that are sabotaged, from one matrix."""
    folder = tmp_path_factory.mktemp("webgpu")
    for family in ("bert", "vit", "whisper"):
        (folder / f"test_hf_{family}.py").write_text((SCRIPTS / f"test_hf_{family}.py").read_text())
    for family, (right, wrong) in SABOTAGE.items():
        text = (SCRIPTS / f"test_hf_{family}.py").read_text()
        assert text.count(right) == 1, family
        (folder / f"test_hf_{family}.py").write_text(text.replace(right, wrong))
    (folder / "none.toml").touch()
    done = tools(
        *("matrix", "--expectations", folder / "none.toml"),
        *("--device", "webgpu,webnn", "--jobs", 1, "--runner", "warm", "--retries", 0),
        *("--scripts", folder, "--results", folder / "results", "--database", folder / "x.duckdb"),
    )
    runs = [*(folder / "results").glob("*/manifest.json")]
    assert len(runs) == 1, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def records(ran: Path) -> dict[str, Any]:
    """Those on WebGPU by family."""
    [manifest] = (ran / "results").glob("*/manifest.json")
    run = results.read_run(manifest.parent)
    assert run.complete, run.problems
    found = [r for r in run.records.values() if r["device"]["requested"] == "webgpu"]
    return {record["family"]: record for record in found}


@pytest.fixture(scope="session")
def matrix(ran: Path) -> Matrix:
    """What is published of it."""
    return load_matrix(ran / "x.duckdb")


def page_of(matrix: Matrix, device: str) -> str:
    """The report of a device."""
    column = next(column for column in matrix.columns if column.device == device)
    return render_column(matrix, column, "scripts", "page.html")


def statuses(record: Any) -> dict[str, str]:
    return {check["name"]: check["status"] for check in record["checks"]}


@pytest.mark.parametrize("family", ["bert", "vit", "whisper"])
def test_a_model_passes_on_webgpu_and_the_record_says_what_ran_it(
    records: dict[str, Any], family: str
) -> None:
    record = records[family]
    assert set(statuses(record).values()) == {"pass"}, record["checks"]
    device, graph = record["device"], record["graph"]
    assert (device["requested"], device["observed"]) == ("webgpu", "webgpu")
    assert device["driver"].startswith("Chromium ")
    assert device["software"] == ("swiftshader" in device["name"])
    assert graph["software"] == "onnxruntime-web 1.30.0"
    assert graph["operators"]["webgpu"] > 50
    assert len(graph["elsewhere"]) == graph["operators"].get("wasm", 0)
    assert record["measurements"]["parameters"] > 1000
    assert record["measurements"]["peak_memory_bytes"] is None  # that of the driver says nothing


def test_a_software_adapter_is_named_in_its_cells_and_has_no_performance(
    records: dict[str, Any], matrix: Matrix
) -> None:
    device = records["bert"]["device"]
    if not device["software"]:
        pytest.skip(f"{device['name']} is hardware")
    assert records["bert"]["measurements"]["latency_seconds"]  # it is kept, but compared with none
    overview = render_matrix(matrix, "scripts", "page.html")
    assert overview.count(f"(software adapter: {device['name']})") == len(records)
    cells = [cell for (_, column), cell in matrix.cells.items() if column.device == "webgpu"]
    assert {cell.latency_median for cell in cells} == {None}
    assert "| n/a | n/a |" in page_of(matrix, "webgpu").partition("## Measurements")[2]
    assert {(row["fastest"], row["smallest"]) for row in matrix.advice} == {(None, None)}


def test_without_a_backend_of_webnn_its_column_says_so_once_in_the_browsers_words(
    ran: Path, matrix: Matrix
) -> None:
    [why_not] = {
        check["reason"]
        for path in (ran / "results").glob("*/*-webnn.json")
        for check in results.read_record(path)["checks"]
        if check["status"] == "skip"
    } or {None}
    if why_not is None:
        pytest.skip("this browser has a backend of WebNN")
    assert "no WebNN backend in Chromium" in why_not
    assert "NotSupportedError" in why_not
    page = page_of(matrix, "webnn")
    assert page.count("no WebNN backend in Chromium") == 1
    assert "No family was measured." in page


def test_another_provider_is_not_taken_for_webgpu(records: dict[str, Any]) -> None:
    found = statuses(records["deit"])
    assert found["device_parity"] == "pass"  # it computes well, but not there
    assert found["placement"] == "fail"
    assert records["deit"]["device"]["observed"] != "webgpu"


def test_a_library_that_lies_about_its_provider_is_not_believed(records: dict[str, Any]) -> None:
    """Nothing was dispatched, whatever the profile says."""
    assert records["vit_msn"]["graph"]["operators"]["webgpu"] == 0
    assert statuses(records["vit_msn"])["placement"] == "fail"


def test_other_weights_in_the_browser_are_seen(records: dict[str, Any]) -> None:
    assert statuses(records["dinov2"])["device_parity"] == "fail"


def test_devices_says_what_the_browser_has_and_why_not(needed: None) -> None:
    done = tools("devices", "--json", "--device", "webgpu,webnn", "--browser", find_browser())
    webgpu, webnn = json.loads(done.stdout)
    assert webgpu["why_not"] is None, webgpu
    assert webgpu["features"]
    assert webnn["why_not"] is None or "no WebNN backend in Chromium" in webnn["why_not"]


def test_webnn_where_the_browser_has_a_backend(needed: None, tmp_path: Path) -> None:
    """The Chromium of npm computes WebNN by TFLite: the same script, another browser."""
    if not browsers.WEBNN_CHROMIUM.exists():
        pytest.skip("no Chromium with a backend of WebNN: make browsers, on Linux and x86")
    script, path = SCRIPTS / "test_hf_bert.py", tmp_path / "record.json"
    command = [sys.executable, str(script), "--device", "webnn", "--json", str(path)]
    environment = {**os.environ, browsers.CHOSEN: str(browsers.WEBNN_CHROMIUM)}
    subprocess.run(command, env=environment, check=False, timeout=300, capture_output=True)
    record = results.read_record(path)
    assert set(statuses(record).values()) == {"pass"}, record["checks"]
    assert record["graph"]["operators"]["webnn"] > 50
    assert not record["graph"]["elsewhere"]


@pytest.fixture(scope="session")
def bundle(needed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of one model."""
    folder = tmp_path_factory.mktemp("bundles")
    assert bundles.make({"vit": SCRIPTS / "test_hf_vit.py"}, folder) == []
    return folder


@pytest.fixture
def served(bundle: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of the bundle, and the folder of what it takes."""
    visits = bundles.Visits(tmp_path, bundle)
    server = bundles.server(bundle, visits, "token", 0, lan=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    server.server_close()
    thread.join()
    visits.close()


def test_a_page_judges_a_bundle_and_its_record_becomes_a_run(
    browser: Browser, served: tuple[str, Path]
) -> None:
    address, folder = served
    page = browser.new_page()
    page.goto(f"{address}/token/#start")
    page.wait_for_function("state.textContent.startsWith('done')", timeout=120_000)
    assert "pass" in page.inner_text("#rows")
    page.close()
    [path] = folder.glob("*/vit-webgpu.json")
    record = results.read_record(path)
    assert statuses(record) == {"device_parity": "pass", "placement": "pass"}
    assert (record["run"]["runner"], record["run"]["node"]) == ("page", "127.0.0.1")
    assert "Chrome/" in (record["device"]["driver"] or "")


def test_a_browser_of_the_local_network_runs_bundles_and_sends_records(
    browser: Browser, bundle: Path, tmp_path: Path
) -> None:
    """As a phone does: by https at this machine's own address, past the warning."""
    address = bundles._address()
    if address.startswith("127.") or not shutil.which("openssl"):
        pytest.skip("this machine is in no network, or has no openssl")
    shutil.copytree(bundle, tmp_path / "bundles")
    command = [sys.executable, "-m", "tools", "serve_bundles", "--lan", "--family", "vit"]
    command += ["--port", "0", "--results", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout
            told = next(line for line in serving.stdout if line.startswith("open "))
            url = told.split()[1]
            assert re.fullmatch(rf"https://{re.escape(address)}:\d+/[\w-]+/", url)
            port = int(url.split(":")[2].split("/")[0])
            with socket.create_connection((address, port)):  # which says nothing
                context = browser.new_context(ignore_https_errors=True)  # its user trusts it
                page = context.new_page()
                assert page.goto(url.rsplit("/", 2)[0] + "/").status == 404  # without the token
                page.goto(f"{url}#start")
                assert page.evaluate("isSecureContext")
                page.wait_for_function("state.textContent.startsWith('done')", timeout=120_000)
                assert "pass" in page.inner_text("#rows")
                context.close()
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(60)
    [path] = tmp_path.glob("*/vit-webgpu.json")
    run = results.read_run(path.parent)
    assert run.complete, run.problems
    [record] = run.records.values()
    assert statuses(record) == {"device_parity": "pass", "placement": "pass"}
    assert record["run"]["node"] == address
    assert record["measurements"]["parameters"] > 1000


def test_the_page_of_a_bundle_sees_wrong_outputs(browser: Browser, bundle: Path) -> None:
    text = json.loads((bundle / "vit" / "bundle.json").read_text())
    text["bounds"] = {name: bound / 1e6 for name, bound in text["bounds"].items()}
    page = browser.new_page()
    visits = bundles.Visits(bundle, bundle)
    server = bundles.server(bundle, visits, "token", 0, lan=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page.route("**/bundle.json", lambda route: route.fulfill(body=json.dumps(text)))
    page.goto(f"http://127.0.0.1:{server.server_port}/token/vit/index.html")
    page.wait_for_function("!record.hidden", timeout=120_000)
    assert "fail device_parity" in page.inner_text("#told")
    assert "NOT PASSED" in page.inner_text("#told")
    assert json.loads(page.input_value("#record"))["checks"][0]["status"] == "fail"
    page.close()
    server.shutdown()
    server.server_close()


def send(address: str, document: Any) -> tuple[int, str]:
    request = urllib.request.Request(f"{address}/records", json.dumps(document).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_only_true_records_are_taken(bundle: Path, served: tuple[str, Path]) -> None:
    address, folder = served
    record = json.loads((bundle / "vit" / "bundle.json").read_text())
    for name in ("inputs", "expected", "bounds"):
        del record[name]
    entry = {"status": "pass", "reason": None, "value": None, "bound": None, "seconds": 0.0}
    record["checks"] = [{"name": name, **entry} for name in bundles.CHECKS]
    assert send(f"{address}/token", record)[0] == 200
    for change in (
        {"family": "bert"},
        {"script": {**record["script"], "sha256": "0" * 64}},
        {"checks": record["checks"][:1]},
        {"device": {**record["device"], "requested": "cuda"}},
        {"seed": "0"},
        {"more": 1},
    ):
        assert send(f"{address}/token", {**record, **change})[0] == 400, change
    assert send(f"{address}/token", [record])[0] == 400
    assert send(f"{address}/nekot", record)[0] == 404
    assert len([*folder.glob("*/*-webgpu.json")]) == 1


def test_without_the_token_nothing_is_served(served: tuple[str, Path]) -> None:
    address, _ = served
    for path in ("", "/", "/vit/bundle.json", "/token/../../../etc/hostname", "/token/vit/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}{path}", timeout=30)
    with urllib.request.urlopen(f"{address}/token/bundles.json", timeout=30) as answer:
        assert json.loads(answer.read()) == ["vit"]
