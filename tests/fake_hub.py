"""A Hugging Face Hub on 127.0.0.1: what huggingface_hub asks when it downloads a model, and the ways that fails.

The repository's owner chooses: `ok`, `gated`, `token` (wrong token), `gone`, `busy` (500), `once` (the first download
of each large file is cut, then it goes on by Range), `cut` (always), `ggufs` (nothing but GGUF), `huge` (says 10^15 B).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "a" * 40
CONFIG = json.dumps({"architectures": ["X"], "max_position_embeddings": 64}).encode()
WEIGHTS = bytes(range(256)) * 48_000  # the library reads in pieces of 10 MiB, and keeps whole pieces only
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
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("authorization", "")))
        api = re.fullmatch(r"/api/models/([^/]+)/[^/]+(/.*)?", path)
        file = re.fullmatch(r"/([^/]+)/[^/]+/resolve/[^/]+/(.+)", path)
        owner = (api or file or ["", ""])[1]
        if owner in ERRORS and not (owner == "gated" and api):
            self._error(*ERRORS[owner])
        elif api:
            self._json(_tree(owner) if "/tree/" in (api[2] or "") else _info(owner))
        elif file and file[2] in _files(owner):
            self._file(owner, file[2], body)
        else:
            self._error(404, "EntryNotFound", "Entry not found")

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(
            status, b"", {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        )

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _file(self, owner: str, name: str, body: bool) -> None:
        content = _files(owner)[name]
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("range", "")) or [0])[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_hash(content)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if (owner == "cut" and name == "model.safetensors") or (
            owner == "once" and name == "model.safetensors" and not start
        ):
            self.wfile.write(content[start : start + 11_000_000 if owner == "once" else start])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content[start:])


class Hub(ThreadingHTTPServer):
    """`requests` are (method, path, authorization)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _files(owner: str) -> dict[str, bytes]:
    return {"model.Q4.gguf": b"GGUF", "config.json": CONFIG} if owner == "ggufs" else FILES


def _size(owner: str, content: bytes) -> int:
    return 10**15 if owner == "huge" else len(content)


def _info(owner: str) -> object:
    siblings = [
        {"rfilename": name, "size": _size(owner, content), "blobId": _hash(content)}
        for name, content in _files(owner).items()
    ]
    gated = "manual" if owner == "gated" else False
    return {"id": f"{owner}/m", "sha": SHA, "siblings": siblings, "private": False, "gated": gated, "tags": []}


def _tree(owner: str) -> object:
    return [
        {"type": "file", "path": name, "size": _size(owner, content), "oid": _hash(content)}
        for name, content in _files(owner).items()
    ]


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
