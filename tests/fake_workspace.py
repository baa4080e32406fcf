"""A workspace gateway in this process: the HTTP contract in small, with switches for each failure."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import xxhash

MAX_MISSING = 4096


class Cut(Exception):
    """A switch orders the connection to end here."""


@dataclass
class Workspace:
    created: float
    revision: int = 0
    files: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class FakeWorkspaces:
    """What arrived, and the switches. `keep`: hold the blobs' bytes, not only their hashes."""

    key: str = "sk-test"
    keep: bool = True
    # Switches
    cut_blobs: list[int] = field(default_factory=list)  # of the next body of blobs so many bytes are read, then: cut
    lose_answers: int = 0  # so many answers to blobs are cut after the blobs were stored
    fail: list[tuple[int, str]] = field(default_factory=list)  # (status, code) of the next answers
    garbled: int = 0  # so many answers say that they are gzip'd, and are not
    slow_s: float = 0.0
    identity: bool = True
    # What happened
    workspaces: dict[str, Workspace] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    calls: list[str] = field(default_factory=list)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    applied_at: list[float] = field(default_factory=list)
    address: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def tree(self, name: str = "w") -> dict[str, bytes]:
        """path -> content of the revision that stands."""
        space = self.workspaces.get(name)
        return {path: self.blobs[row[0]] for path, row in space.files.items()} if space else {}

    def count(self, name: str = "w") -> int:
        return len(self.workspaces[name].files) if name in self.workspaces else 0

    def paths(self, name: str = "w") -> set[str]:
        space = self.workspaces.get(name)
        return set(space.files) if space else set()

    async def until(self, true: Any, limit_s: float = 20.0) -> None:
        """Wait until `true()` is; fails with what there is instead."""
        end = time.monotonic() + limit_s
        while not true():
            assert time.monotonic() < end, (self.calls[-10:], sorted(self.paths())[:20])
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), 0.05)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (Cut, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.discard(writer)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        what = f"{method} {target.removeprefix('/api/workspaces/')}"
        length = int(headers.get("content-length", "0"))
        if target.endswith("/blobs") and self.cut_blobs:
            await reader.readexactly(min(length, self.cut_blobs.pop(0)))
            self.calls.append(f"{what} cut")
            raise Cut
        body = await reader.readexactly(length)
        self.calls.append(what)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        status, answer = self._answer(method, target, headers, body)
        if target.endswith("/blobs") and self.lose_answers:
            self.lose_answers -= 1
            raise Cut
        data = json.dumps(answer).encode()
        coded = b"content-encoding: gzip\r\n" if self.garbled else b""
        self.garbled = max(0, self.garbled - 1)
        writer.write(
            b"HTTP/1.1 %d X\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (status, coded, len(data))
        )
        writer.write(data)
        await writer.drain()
        self.changed.set()
        return True

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        if headers.get("authorization", "") != f"Bearer {self.key}":
            return error(401, "invalid_api_key", "no such key")
        if self.fail:
            status, code = self.fail.pop(0)
            return error(status, code, f"told to fail with {status}")
        name, _, action = target.removeprefix("/api/workspaces/").partition("/")
        if method == "PUT":
            space = self.workspaces.setdefault(name, Workspace(time.time()))
            known = {"created": space.created} if self.identity else {}
            return 200, {"name": name, "revision": space.revision, "files": len(space.files), **known}
        if name not in self.workspaces:
            return error(404, "workspace_not_found", "no such workspace")
        if action == "blobs":
            return self._blobs(body)
        return self._manifest(self.workspaces[name], json.loads(body))

    def _blobs(self, body: bytes) -> tuple[int, dict[str, Any]]:
        stored, place = 0, 0
        assert len(body) <= 16 << 20
        while place < len(body):
            digest, size = body[place : place + 16], int.from_bytes(body[place + 16 : place + 20], "big")
            data = body[place + 20 : place + 20 + size]
            place += 20 + size
            assert len(data) == size
            assert xxhash.xxh3_128(data).digest() == digest
            self.received[digest.hex()] += 1
            self.blobs[digest.hex()] = data if self.keep else b""
            stored += 1
        return 200, {"stored": stored, "known": 0}

    def _manifest(self, space: Workspace, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.manifests.append(sent)
        if sent["base"] is not None and sent["base"] != space.revision:
            status, answer = error(409, "revision_conflict", "another revision")
            answer["error"]["revision"] = space.revision
            return status, answer
        new = {path: row for path, *row in sent["files"]}
        for path in (*new, *sent["removed"]):
            assert path.encode()
            assert all(part not in ("", ".", "..") for part in path.split("/")), path
        missing = sorted({row[0] for row in new.values()} - self.blobs.keys())
        if missing:
            found = {"applied": False, "revision": space.revision, "missing": missing[:MAX_MISSING]}
            return 200, {**found, "missing_count": len(missing)}
        if sent["base"] is None:
            changed, space.files = new != space.files, new
        else:
            gone = [path for path in sent["removed"] if space.files.pop(path, None)]
            changed = bool(gone) or any(space.files.get(path) != row for path, row in new.items())
            space.files.update(new)
        if changed:
            space.revision += 1
            self.applied_at.append(time.monotonic())
        return 200, {"applied": True, "revision": space.revision, "missing": [], "missing_count": 0}


def error(status: int, code: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "code": code, "type": "x"}}


@contextlib.asynccontextmanager
async def serving(fake: FakeWorkspaces, uds: str = "", port: int = 0) -> AsyncIterator[FakeWorkspaces]:
    """The fake at `fake.address` until the block ends; its connections end with it."""
    if uds:
        server = await asyncio.start_unix_server(fake.serve, uds, limit=1 << 20)
        fake.address = f"unix:{uds}"
    else:
        server = await asyncio.start_server(fake.serve, "127.0.0.1", port, limit=1 << 20)
        fake.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        for writer in list(fake.connections):
            writer.transport.abort()
        await asyncio.sleep(0)
        await server.wait_closed()
