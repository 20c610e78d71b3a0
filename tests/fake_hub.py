"""A small Hugging Face hub on 127.0.0.1: what huggingface_hub asks of it to make, fill and read a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_let_me_in"  # who sends it may write


@dataclass
class Hub:
    """Repositories: each a list of commits (hash, files), the last of which is `main`; `private` and `gated` ones."""

    url: str = ""
    repos: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    broken: bool = False  # answers nothing but 500

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Put files on top of what is there, and return the commit's hash."""
        commits = self.repos[repo]
        contents = {**(commits[-1][1] if commits else {}), **files}
        oid = hashlib.sha1(repr((len(commits), sorted(contents.items()))).encode()).hexdigest()
        commits.append((oid, contents))
        return oid

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision names."""
        commits = self.repos[repo]
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0] == revision), None)


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """A hub that runs for as long as the block."""
    hub = Hub()
    handler = type("OfHub", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        if self.hub.broken:
            return self._say(500, {"error": "out of order"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        return self._say(404, {"error": "no such page"})

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            form = json.loads(body)
            repo = f"{form['organization']}/{form['name']}"
            if repo in self.hub.repos:
                return self._say(409, {"error": "You already created this model repo"})
            self.hub.repos[repo] = []
            return self._say(200, {"url": f"{self.hub.url}/{repo}", "name": repo})
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._say(200, {"files": files})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            oid = self.hub.commit(found[1], files)
            url = f"{self.hub.url}/{found[1]}/commit/{oid}"
            return self._say(200, {"success": True, "commitOid": oid, "commitUrl": url})
        return self._say(404, {"error": "no such page"})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _found(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit, or None where what is missing was said."""
        if repo not in self.hub.repos:
            self._say(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
            return None
        if repo in self.hub.gated:
            self._say(403, {"error": "Access to it is restricted"}, **{"X-Error-Code": "GatedRepo"})
            return None
        commit = self.hub.at(repo, revision)
        if commit is None:
            self._say(404, {"error": "Invalid rev id"}, **{"X-Error-Code": "RevisionNotFound"})
        return commit

    def _info(self, repo: str, revision: str) -> None:
        commit = self._found(repo, revision)
        if commit is not None:
            files = [{"rfilename": name} for name in commit[1]]
            self._say(
                200, {"id": repo, "modelId": repo, "sha": commit[0], "siblings": files, "private": False}
            )

    def _file(self, repo: str, revision: str, name: str) -> None:
        commit = self._found(repo, revision)
        if commit is None:
            return
        oid, files = commit
        if name not in files:
            return self._say(
                404, {"error": "Entry not found"}, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid}
            )
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        self._send(200, files[name], "application/octet-stream", {"ETag": etag, "X-Repo-Commit": oid})

    def _say(self, status: int, answer: dict[str, Any], **headers: str) -> None:
        said = {"X-Error-Message": str(answer.get("error", ""))}
        self._send(status, json.dumps(answer).encode(), "application/json", headers | said)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
