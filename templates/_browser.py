"""Graphs that a browser runs, by WebGPU or WebNN: onnxruntime-web in a Chromium."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import importlib.util
import io
import json
import os
import shutil
import tempfile
import threading
import time
import types
import unittest
import zlib
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy
import torch

from templates._compare import Tensors

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_FLAGS = ("--enable-unsafe-webgpu", "--enable-features=WebMachineLearningNeuralNetwork")
ORT_FILES = ("ort.all.min.mjs", *(f"ort-wasm-simd-threaded.jsep.{end}" for end in ("mjs", "wasm")))
PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Proving Ground</title>
<h1>Proving Ground</h1>
<pre id="told"></pre>
<textarea id="record" rows="30" cols="80" readonly hidden></textarea>
<script type="module">
const profile = [], sessions = [], counts = {dispatches: 0, built: 0}, log = console.log;
console.log = (text) => (`${text}`.startsWith('{"cat"') ? profile.push(text) : log(text));
const count = (type, what, chosen) => {  // what the browser is asked to do, whoever asks
  for (const name of Object.getOwnPropertyNames(type?.prototype ?? {}).filter(chosen)) {
    const genuine = type.prototype[name];
    type.prototype[name] = function (...given) {
      counts[what]++;
      return genuine.apply(this, given);
    };
  }
};
count(self.GPUComputePassEncoder, "dispatches", (name) => name.startsWith("dispatchWorkgroups"));
count(self.MLContext, "dispatches", (name) => name === "dispatch");
count(self.MLGraphBuilder, "built", (name) => !/^(constructor|input|constant|build)$/.test(name));
const ort = await import(new URL("ort/ort.all.min.mjs", location));
ort.env.wasm.numThreads = 1;
const places = {JsExecutionProvider: "webgpu", WebNNExecutionProvider: "webnn"};
const arrays = {float32: Float32Array, float64: Float64Array, int64: BigInt64Array,
  int32: Int32Array, uint8: Uint8Array, int8: Int8Array, bool: Uint8Array};
const decode = ({type, data}) =>
  new arrays[type](Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
const provider = (device) => {  // its name alone: whatever else is listed would run silently
  const [name, deviceType = "cpu"] = device.split(":");
  return name === "webnn" ? {name, deviceType} : {name};
};

self.facts = async (device) => {  // of the record; or why it is not there, in the browser's words
  const found = {driver: `onnxruntime-web ${ort.env.versions.web}`, features: [], software: false};
  const {name, deviceType} = provider(device), adapter = await navigator.gpu?.requestAdapter();
  if (!isSecureContext) return {why_not: "the page comes neither by https nor from localhost"};
  if (name === "webnn") {
    const failed = await navigator.ml?.createContext({deviceType}).then(() => null, String);
    const why_not = navigator.ml ? failed : "no navigator.ml";
    return {...found, why_not, name: `WebNN ${deviceType}`};
  }
  if (!adapter) return {why_not: navigator.gpu ? "requestAdapter finds none" : "no navigator.gpu"};
  const {vendor, architecture, device: model, description, isFallbackAdapter} = adapter.info;
  const software = isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
  const words = [vendor, architecture, model, description].filter(Boolean).join(" ");
  return {...found, why_not: null, name: words, features: [...adapter.features].sort(), software};
};

self.load = async (device, url) => {  // gives the number of the session
  const model = new Uint8Array(await (await fetch(url)).arrayBuffer()), before = {...counts};
  const options = {executionProviders: [provider(device)], enableProfiling: true};
  const session = await ort.InferenceSession.create(model, {...options, logSeverityLevel: 3});
  return sessions.push({session, before, name: provider(device).name}) - 1;
};

self.compute = async (number, feeds) => {  // the first time it also says what ran where
  const own = sessions[number], tensors = {}, start = performance.now();
  for (const [name, feed] of Object.entries(feeds))
    tensors[name] = new ort.Tensor(feed.type, decode(feed), feed.dims);
  const outputs = await own.session.run(tensors), seconds = (performance.now() - start) / 1000;
  if (own.operators) return {...own, outputs, seconds};
  own.operators = {};
  own.elsewhere = [];
  profile.length = 0;
  own.session.endProfiling();
  const nodes = profile.map((line) => JSON.parse(line.trim().replace(/,$/, "")));
  for (const {args} of nodes.filter(({cat}) => cat === "Node")) {
    const place = places[args.provider] ?? "wasm";
    own.operators[place] = (own.operators[place] ?? 0) + 1;
    if (place !== own.name) own.elsewhere.push(`${args.op_name} on ${place}`);
  }
  // Parts of the graph are one node each for WebNN, so what was built is counted; and without a
  // dispatch nothing ran there, whatever the profile says.
  if (own.name === "webnn") own.operators.webnn = counts.built - own.before.built;
  if (counts.dispatches === own.before.dispatches) {
    own.operators.undispatched = own.operators[own.name] ?? 0;
    own.operators[own.name] = 0;
  }
  return {...own, outputs, seconds};
};

self.run = async (number, feeds) => {
  const {outputs, seconds, operators, elsewhere} = await compute(number, feeds), sent = {};
  for (const [name, {type, dims, data}] of Object.entries(outputs)) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    sent[name] = {type, dims, data: bytes.toBase64()};
  }
  return {outputs: sent, seconds, operators, elsewhere};
};

self.release = async () => {
  for (const {session} of sessions.splice(0)) await session.release();
};

self.judge = async () => {  // a person has opened the bundle
  const {inputs, expected, bounds, ...result} = await (await fetch("bundle.json")).json();
  const device = new URLSearchParams(location.search).get("device") ?? result.device.requested;
  const found = await facts(device), start = performance.now(), {why_not, ...known} = found;
  const say = (text) => { told.textContent += `${text}\n`; };
  say(`${result.model_class} on ${device}: ${why_not ?? known.name}`);
  const observed = why_not ? null : device;
  Object.assign(result.device, {requested: device, observed, ...known});
  result.device.driver = `${navigator.userAgent}, ${known.driver}`;
  Object.assign(result, {started: new Date().toISOString(), checks: []});
  let first;
  const check = async (name, ask) => {
    const entry = {name, status: "pass", reason: null, value: null, bound: null};
    const from = performance.now();
    const end = (status, reason) => Object.assign(entry, {status, reason: `${reason}`});
    if (why_not) end("skip", why_not);
    else await ask(entry, (reason) => end("fail", reason)).catch((error) => end("error", error));
    result.checks.push({...entry, seconds: (performance.now() - from) / 1000});
    say(`${entry.status} ${name} ${entry.value?.toExponential(1) ?? ""} ${entry.reason ?? ""}`);
  };
  await check("device_parity", async (entry, fail) => {
    const number = await load(device, "model.onnx");
    result.measurements.load_seconds = (performance.now() - start) / 1000;
    first = await compute(number, inputs);
    result.measurements.first_call_seconds = first.seconds;
    result.measurements.latency_seconds = [(await compute(number, inputs)).seconds];
    for (const [name, value] of Object.entries(expected)) {
      const actual = Array.from(first.outputs[name].data, Number), right = [...decode(value)];
      const squares = right.map((each, index) => (actual[index] - Number(each)) ** 2);
      const error = Math.sqrt(squares.reduce((a, b) => a + b, 0) / right.length);
      const same = `${first.outputs[name].dims}` === `${value.dims}` && error <= bounds[name];
      if (!same || !(error / bounds[name] <= entry.value / entry.bound))
        Object.assign(entry, {value: error, bound: bounds[name]});
      if (!same) return fail(`${name} is off by ${error} (RMSE), allowed ${bounds[name]}`);
    }
  });
  await check("placement", async (entry, fail) => {
    const {operators, elsewhere, name} = first;
    const all = Object.values(operators).reduce((a, b) => a + b, 0);
    const {driver: software} = known;
    Object.assign(result.graph, {software, operators, elsewhere: elsewhere.slice(0, 20)});
    Object.assign(entry, {value: operators[name] / all, bound: 1});
    if (!(entry.value > 0.9)) return fail(`${operators[name]} of ${all} ran there: ${elsewhere}`);
  });
  result.seconds = (performance.now() - start) / 1000;
  say(result.checks.every(({status}) => status === "pass") ? "PASS" : "NOT PASSED");
  Object.assign(record, {hidden: false, value: JSON.stringify(result, null, 1)});
  parent?.postMessage(result, "*");
};
self.ready = true;
if (!location.hash) judge().catch((error) => { told.textContent += error; });
</script>
"""


