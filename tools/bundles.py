"""Bundles of all families for the browsers of other machines, a phone's too, and their records.

A script writes a bundle (`--bundle DIR`): its model, inputs, what they should give, and a page that
judges what the browser gives. Here all of them are served, with a page that runs one after the
other and sends the records back. What comes from one device is a run of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from templates._browser import Files
from tools import browsers, plan, results, scripts, worker
from tools.parent import WARM
from tools.processes import Call, Limits, Processes
from tools.results import Job, Manifest, Record
from tools.usage import UsageError

CHECKS = ["device_parity", "placement"]  # that the page of a bundle asks
MOST_BYTES = 2**21  # of a record that is sent
KEY_DAYS = 7
PAGE = Path(__file__).with_suffix(".html")


class Refused(Exception):
    """What was sent is no record of these bundles; the message says why."""


class Visits:
    """Records that browsers send, kept in `folder`: a run for each device that sends some."""

    def __init__(self, folder: Path, bundles: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._known = {path.parent.name: _job(path) for path in bundles.glob("*/bundle.json")}
        self._runs: dict[tuple[str, str], Manifest] = {}

    @property
    def families(self) -> list[str]:
        """Those that there is a bundle of."""
        return sorted(self._known)

    def take(self, data: bytes, address: str) -> Path:
        """Keep the record in `data`, which came from `address`. Errors: Refused, OSError."""
        try:
            record: Record = results.parse(data)
            device = record["device"]["requested"]
            job: Job = {**self._known[record["family"]], "device": device}
            problems = results.differences(record, job, None)
            asked = [check["name"] for check in record["checks"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(f"no record of these bundles: {error!r}") from error
        if asked != CHECKS or not browsers.runs_on(device) or record["inference"] != "real":
            problems.append(f"it has {asked} on {device}, asked was {CHECKS} in a browser")
        if problems:
            raise Refused(", ".join(problems))
        with self._lock:
            manifest = self._run(address, device)
            record["run"] = {
                "id": manifest["run_id"],
                "command": manifest["command"],
                "exit_code": int(any(c["status"] in ("fail", "error") for c in record["checks"])),
                "wall_seconds": record["seconds"],
                "runner": "page",
                "node": address,
                "attempt": 1,
                "log": "logs",
            }
            path = self._folder / manifest["run_id"] / f"{results.job_name(job)}.json"
            try:
                results.write(path, record, "result")
            except ValueError as error:
                raise Refused(str(error)) from error
        return path

    def _run(self, address: str, device: str) -> Manifest:
        """The manifest of what comes from `address` for `device`: all bundles are asked for."""
        known = self._runs.get((address, device))
        if known:
            return known
        now = datetime.now(timezone.utc)
        folder = self._folder / plan.run_id(now, self._folder)
        manifest: Manifest = {
            "schema_version": results.SCHEMA_VERSION,
            "run_id": folder.name,
            "started": now.isoformat(timespec="microseconds"),
            "host": f"{address}, served by {platform.node()}",
            "command": ["python", "-m", "tools", "serve_bundles"],
            "seed": None,
            "checks": CHECKS,
            "weights_path": None,
            "jobs": [{**self._known[family], "device": device} for family in self.families],
            "versions": plan.versions(),
        }
        with plan.create(folder, manifest):
            self._runs[address, device] = manifest
        return manifest

    def close(self) -> None:
        """Write the footers."""
        for manifest in self._runs.values():
            folder = self._folder / manifest["run_id"]
            records = results.read_run(folder).records
            footer = {
                "schema_version": results.SCHEMA_VERSION,
                "run_id": manifest["run_id"],
                "ended": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
                "finished": len(records),
                "asked": len(manifest["jobs"]),
                "interrupted": len(records) < len(manifest["jobs"]),
                "counts": results.count(records),
            }
            results.write(folder / "footer.json", footer, "footer")


class Handler(Files):
    """Serves below the path that is the token, and nothing else."""

    def __init__(self, *args: Any, token: str, visits: Visits, **kwargs: Any) -> None:
        self.token, self.visits = token, visits
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:  # noqa: N802
        """Send the page, the list of families, or a file of a bundle."""
        if not self._let_in():
            return
        if self.path in ("/", "/index.html"):
            self._answer(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/bundles.json":
            self._answer(200, json.dumps(self.visits.families).encode(), "application/json")
        elif match := re.fullmatch(r"/\w+/ort/([\w.-]+)", self.path):
            self.send_response(302)  # to one place, so that a phone loads 29 MB only once
            self.send_header("Location", f"/{self.token}/ort/{match[1]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            if self.path.startswith("/ort/"):
                self.path = f"/{self.visits.families[0]}{self.path}"
            super().do_GET()

    def do_HEAD(self) -> None:  # noqa: N802
        """As GET, but no file."""
        if self._let_in():
            super().do_HEAD()

    def do_POST(self) -> None:  # noqa: N802
        """Take a record."""
        if not self._let_in():
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/records" or not 0 < length <= MOST_BYTES:
            self.send_error(400, "that is no record")
            return
        try:
            path = self.visits.take(self.rfile.read(length), self.client_address[0])
        except Refused as error:
            self._answer(400, str(error).encode(), "text/plain; charset=utf-8")
            return
        print(f"{self.client_address[0]}: {path}", flush=True)
        self._answer(200, b"", "text/plain")

    def list_directory(self, path: Any) -> None:
        """Show no folders."""
        self.send_error(404)

    def _let_in(self) -> bool:
        _, token, rest = (self.path.partition("?")[0] + "//").split("/", 2)
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            self.send_error(404)
            return False
        self.path = "/" + rest.rstrip("/")
        return True

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A server whose clients may hang up, as a browser does until its user trusts it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of faults that are ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def make(families: dict[str, Path], folder: Path) -> list[str]:
    """Write the bundles that are missing or of an older script; gives those that cannot be made."""
    old = [
        family
        for family, script in families.items()
        if not (folder / family / "bundle.json").exists()
        or _job(folder / family / "bundle.json")["script_sha256"] != scripts.read(script).sha256
    ]
    if not old:
        return []
    modules = [*WARM, worker.EXPORTERS["webgpu"]]
    processes = Processes("warm", Limits(1, None), worker.environment(offline=True), modules)

    def write(family: str) -> bool:
        target = folder / family
        target.mkdir(parents=True, exist_ok=True)
        (target / "bundle.json").unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            script, log = families[family].absolute(), target / "log.txt"
            call = Call(script, ["--bundle", str(target.absolute())], Path(scratch), log, 600.0)
            ended = processes.run(call)
        made = ended is not None and ended.exit_code == 0
        print(f"{family}: {'made' if made else f'cannot be made, see {log}'}", flush=True)
        return made

    try:
        with ThreadPoolExecutor(worker.cores()) as pool:
            made = dict(zip(old, pool.map(write, old), strict=True))
    finally:
        processes.stop()
    return [family for family, well in made.items() if not well]


def server(folder: Path, visits: Visits, token: str, port: int, lan: bool) -> ThreadingHTTPServer:
    """A server of the bundles in `folder`; in the local network only `lan` lets others in.

    A browser gives WebGPU only to pages from this machine or by https, so `lan` means https with a
    certificate that is made here, and that the browser asks about. Errors: UsageError.
    """
    handler = functools.partial(Handler, token=token, visits=visits, directory=str(folder))
    made = Server(("0.0.0.0" if lan else "127.0.0.1", port), handler)
    if lan:
        with tempfile.TemporaryDirectory() as scratch:
            key, certificate = Path(scratch, "key.pem"), Path(scratch, "certificate.pem")
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-batch"]
            command += ["-days", str(KEY_DAYS), "-subj", "/CN=proving-ground"]
            command += ["-addext", f"subjectAltName=IP:{_address()}"]
            command += ["-keyout", str(key), "-out", str(certificate)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                made.server_close()
                raise UsageError(
                    f"--lan needs openssl, to make a certificate ({error}). Install it, or leave "
                    "--lan out and let the phone in by `adb reverse tcp:PORT tcp:PORT`"
                ) from error
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
        # Each thread greets its own client: one that connects and says nothing holds up no other.
        made.socket = context.wrap_socket(
            made.socket, server_side=True, do_handshake_on_connect=False
        )
    return made


def main(options: argparse.Namespace) -> int:
    """`python -m tools serve_bundles`: until Ctrl-C."""
    families = scripts.find(options.scripts)
    unknown = [family for family in options.family if family not in families]
    if unknown:
        raise UsageError(f"there is no script of {', '.join(unknown)}")
    chosen = {family: families[family] for family in options.family or families}
    bundles = options.results / "bundles"
    failed = make(chosen, bundles)
    visits, token = Visits(options.results, bundles), secrets.token_urlsafe(16)
    if failed:
        print(f"{len(failed)} families have no bundle: {', '.join(failed)}")
    served = server(bundles, visits, token, options.port, options.lan)
    scheme, host = ("https", _address()) if options.lan else ("http", "localhost")
    print(f"open {scheme}://{host}:{served.server_port}/{token}/ (Ctrl-C ends it)", flush=True)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        served.server_close()
        visits.close()
    return 0


def _job(bundle: Path) -> Job:
    """The job that a bundle can answer; the file is written last, so it is whole."""
    return results.job_of(json.loads(bundle.read_text(encoding="utf-8")))


def _address() -> str:
    """This machine's own in the local network; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation's: nobody is there
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
