"""The engine's own page of metrics, passed through: vLLM's figures of its KV cache, preemptions and KV tiers, to be
scraped. Called by `admin.py`.
"""

from __future__ import annotations

import asyncio

from aicockpit.engines.engine import Engine
from aicockpit.errors import BadGateway, ConnectFailed, GatewayTimeout, NotReady, UpstreamLost, UpstreamTimeout
from aicockpit.gateway.routing import describe

LIMIT = 8 << 20  # bytes; vLLM's page is about 0.1 MB a model
WAIT_S = 5.0


async def page(engine: Engine, limit: int = LIMIT, wait_s: float = WAIT_S) -> tuple[bytes, str]:
    """(the text as the engine wrote it, its content type).

    Raises NotReady, GatewayTimeout, and BadGateway when it has no such page, or one of more than `limit` bytes.
    """
    if not engine.ready:
        raise NotReady(f"no metrics: {describe(engine)}", code="engine_not_ready", headers=((b"retry-after", b"5"),))
    try:
        async with asyncio.timeout(wait_s):
            return await _read(engine, limit)
    except (TimeoutError, UpstreamTimeout) as error:
        raise GatewayTimeout(f"{engine.name} did not send its metrics within {wait_s:g} s") from error
    except (ConnectFailed, UpstreamLost) as error:
        message = f"{engine.name} does not answer: {error}"
        raise NotReady(message, code="engine_not_ready", headers=((b"retry-after", b"5"),)) from error


async def _read(engine: Engine, limit: int) -> tuple[bytes, str]:
    reply = await engine.upstream.send(b"GET", b"/metrics", (), b"")
    try:
        if reply.status != 200:
            raise BadGateway(f"{engine.name} answers /metrics with status {reply.status}")
        parts, size = [], 0
        while part := await reply.read():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise BadGateway(f"the metrics of {engine.name} are larger than {limit} bytes")
        kind = dict(reply.headers).get(b"content-type", b"text/plain; version=0.0.4")
        return b"".join(parts), kind.decode("latin-1")
    finally:
        reply.abort()