class Web:
    """A `Runtime` of onnxruntime-web in a browser, converted by transformers' own exporter."""

    precision = "f32"

    def __init__(self, program: Any, device: str, dtype: str) -> None:
        if dtype != "float32":
            raise unittest.SkipTest("a browser computes in fp32 here")
        self.target, self.software = device.partition(":")[0], opened().facts(device)["driver"]
        self.ports = input_names(program)
        self.names = {*self.ports}
        self.session = opened().load(program, device)
        self.operators: Counter[str] = Counter()
        self.elsewhere: list[str] = []

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs by name."""
        feeds = {self.ports[name]: packed(value) for name, value in inputs.items()}
        found = opened().run(self.session, feeds)
        self.operators, self.elsewhere = Counter(found["operators"]), found["elsewhere"]
        return {name.removeprefix("output."): unpacked(v) for name, v in found["outputs"].items()}

    @staticmethod
    def convert(model: Any, inputs: dict[str, Any], dynamic: bool = False) -> Any:
        """The model of ONNX."""
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        torch._logging.set_logs(onnx=40)  # type: ignore[attr-defined]  # only errors
        with contextlib.redirect_stdout(io.StringIO()):  # torch tells of its progress
            return OnnxExporter().export(model, inputs, OnnxConfig(dynamic=dynamic)).program

    @staticmethod
    def why_unavailable(device: str) -> str | None:
        """Why no browser can compute on `device` here, in the browser's words."""
        for package in ("playwright", "onnxscript", "transformers.exporters"):
            if importlib.util.find_spec(package) is None:
                return f"no {package} here: pip install --upgrade {package.partition('.')[0]}"
        what = {"webgpu": "WebGPU adapter", "webnn": "WebNN backend"}[device.partition(":")[0]]
        try:
            browser = opened()
            why_not = browser.facts(device)["why_not"]
        except Exception as error:  # of many kinds, and a browser that does not start is not there
            return f"no browser: {str(error).strip().splitlines()[0]}"
        return why_not and f"no {what} in {browser.name} ({why_not})"

    @staticmethod
    def describe(device: str) -> dict[str, Any]:
        """What the browser says of `device`; `software` where an adapter stands in for a GPU."""
        found = opened().facts(device) | {"memory_bytes": None}
        found |= {"driver": f"{opened().name}, {found['driver']}"}
        return {name: value for name, value in found.items() if name != "why_not"}


