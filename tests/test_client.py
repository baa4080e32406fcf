"""The upstream client against raw sockets: framing, reuse, limits, slow readers, aborts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from aicockpit.engines.client import Upstream
from aicockpit.engines.connection import HIGH_WATER
from aicockpit.errors import ConnectFailed, UpstreamLost, UpstreamTimeout
from aicockpit.types import Address

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def engine(tmp_path: Path, handler: Handler) -> AsyncIterator[Upstream]:
    running: set[asyncio.Task[object]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        running.discard(task)

    server = await asyncio.start_unix_server(guarded, tmp_path / "s")
    upstream = Upstream(Address(uds=str(tmp_path / "s")), connect_wait=2.0)
    try:
        yield upstream
    finally:
        upstream.close()
        server.close()
        while running:
            await asyncio.wait(running)


def answering(*pieces: bytes, keep: bool = True) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if not keep:
                return

    return handler


async def whole(upstream: Upstream) -> tuple[int, bytes]:
    return await upstream.fetch("GET", "/x", limit_s=5)


@pytest.mark.parametrize(
    ("pieces", "keep", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], True, b"hello"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r", b"\nhel", b"lo"], True, b"hello"),
        (
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"],
            True,
            b"hello",
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"], False, b"hello"),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"], True, b"ok"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], True, b""),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"], True, b"ok"),
    ],
)
async def test_framing(tmp_path: Path, pieces: list[bytes], keep: bool, body: bytes) -> None:
    async with engine(tmp_path, answering(*pieces, keep=keep)) as upstream:
        for _ in range(3):
            assert (await whole(upstream))[1] == body
        assert upstream.open_connections <= 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SSH-2.0-OpenSSH\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 9\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"content-length: 0\r\n\r\n"],
        [b""],
    ],
)
async def test_broken_answers_are_lost_not_silent(tmp_path: Path, pieces: list[bytes]) -> None:
    async with engine(tmp_path, answering(*pieces, keep=False)) as upstream:
        with pytest.raises(UpstreamLost):
            await whole(upstream)
        assert upstream.open_connections == 0


async def test_no_socket_and_refused(tmp_path: Path) -> None:
    for address in (Address(uds=str(tmp_path / "none")), Address("127.0.0.1", 9)):
        with pytest.raises(ConnectFailed, match="no connection"):
            await whole(Upstream(address))


async def test_a_surplus_answer_is_never_given_to_the_next_request(tmp_path: Path) -> None:
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
    stray = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"
    async with engine(tmp_path, answering(one + stray)) as upstream:
        for _ in range(3):
            assert (await whole(upstream))[1] == b"one"


async def test_a_slow_reader_pauses_the_engine(tmp_path: Path) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with engine(tmp_path, flood) as upstream:
        reply = await upstream.send(b"GET", b"/", (), b"")
        await asyncio.sleep(0.3)
        assert sent < 10 * HIGH_WATER
        size = 0
        while piece := await reply.read():
            size += len(piece)
        assert size == 50_000_000


async def test_named_waits(tmp_path: Path) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")
        await reader.read()

    async with engine(tmp_path, stall) as upstream:
        reply = await upstream.send(b"GET", b"/", (), b"")
        assert await reply.read() == b"x"
        reply.watch("token", 0.1)
        with pytest.raises(UpstreamTimeout, match="token limit"):
            await reply.read()
        assert upstream.open_connections == 0
        with pytest.raises(UpstreamTimeout, match="answer limit"):
            await upstream.fetch("GET", "/", limit_s=0.1)
        assert upstream.open_connections == 0


async def test_a_cancelled_request_closes_its_connection(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()

    async with engine(tmp_path, silent) as upstream:
        task = asyncio.create_task(upstream.send(b"GET", b"/", (), b""))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.open_connections == 0
