"""A request to an engine and its answer back: bytes through untouched, a disconnect cancels upstream.

Until the first byte of the answer's body nothing is sent to the client, so a failing engine can be replaced by
another replica. After it, a failure ends the answer with an error event, never with silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from aicockpit.engines.client import Headers, Reply
from aicockpit.engines.engine import Engine
from aicockpit.errors import (
    ApiError,
    BadGateway,
    ConnectFailed,
    GatewayTimeout,
    NotReady,
    Overloaded,
    UpstreamLost,
    UpstreamTimeout,
)
from aicockpit.gateway import envelope
from aicockpit.gateway.arrivals import Arrivals
from aicockpit.gateway.exchange import Exchange, Residents, usage_from, usage_of
from aicockpit.gateway.headers import back_headers, told
from aicockpit.gateway.lanes import WaitingRoom
from aicockpit.gateway.metrics import Metrics
from aicockpit.gateway.routing import Choice, Limits, Verdict, choose
from aicockpit.gateway.sse import StreamWatch
from aicockpit.gateway.waking import Waker, awake
from aicockpit.types import Lane

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# Sends a whole answer in one write: status, headers, body.
Answer = Callable[[int, Headers, bytes], Awaitable[None]]

# Error bodies are held back to be read.
_ERROR_LIMIT = 4 << 20
# So are whole answers with context, up to this size.
_ANSWER_LIMIT = 64 << 20
_MAX_TRIES = 3
# Weight of the newest request in an engine's pace.
_PACE = 0.1
# Streams in which every choice ends with a `finish_reason`.
_FINISHING = ("/v1/chat/completions", "/v1/completions")
# What vLLM says while it dies or drains (docs/engines.md): the request is good, the engine is not.
_DYING = (b"EngineCore encountered an issue", b"cannot schedule new futures after shutdown", b"Engine core proc")


@dataclass(frozen=True, slots=True)
class Waits:
    """Named limits in seconds; None is no limit."""

    first_byte: float | None
    token: float | None


class _Retry(Exception):
    """This engine failed before the first byte; `error` is the answer if no other can take over."""

    def __init__(self, reason: str, error: ApiError) -> None:
        super().__init__(reason)
        self.reason, self.error = reason, error


class Forwarder:
    """Sends exchanges to engines. Owns the background waiting rooms; changes `Engine.load` and `.breaker`."""

    def __init__(self, limits: Limits, waits: Waits, metrics: Metrics, waiting: int, wait_s: float | None) -> None:
        self.limits, self.waits, self.metrics = limits, waits, metrics
        self._waiting, self._wait_s = waiting, wait_s
        # One room per set of engines: two names of one engine queue together. Bounded by the sets there can be.
        self._rooms: dict[tuple[str, ...], WaitingRoom] = {}
        self._turns: set[asyncio.Future[None]] = set()
        self.arrivals = Arrivals(lambda: self.wake(rooms=False))
        self.residents: Residents | None = None
        self.waker: Waker | None = None

    async def forward(self, exchange: Exchange, send: Send, answer: Answer) -> None:
        """Raises ApiError while nothing was sent; after that the answer itself says what went wrong."""
        while True:
            engine = exchange.engine = await self._engine(exchange)
            try:
                with self.occupied(engine, exchange.lane):
                    await self._attempt(exchange, engine, send, answer)
                return
            except _Retry as signal:
                exchange.tried.append(engine)
                if not self._may_retry(exchange):
                    raise signal.error from signal
                self.metrics.retries.labels(signal.reason).inc()

    @contextlib.contextmanager
    def occupied(self, engine: Engine, lane: Lane, *, ours: bool = False) -> Iterator[None]:
        """A request is in work, `ours` if nobody waits for it. The only place where loads change, trials are taken."""
        engine.load.add(lane, 1)
        engine.load.prefetch += ours
        engine.load.sent += 1
        trial = engine.breaker.sent()
        try:
            yield
        finally:
            if trial:
                engine.breaker.trial_over()
            engine.load.add(lane, -1)
            engine.load.prefetch -= ours
            engine.used = engine.used if ours else time.monotonic()
            if self._rooms or self._turns:
                self.wake()

    @contextlib.asynccontextmanager
    async def turn(self, engine: Engine) -> AsyncIterator[None]:
        """Prefetch's way in: waits until nobody's answer is in work or awaited, then counts as background work."""
        await asyncio.sleep(0)  # whoever was woken when the last step ended comes first
        with engine.load.holding():
            while engine.load.interactive or engine.load.agent or self._awaited(engine):
                free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._turns.add(free)
                try:
                    await free
                finally:
                    self._turns.discard(free)
        with self.occupied(engine, Lane.BACKGROUND, ours=True):
            yield

    def _awaited(self, engine: Engine) -> bool:
        """A prompt is being made that may be for it, or background work of users waits for this engine."""
        return self.arrivals.count > 0 or any(len(room) for names, room in self._rooms.items() if engine.name in names)

    def pick(self, engines: Sequence[Engine], lane: Lane) -> Engine:
        """An engine for something that is not an exchange. Raises NotReady, Overloaded."""
        choice = choose(engines, lane, self.limits, time.monotonic())
        if choice.engine is None:
            raise refusal(choice)
        return choice.engine

    def wake(self, *, rooms: bool = True) -> None:
        """Load or states changed: waiting background requests (not without `rooms`) and steps may look again."""
        for room in self._rooms.values() if rooms else ():
            room.wake()
        for free in self._turns:
            if not free.done():
                free.set_result(None)

    async def _engine(self, exchange: Exchange) -> Engine:
        """Choose an engine; background work may wait for one. Raises NotReady, Overloaded, BadGateway."""
        if exchange.lane is Lane.BACKGROUND:
            return await self._turn(exchange, self._room(exchange))
        while True:
            choice = exchange.choice = self._choose(exchange)
            if choice.engine is not None:
                return choice.engine
            if not await self.awake(exchange.engines, exchange.tried):
                raise refusal(choice)

    async def awake(self, engines: Sequence[Engine], tried: Sequence[Engine] = ()) -> bool:
        """See `waking.awake`."""
        return self.waker is not None and await awake(self.waker, engines, tried)

    async def _turn(self, exchange: Exchange, room: WaitingRoom) -> Engine:
        deadline = None if self._wait_s is None else asyncio.get_running_loop().time() + self._wait_s
        waited = False
        try:
            while True:
                if not len(room) or waited:
                    choice = exchange.choice = self._choose(exchange)
                    if choice.engine is not None:
                        return choice.engine
                    if choice.verdict is not Verdict.WAIT:
                        if await self.awake(exchange.engines, exchange.tried):
                            continue
                        raise refusal(choice)
                await room.turn(waited, deadline)
                waited = True
        finally:
            if waited:  # whatever came of this turn, the next one's may come to more
                room.wake()

    def _choose(self, exchange: Exchange) -> Choice:
        warm = None if exchange.composer is None else exchange.composer.warm(exchange.engines)
        return choose(exchange.engines, exchange.lane, self.limits, time.monotonic(), exchange.tried, warm)

    def _room(self, exchange: Exchange) -> WaitingRoom:
        key = tuple(engine.name for engine in exchange.engines)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = WaitingRoom(self._waiting)
        return room

    def _may_retry(self, exchange: Exchange) -> bool:
        return len(exchange.tried) < _MAX_TRIES and self._choose(exchange).verdict in (Verdict.SEND, Verdict.WAIT)

    async def _attempt(self, exchange: Exchange, engine: Engine, send: Send, answer: Answer) -> None:
        reply: Reply | None = None
        if exchange.composer is not None:
            exchange.body = exchange.composer.compose(engine)
        exchange.sent = time.monotonic()
        try:
            reply = await self._first(exchange, engine)
            await self._pass(exchange, engine, reply, send, answer)
        finally:
            if reply is not None:
                reply.watch("", None)
                reply.abort()
            self._account(exchange, engine)

    def _account(self, exchange: Exchange, engine: Engine) -> None:
        """What the request put into the engine's cache, also when its client left before the end."""
        if exchange.composer is None:
            if self.residents is not None:
                self.residents.used(engine.name, len(exchange.body))
        elif exchange.started:
            tap = exchange.tap
            exchange.composer.finished(engine, exchange.usage if tap is None else usage_from(tap.usage))

    async def _first(self, exchange: Exchange, engine: Engine) -> Reply:
        """The answer's head, once the engine has accepted the request. Raises _Retry."""
        try:
            return await engine.upstream.send(
                exchange.method, exchange.target, exchange.headers, exchange.body, self.waits.first_byte
            )
        except UpstreamTimeout as error:
            engine.breaker.failed(time.monotonic())
            raise GatewayTimeout(f"engine {engine.name}: {error}") from error
        except ConnectFailed as error:
            engine.breaker.failed(time.monotonic())
            raise _Retry("connect", BadGateway(f"engine {engine.name}: {error}")) from error
        except UpstreamLost as error:
            engine.breaker.failed(time.monotonic())
            raise _Retry("lost", BadGateway(f"engine {engine.name}: {error}")) from error

    async def _pass(self, exchange: Exchange, engine: Engine, reply: Reply, send: Send, answer: Answer) -> None:
        if reply.status >= 400:
            await self._pass_error(exchange, engine, reply, send)
            return
        headers, streaming = back_headers(reply.headers, exchange.request_id, engine.name)
        composer = exchange.composer
        try:
            piece = await reply.read()
            # A whole answer's usage stands at its end; what it repeats of the prompt may have to be taken out.
            while composer is not None and not streaming and not reply.complete and len(piece) < _ANSWER_LIMIT:
                piece += await reply.read()
        except UpstreamTimeout as error:
            engine.breaker.failed(time.monotonic())
            raise GatewayTimeout(f"engine {engine.name}: {error}") from error
        except UpstreamLost as error:
            engine.breaker.failed(time.monotonic())
            raise _Retry("lost", BadGateway(f"engine {engine.name}: {error}")) from error
        engine.progress += 1
        exchange.first_byte_s = time.monotonic() - exchange.began
        self.metrics.began(exchange.model, exchange.lane, exchange.first_byte_s)
        if exchange.lane is not Lane.BACKGROUND:
            engine.pace += _PACE * (exchange.first_byte_s / engine.load.total - engine.pace)
        headers.append(_why(exchange))
        headers += exchange.notes if composer is None else composer.notes()
        if reply.complete and not streaming:
            exchange.started, exchange.status = True, reply.status
            engine.breaker.succeeded()
            if composer is not None:
                exchange.usage, piece = usage_of(piece), composer.shown(piece)
                headers = [pair for pair in headers if pair[0] != b"content-length"]
            await answer(reply.status, headers, piece)
            return
        await _start(exchange, send, reply.status, headers)
        await self._stream(exchange, engine, reply, piece, streaming, send)

    async def _stream(
        self, exchange: Exchange, engine: Engine, reply: Reply, piece: bytes, streaming: bool, send: Send
    ) -> None:
        """Hand on what arrives. A broken stream of events ends with an error event; a broken body breaks off."""
        watch = exchange.watch = StreamWatch() if streaming and not _encoded(reply) else None
        composer = exchange.composer
        tap = exchange.tap = composer.tap() if composer is not None and watch is not None else None
        reply.watch("token", self.waits.token)
        try:
            while piece:
                if watch is not None:
                    watch.feed(piece)
                if tap is not None:
                    piece = tap.feed(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await reply.read()
                engine.progress += 1
        except (UpstreamLost, UpstreamTimeout) as error:
            stalled = isinstance(error, UpstreamTimeout)
            self.metrics.stream_errors.labels(exchange.model, "stalled" if stalled else "lost").inc()
            engine.breaker.failed(time.monotonic())
            error_type = GatewayTimeout if stalled else BadGateway
            await break_off(exchange, error_type(f"engine {engine.name}: {error}; the answer is incomplete"), send)
            return
        if watch is not None and (kind := _unsound(watch, exchange.path)):
            self.metrics.stream_errors.labels(exchange.model, kind).inc()
        if watch is not None and watch.error is not None:
            engine.breaker.failed(time.monotonic())
        else:
            engine.breaker.succeeded()
        await send({"type": "http.response.body", "body": b"" if tap is None else tap.rest(), "more_body": False})

    async def _pass_error(self, exchange: Exchange, engine: Engine, reply: Reply, send: Send) -> None:
        """An error of the engine: passed on in the envelope, or tried elsewhere when the engine is to blame."""
        raw = await self._error_body(engine, reply)
        if reply.status < 500:
            engine.breaker.succeeded()
        elif reply.status == 503:
            busy = Overloaded(_busy_text(engine, raw), code="engine_busy", headers=((b"retry-after", b"2"),))
            raise _Retry("busy", busy)
        else:
            engine.breaker.failed(time.monotonic())
            if any(text in raw for text in _DYING):
                lost = NotReady(
                    f"engine {engine.name} is stopping or restarting",
                    code="engine_lost",
                    headers=((b"retry-after", b"5"),),
                )
                raise _Retry("dying", lost)
        engine.progress += 1
        headers, _ = back_headers(reply.headers, exchange.request_id, engine.name)
        headers.append(_why(exchange))
        wrapped = None if _encoded(reply) else envelope.rewrap(reply.status, raw, exchange.request_id)
        if wrapped is not None:
            headers = [pair for pair in headers if pair[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
        out = raw if wrapped is None else wrapped
        headers = [pair for pair in headers if pair[0] != b"content-length"]
        headers += [(b"content-length", b"%d" % len(out)), (b"x-aicockpit-origin", b"engine")]
        await _start(exchange, send, reply.status, headers)
        await send({"type": "http.response.body", "body": out, "more_body": False})

    async def _error_body(self, engine: Engine, reply: Reply) -> bytes:
        reply.watch("first byte", self.waits.token)
        parts, size = [], 0
        try:
            while piece := await reply.read():
                parts.append(piece)
                size += len(piece)
                if size > _ERROR_LIMIT:
                    raise BadGateway(
                        f"engine {engine.name} answered {reply.status} with more than {_ERROR_LIMIT} bytes"
                    )
        except (UpstreamLost, UpstreamTimeout) as error:
            if not parts:
                engine.breaker.failed(time.monotonic())
                raise _Retry("lost", BadGateway(f"engine {engine.name}: {error}")) from error
        return b"".join(parts)


def refusal(choice: Choice) -> ApiError:
    """Why no engine takes the request, as an answer."""
    if choice.verdict is Verdict.FULL:
        return Overloaded(f"overloaded: {choice.reason}", headers=((b"retry-after", b"2"),))
    if choice.verdict is Verdict.STARTING:
        message = f"the model is being loaded: {choice.reason}. Try again in a few seconds."
        return NotReady(message, code="model_loading", headers=((b"retry-after", b"5"),))
    return NotReady(
        f"no engine can take this request: {choice.reason}", code="no_engine", headers=((b"retry-after", b"10"),)
    )


async def break_off(exchange: Exchange, error: ApiError, send: Send) -> None:
    """End a started answer with an error event. A plain or encoded body is left incomplete: the connection closes."""
    watch = exchange.watch
    if watch is None:
        return
    last = (b"" if watch.between_events else b"\n\n") + envelope.event(error, exchange.request_id, exchange.path)
    await send({"type": "http.response.body", "body": last, "more_body": False})


def _why(exchange: Exchange) -> tuple[bytes, bytes]:
    """The header that tells why this engine got the request."""
    reason = "" if exchange.choice is None else exchange.choice.reason
    plain = exchange.composer is None  # made of a count and names: one line already
    return b"x-aicockpit-route", reason.encode("ascii", "replace") if plain else told(reason)


async def _start(exchange: Exchange, send: Send, status: int, headers: Headers) -> None:
    exchange.started, exchange.status = True, status
    await send({"type": "http.response.start", "status": status, "headers": headers})


def _unsound(watch: StreamWatch, path: str) -> str:
    """What is wrong with a stream that came to its end: the engine said so, or no choice was finished. Else ""."""
    watch.end()
    if watch.error is not None:
        return "engine"
    return "unfinished" if path in _FINISHING and not watch.finished else ""


def _encoded(reply: Reply) -> bool:
    """Compressed: it passes as it is and cannot be looked into."""
    return any(name == b"content-encoding" for name, _ in reply.headers)


def _busy_text(engine: Engine, raw: bytes) -> str:
    return f"engine {engine.name} is busy: {raw[:300].decode('utf-8', 'replace')}"