class Browser:
    """A page in a browser, and the server on 127.0.0.1 that it has everything from.

    PROVING_GROUND_BROWSER is the path of a browser to start, or the address of one that runs
    (http://127.0.0.1:9222): its page is used if it has one, with all that was compiled there.
    """

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        self.folder = Path(tempfile.mkdtemp(prefix="proving-ground."))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        write_page(self.folder)
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Files, directory=str(self.folder))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.origin = f"http://127.0.0.1:{server.server_port}"
        playwright = sync_playwright().start()
        atexit.register(playwright.stop)
        asked = os.environ.get("PROVING_GROUND_BROWSER", "")
        if asked.startswith("http"):
            browser = playwright.chromium.connect_over_cdp(asked)
        else:
            path = asked or find_browser() or playwright.chromium.executable_path
            if not Path(path).exists():
                raise FileNotFoundError(
                    f"{asked or 'none of ' + ', '.join(BROWSERS)} is here: "
                    "install one, or name it with --browser PATH"
                )
            browser = playwright.chromium.launch(executable_path=path, args=[*BROWSER_FLAGS])
        context = (browser.contexts or [browser.new_context()])[0]
        self.name, mark = f"Chromium {browser.version}", f"#{zlib.crc32(PAGE.encode())}"
        found = [page for page in context.pages if page.url.endswith(mark)]
        self.page = found[0] if found else context.new_page()
        if not found:
            self.page.goto(f"{self.origin}/index.html{mark}", timeout=120_000)
        self.page.wait_for_function("self.ready", timeout=120_000)
        self.page.evaluate("release()")

    def facts(self, device: str) -> dict[str, Any]:
        """What the page says of `device`."""
        found: dict[str, Any] = self.page.evaluate("device => facts(device)", device)
        return found

    def load(self, program: Any, device: str) -> int:
        """The number of a new session, which runs the ONNX model `program` on `device`."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            save_onnx(program, Path(folder))
            url = f"{self.origin}/{Path(folder).name}/model.onnx"
            return int(self.page.evaluate("([device, url]) => load(device, url)", [device, url]))

    def run(self, session: int, feeds: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a session, and what of it ran where."""
        found: dict[str, Any] = self.page.evaluate(
            "([n, feeds]) => run(n, feeds)", [session, feeds]
        )
        return found


