"""Bodies of the routes that take more than a request to a model: read within a budget, inflated within a limit."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from aicockpit.errors import BadRequest, Overloaded, RequestTimeout, Superseded, TooLarge, UnsupportedEncoding

_GZIP = 31  # zlib's window bits for a gzip header


class Intake:
    """All bodies together may take `budget` bytes as they came; each may take `wait_s` seconds to arrive."""

    def __init__(self, budget: int, wait_s: float) -> None:
        self._budget, self._wait_s = budget, wait_s
        self._held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request, limit: int) -> AsyncIterator[memoryview]:
        """The bytes as they came, `limit` at most; they count until the block ends.

        Raises TooLarge, Overloaded, RequestTimeout, UnsupportedEncoding, and Superseded when the client has left.
        """
        if gzipped(request) is None:
            raise UnsupportedEncoding("a body may be sent plain or with Content-Encoding: gzip")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large(limit)
        body = bytearray()
        try:
            await self._read(request, body, limit)
            yield memoryview(body)
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray, limit: int) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                async for part in request.stream():
                    body += part
                    self._held += len(part)
                    if len(body) > limit:
                        raise too_large(limit)
                    if self._held > self._budget:
                        raise Overloaded(
                            "the bodies that arrive now take all memory they may", headers=((b"retry-after", b"2"),)
                        )
        except TimeoutError as error:
            raise RequestTimeout(f"the body was not complete after {self._wait_s:g} s") from error
        except ClientDisconnect as error:
            raise Superseded("the client left before its request was complete", code="client_left") from error


def gzipped(request: Request) -> bool | None:
    """None for an encoding that is not known here."""
    return {"": False, "identity": False, "gzip": True, "x-gzip": True}.get(
        request.headers.get("content-encoding", "").strip().lower()
    )


def inflate(raw: memoryview, limit: int) -> bytes:
    """The content of a gzip stream. Never makes more than `limit` bytes of it: raises TooLarge; else BadRequest."""
    stream = zlib.decompressobj(_GZIP)
    try:
        plain = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        raise _bad(str(error)) from error
    if len(plain) > limit:
        raise too_large(limit)
    if not stream.eof:
        raise _bad("it breaks off")
    if stream.unused_data:
        raise _bad("more bytes follow its end")
    return plain


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes, which is the most that this route takes")


def _bad(why: str) -> BadRequest:
    return BadRequest(f"the body is not one gzip stream: {why}", code="bad_gzip")
