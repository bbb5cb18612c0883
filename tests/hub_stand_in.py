"""A stand-in of the Hugging Face Hub over HTTP: repositories in memory.

It answers what the client asks for when it reads and writes small files, as the Hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repository:
    """The trees of a repository by commit; `heads` are main and refs/pr/N."""

    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)  # of pull requests

    def commit(self, files: dict[str, bytes], head: str = "main", parent: str = "main") -> str:
        """A new commit with these files changed."""
        tree = {**self.trees.get(self.heads.get(parent, ""), {}), **files}
        told = repr([sorted(tree.items()), len(self.trees)])
        sha = hashlib.sha1(told.encode()).hexdigest()
        self.trees[sha], self.heads[head] = tree, sha
        return sha

    def tree(self, revision: str) -> dict[str, bytes] | None:
        """The files at a commit, branch or pull request."""
        return self.trees.get(self.heads.get(revision, revision))


class Hub(ThreadingHTTPServer):
    """The server; `broken` has what fails: (method, part of the path, status or "drop")."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.broken: list[tuple[str, str, Any]] = []
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def model(self, name: str, **files: str) -> Repository:
        """A new model repository with a file of weights."""
        made = self.repositories["model", name] = Repository()
        made.commit({"config.json": b"{}", "model.safetensors": b"1234"})
        if files:
            made.commit({f"{n}.md": text.encode() for n, text in files.items()})
        return made


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def answer(self, method: str) -> None:
        """Find what is asked for."""
        parts = urlsplit(self.path)
        path, query = parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{method} {unquote(path)}")
        for broken in self.server.broken:
            if broken[0] == method and broken[1] in path:
                return self.fail(broken[2])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if method == "POST" and token != WRITER:
            return self.fail(403 if token == READER else 401)
        if path == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(self.body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories[asked.get("type") or "model", name] = made = Repository()
            made.commit({".gitattributes": b""})
            return self.send({"url": f"{self.server.address}/datasets/{name}", "name": name})
        found = re.fullmatch(r"/api/(\w+)s/([^/]+/[^/]+)(?:/(\w+)(?:/(.+))?)?", path)
        if found:
            kind, name, verb, rest = found.groups()
            return self.api(kind, name, verb or "revision", unquote(rest or "main"), query)
        found = re.fullmatch(r"(/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found:
            return self.file("dataset" if found[1] else "model", *found.groups()[1:])
        return self.fail(404)

    def api(self, kind: str, name: str, verb: str, revision: str, query: dict[str, str]) -> None:
        """What is asked of a repository."""
        repository = self.server.repositories.get((kind, name))
        if repository is None:
            return self.fail(404, "RepoNotFound")
        tree = repository.tree(revision)
        if verb == "discussions":
            known = [
                {"title": title, "num": number, "status": "open", "isPullRequest": True,
                 "createdAt": "2026-01-01T00:00:00.000Z", "author": {"name": "me"},
                 "repo": {"name": name, "type": kind}}
                for number, title in repository.titles.items()
            ]  # fmt: skip
            return self.send({"count": len(known), "start": 0, "discussions": known})
        if tree is None:
            return self.fail(404, "RevisionNotFound")
        if verb == "revision":
            siblings = [
                {"rfilename": path, "size": len(data), "blobId": blob(data)}
                for path, data in tree.items()
            ]
            sha = repository.heads.get(revision, revision)
            return self.send({"_id": "1", "id": name, "sha": sha, "siblings": siblings})
        if verb == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False,
                 "oid": blob(tree[each["path"]]) if each["path"] in tree else None}
                for each in json.loads(self.body)["files"]
            ]  # fmt: skip
            return self.send({"files": files})
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        parent = header.get("parentCommit")
        if parent and parent != repository.heads[revision]:
            return self.fail(412)
        files = {
            each["value"]["path"]: base64.b64decode(each["value"]["content"])
            for each in lines[1:]
            if each["key"] == "file"
        }
        where = f"{self.server.address}/{name}"
        if query.get("create_pr"):
            number = len(repository.titles) + 1
            repository.titles[number] = header["summary"]
            sha = repository.commit(files, f"refs/pr/{number}")
            more = {"pullRequestUrl": f"{where}/discussions/{number}"}
        else:
            sha, more = repository.commit(files, revision, revision), {}
        return self.send({"commitUrl": f"{where}/commit/{sha}", "commitOid": sha, **more})

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        """A file at a commit."""
        repository = self.server.repositories[kind, name]
        data = (repository.tree(unquote(revision)) or {}).get(path)
        if data is None:
            return self.fail(404, "EntryNotFound")
        sha = repository.heads.get(revision, revision)
        return self.send(data, **{"ETag": f'"{blob(data)}"', "X-Repo-Commit": sha})

    def send(self, body: Any, status: int = 200, **headers: str) -> None:
        """Answer with bytes or JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status: Any, code: str = "") -> None:
        """Answer with an error, or with nothing."""
        if status == "drop":
            self.close_connection = True
            self.connection.close()
            return None
        headers = {"X-Error-Code": code} if code else {}
        headers |= {"Retry-After": "1"} if status == 429 else {}
        return self.send({"error": f"said the stand-in: {status}"}, status, **headers)


def blob(data: bytes) -> str:
    """The name that Git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