opened = functools.cache(Browser)


class Files(SimpleHTTPRequestHandler):
    """Serves files to pages of any origin, isolated from each other for a fine clock."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Allow what a page needs."""
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def find_browser() -> str | None:
    """Path of the Chromium of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def find_ort() -> Path:
    """The folder of onnxruntime-web. Errors: FileNotFoundError, which says what to do."""
    asked, near = os.environ.get("PROVING_GROUND_ORT_WEB"), Path(
        "node_modules/onnxruntime-web/dist"
    )
    places = [each / near for each in (Path.cwd(), *Path(__file__).resolve().parents)]
    for folder in [Path(asked)] if asked else places:
        if all((folder / name).exists() for name in ORT_FILES):
            return folder
    what = asked or f"{near}, here or above {__file__},"
    raise FileNotFoundError(f"{what} has no {ORT_FILES[0]}: npm install onnxruntime-web@1.30.0")


def write_page(folder: Path) -> None:
    """Write the page and what it loads into `folder`."""
    (folder / "ort").mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    source = find_ort()
    for name in ORT_FILES:
        try:
            os.link(source / name, folder / "ort" / name)
        except FileExistsError:
            pass
        except OSError:  # of another file system
            shutil.copy(source / name, folder / "ort" / name)


class Saved(Web):
    """Stands for a browser while a bundle is written: keeps the graph, and what it is asked."""

    def __init__(self, program: Any, device: str, dtype: str) -> None:
        self.program, self.ports = program, input_names(program)
        self.names, self.software, self.target = {*self.ports}, "", device
        self.operators, self.elsewhere = Counter(), []

    def run(self, inputs: Tensors) -> Tensors:
        """No outputs."""
        self.feeds = {self.ports[name]: packed(value) for name, value in inputs.items()}
        return {}


def write_bundle(subject: Any, record: dict[str, Any], folder: Path) -> None:
    """Write what a browser on any machine needs to judge the model of `subject` into `folder`.

    The runtime of its graph is `Saved`; `record` is of a run without checks, which the page makes.
    """
    write_page(folder)
    subject.run(subject.model, subject.inputs)
    saved = subject.model.first.runtime
    save_onnx(saved.program, folder)
    bundle = record | {"graph": subject.model.facts(), "inputs": saved.feeds}
    bundle["expected"] = {name: packed(value) for name, value in subject.expected.items()}
    bundle["bounds"] = subject.bounds
    (folder / "bundle.json").write_text(json.dumps(bundle, allow_nan=False), encoding="utf-8")


def save_onnx(program: Any, folder: Path) -> None:
    """Write the ONNX model `program` to model.onnx in `folder`."""
    import onnx_ir

    onnx_ir.save(program, folder / "model.onnx")


def input_names(program: Any) -> dict[str, str]:
    """What the ONNX model `program` calls each input of the model."""
    names = [str(value.name) for value in program.graph.inputs]
    return {name.removeprefix("input."): name for name in names}


def packed(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor as JSON: type, dimensions, its bytes in base64."""
    array = tensor.detach().cpu().contiguous().numpy()
    data = base64.b64encode(array.tobytes()).decode()
    return {"type": str(array.dtype), "dims": [*array.shape], "data": data}


def unpacked(value: dict[str, Any]) -> torch.Tensor:
    """The tensor that `packed` made, or the page."""
    array = numpy.frombuffer(base64.b64decode(value["data"]), value["type"])
    return torch.from_numpy(array.reshape(value["dims"]).copy())
