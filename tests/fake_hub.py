"""A Hugging Face Hub on 127.0.0.1: what huggingface_hub asks of it, and the ways that fails.

Any repository exists. Large files are LFS: `/resolve/` sends on to another host name (a CDN), with the headers that the
Hub adds. The owner chooses lasting troubles: `gated`, `token` (wrong token), `gone`, `busy` (500), `cut` (no byte of a
large file), `ggufs`, `huge` (says 10^15 bytes), `login` (an HTML page). `Hub.fault` adds passing ones.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

SHA = "a" * 40
CONFIG = json.dumps({"architectures": ["X"], "max_position_embeddings": 64}).encode()
WEIGHTS = bytes(range(256)) * 12_000
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "README.md": b"# hello",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"not wanted",
    "onnx/model.onnx": b"not wanted",
    "onnx/config.json": b"not wanted",
}
ERRORS = {
    "gated": (403, "GatedRepo", "Access to model is restricted"),
    "token": (401, "", "Invalid credentials in Authorization header"),
    "gone": (404, "RepoNotFound", "Repository not found"),
    "busy": (500, "", "Internal error"),
}
_LARGE = (".safetensors", ".bin", ".gguf")


@dataclass
class Fault:
    """Applies to the next `times` requests whose "METHOD /path" matches `match`. `status`: answer that; `cut`: end the
    connection after so many bytes of the body; `wrong`: other bytes of the same length; `ranges` False: send all;
    `pace`: bytes a second; `pause`: seconds before the answer."""

    match: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    wrong: bool = False
    ranges: bool = True
    pace: float = 0.0
    pause: float = 0.0


@dataclass
class Revision:
    commit: str = SHA
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append((self.command, path, self.headers.get("authorization", "")))
        self.fault = self.server.take(f"{self.command} {path}")
        time.sleep(self.fault.pause)
        api = re.fullmatch(r"/api/models/([^/]+)/([^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+)/([^/]+)/resolve/([^/]+)/(.+)", path)
        cdn = re.fullmatch(r"/cdn/([0-9a-f]{64})", path)
        owner = (api or file or ["", ""])[1]
        if self.fault.status:
            self._send(self.fault.status, b"", {"X-Error-Message": "as the test wants", **self.fault.headers})
        elif owner == "login":
            self._send(200, b"<html>welcome to this hotel</html>", {"Content-Type": "text/html"})
        elif owner in ERRORS and not (owner == "gated" and api):
            status, code, message = ERRORS[owner]
            self._send(status, b"", {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})})
        elif cdn:
            self._content(self.server.blobs[cdn[1]], body, {"ETag": '"of-the-storage"'})
        elif api:
            self._api(owner, api[2], api[3], unquote(api[4] or "main"))
        elif file:
            self._file(owner, file[2], unquote(file[3]), file[4], body)
        else:
            self._send(404, b"", {"X-Error-Message": "what is that"})

    def _api(self, owner: str, name: str, what: str | None, revision: str) -> None:
        found = self.server.revision(owner, name, revision)
        if found is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
            return
        rows = [_row(owner, path, content, tree=what == "tree") for path, content in found.files.items()]
        info = {"id": f"{owner}/{name}", "sha": found.commit, "siblings": rows, "private": False, "tags": []}
        info["gated"] = "manual" if owner == "gated" else False
        self._send(200, json.dumps(rows if what == "tree" else info).encode(), {"Content-Type": "application/json"})

    def _file(self, owner: str, name: str, revision: str, path: str, body: bool) -> None:
        found = self.server.revision(owner, name, revision)
        content = found.files.get(path) if found else None
        if found is None or content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": found.commit}
        if not path.endswith(_LARGE):
            self._content(content, body, {**headers, "ETag": f'"{git_hash(content)}"'})
            return
        if owner == "cut" and body:
            self.fault.cut = 0
        sha = sha256(content)
        self.server.blobs[sha] = content
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content)), "ETag": '"of-the-pointer"'}
        if self.server.xet:
            headers |= {"X-Xet-Hash": "b" * 64, "X-Xet-Refresh-Route": f"{self.server.url}/api/xet"}
        if self.fault.cut == 0:
            self.close_connection = True
            return
        self._send(302, b"", {**headers, "Location": f"{self.server.cdn}/cdn/{sha}?signed={quote(path)}"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _content(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
        fault = self.fault
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("range", "")) or [0])[0]) if fault.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        sent = content[start:]
        if fault.wrong:
            sent = bytes(len(sent))
        if fault.cut is not None:
            self.close_connection = True
            sent = sent[: fault.cut]
        step = max(1, int(fault.pace / 20)) if fault.pace else len(sent) or 1
        for at in range(0, len(sent), step):
            self.server.sent += min(step, len(sent) - at)  # before: who has read it may look at once
            self.wfile.write(sent[at : at + step])
            if fault.pace:
                time.sleep(0.05)


class Hub(ThreadingHTTPServer):
    """`requests` are (method, path, authorization); `sent` counts bytes of files; `revisions` by "owner/name"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, str]] = []
        self.revisions: dict[str, dict[str, Revision]] = {}
        self.blobs: dict[str, bytes] = {}
        self.sent = 0
        self.xet = False
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The same machine under another name: clients may not send it the Hub's token."""
        return f"http://localhost:{self.server_address[1]}"

    def fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, request: str) -> Fault:
        """What goes wrong with this request. Several may apply; the first one given does."""
        with self._lock:
            for fault in self._faults:
                if fault.times and re.search(fault.match, request):
                    fault.times -= 1
                    return Fault(**{**vars(fault), "times": 0})
        return Fault("")

    def publish(self, repo: str, files: dict[str, bytes], commit: str = SHA, branch: str = "main") -> None:
        """Let a repository hold these files at a branch; without a call it holds FILES at `main`."""
        revision = Revision(commit, dict(files))
        self.revisions.setdefault(repo, {}).update({branch: revision, commit: revision})

    def revision(self, owner: str, name: str, revision: str) -> Revision | None:
        given = self.revisions.get(f"{owner}/{name}")
        if given is not None:
            return given.get(revision)
        files = {"model.Q4.gguf": b"GGUF", "config.json": CONFIG} if owner == "ggufs" else dict(FILES)
        return Revision(SHA, files) if revision in ("main", SHA) else None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle of an answer is part of the tests."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _row(owner: str, path: str, content: bytes, tree: bool) -> dict[str, object]:
    """A file, as a repository's description or its tree lists it."""
    size = 10**15 if owner == "huge" else len(content)
    row: dict[str, object] = {"size": size, **({"path": path, "type": "file"} if tree else {"rfilename": path})}
    row["oid" if tree else "blobId"] = git_hash(content)
    if path.endswith(_LARGE):
        row["lfs"] = {"size": size, "oid" if tree else "sha256": sha256(content), "pointerSize": 134}
    return row


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
