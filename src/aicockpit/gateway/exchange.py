"""One request on its way to an engine and back: what the gateway knows of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from aicockpit.engines.client import Headers
from aicockpit.engines.engine import Engine
from aicockpit.gateway.routing import Choice, Warm
from aicockpit.gateway.sse import StreamWatch
from aicockpit.types import Lane


class Tap(Protocol):
    """Sees a stream of events go by. `usage`: what the engine said of its tokens, in its own shape, or None."""

    @property
    def usage(self) -> object: ...

    def feed(self, piece: bytes) -> bytes:
        """What of it, and of what was held, goes on to the client."""
        ...

    def rest(self) -> bytes:
        """What is held when the stream ends."""
        ...


class Composer(Protocol):
    """Writes a request's body for the engine that was chosen, and hears what became of it (`join.py`)."""

    def warm(self, engines: Sequence[Engine]) -> Warm:
        """What of this request's context is warm where."""
        ...

    def compose(self, engine: Engine) -> bytes: ...

    def notes(self) -> Headers:
        """Headers that tell the client what was put in front of its request."""
        ...

    def account(self) -> dict[str, Any]:
        """The same for the request's record, with what was found in the cache in the end."""
        ...

    def tap(self) -> Tap:
        """Reads the usage out of a stream of events, and may change what of it the client sees."""
        ...

    def shown(self, answer: bytes) -> bytes:
        """A whole JSON answer as the client gets it."""
        ...

    def finished(self, engine: Engine, usage: Usage | None) -> None: ...


class Residents(Protocol):
    """What is known of the engines' caches, and told of them."""

    def speed(self, engines: Sequence[Engine]) -> float:
        """Tokens of prefill per second, of the fastest."""
        ...

    def learn(self, engine: str, tokens: tuple[int, ...], prompt: int, cached: int | None) -> None:
        """A request has finished; `tokens` is empty where only their number, `prompt`, is known."""
        ...

    def used(self, engine: str, size: int) -> None:
        """A request of so many bytes, of which nothing else is known, has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as the engine counts them; `cached` is None where it does not say."""

    prompt: int
    cached: int | None


class Exchange(msgspec.Struct, eq=False):
    """`headers` are ready to send upstream. `composer` writes `body` anew for each engine tried."""

    method: bytes
    target: bytes
    path: str
    route: str
    headers: Headers
    body: bytes
    model: str
    lane: Lane
    request_id: str
    engines: list[Engine]
    composer: Composer | None = None
    notes: Sequence[tuple[bytes, bytes]] = ()
    usage: Usage | None = None
    tap: Tap | None = None
    began: float = msgspec.field(default_factory=time.monotonic)
    first_byte_s: float = 0.0
    sent: float | None = None
    started: bool = False
    status: int = 0
    engine: Engine | None = None
    choice: Choice | None = None
    watch: StreamWatch | None = None
    tried: list[Engine] = []


class _Answer(msgspec.Struct):
    usage: Any = None


def usage_of(body: bytes) -> Usage | None:
    """The usage in a whole JSON answer, or None."""
    try:
        return usage_from(msgspec.json.decode(body, type=_Answer).usage)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def usage_from(found: object) -> Usage | None:
    """A `usage` object as values, or None when it is not one: OpenAI's, that of `/v1/responses`, or Anthropic's.

    Anthropic's `input_tokens` are those that were neither read from the cache nor written to it as a marked prefix.
    """
    if not isinstance(found, dict):
        return None
    if (prompt := _count(found, "prompt_tokens")) is not None:
        return Usage(prompt, _count(found.get("prompt_tokens_details"), "cached_tokens"))
    if (prompt := _count(found, "input_tokens")) is None:
        return None
    if "input_tokens_details" in found:
        return Usage(prompt, _count(found["input_tokens_details"], "cached_tokens"))
    read, written = _count(found, "cache_read_input_tokens"), _count(found, "cache_creation_input_tokens")
    return Usage(prompt + (read or 0) + (written or 0), read)


def _count(found: object, name: str) -> int | None:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) else None
