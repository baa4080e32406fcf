"""One request's prompt in the making, whatever its route: which head it gets, and what is told and learnt of it.

`join.py` makes one for each request that joins a workspace; `chats.py` has the routes that are conversations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from aicockpit.engines.client import Headers
from aicockpit.engines.engine import Engine
from aicockpit.gateway.ask import Ask
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.exchange import Residents, Tap, Usage
from aicockpit.gateway.headers import told
from aicockpit.gateway.layouts import Layouts
from aicockpit.gateway.lengths import Lengths
from aicockpit.gateway.outcomes import Outcome, Outcomes
from aicockpit.gateway.routing import Warm
from aicockpit.gateway.sse import UsageTap
from aicockpit.gateway.trails import Key, Trails
from aicockpit.gateway.voices import Voice
from aicockpit.gateway.windows import Window
from aicockpit.workspace.builds import Kind
from aicockpit.workspace.head import Head, Lacks

# Characters of a text per token of the model's length, beyond which it cannot fit and is not tokenised.
LONGEST = 16
_MOST = 1 << 30


class Contexts(Protocol):
    """The server's warm contexts (`workspace/epochs.py`)."""

    def head(
        self, workspace_id: int, model: str, lane: Kind, path: str, engine_name: str, asked: int | None = None
    ) -> Head: ...
    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...], prefix: str = "") -> None: ...
    def finished(self, workspace_id: int, model: str, lane: Kind, uncached: int) -> None: ...


class Found(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


class Finder(Protocol):
    def __call__(self, caller: Caller, name: str, /) -> Found | None: ...


class Parity(Protocol):
    """Counts what was predicted to be cached against what was, and what context requests had."""

    outcomes: Outcomes

    def compare(self, engine: str, predicted: int, cached: int | None) -> None: ...


class Joining(Protocol):
    """What a composition uses of the joiner."""

    contexts: Contexts
    residents: Residents
    parity: Parity
    layouts: Layouts
    lengths: Lengths
    trails: Trails


class Composition(ABC):
    """See the module; `exchange.Composer` says who calls what.

    Everything of the client's body that is looked at is decoded before an engine is chosen, so that what cannot be
    read is refused, and nothing fails later. Raises BadRequest, TextTooLong, msgspec.DecodeError when made.
    """

    kind: ClassVar[Kind]
    # With these the engine does not read its prefix cache, caches apart, or lays the prompt out in another way.
    against: ClassVar[tuple[str, ...]] = ("cache_salt", "prompt_logprobs", "truncate_prompt_tokens", "echo")
    # The fields that limit the answer, the one that counts first.
    limits: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")
    # Whether a stream tells its usage only when asked to.
    asks_for_usage: ClassVar[bool] = True

    def __init__(
        self,
        joiner: Joining,
        ask: Ask,
        found: Found | None,
        voice: Voice | str,
        model: str,
        parts: dict[str, msgspec.Raw],
        why_not: str,
    ) -> None:
        self.joiner, self.ask, self.found, self.model, self.parts = joiner, ask, found, model, parts
        self.voice = voice if isinstance(voice, Voice) else None
        self.reason = "" if isinstance(voice, Voice) else voice
        self.head = Head()
        self.tokens: tuple[int, ...] = ()
        self.size = 0
        self.foreign = bool(why_not)
        self.trail: Key | None = None
        self.usage: Usage | None = None
        self.hide_usage = self.asks_for_usage and self._ask_for_usage()
        self.salted = value_of(parts, "cache_salt") is not None
        self.answer = self._answer_tokens()
        self.read()
        for name in self.against:
            value = value_of(parts, name)
            if value is not None and value is not False and not (name == "cache_salt" and ask.tokens):
                self.reason = self.reason or f"the request has `{name}`"
        self.reason = self.reason or why_not

    @abstractmethod
    def read(self) -> None:
        """Take what is needed from the client's body. Raises BadRequest, TextTooLong."""

    @abstractmethod
    async def prepare(self, window: Window, engines: Sequence[Engine]) -> None:
        """Whatever takes long and does not depend on which of the engines is chosen."""

    @abstractmethod
    def room(self) -> int:
        """Tokens that may stand in front of the client's own."""

    @abstractmethod
    def fill(self) -> None:
        """Set the parts of the body that depend on the head."""

    @abstractmethod
    def default_answer(self) -> int:
        """Tokens that are left to an answer for which the client names no limit."""

    def compose(self, engine: Engine) -> bytes:
        self.head = self._head(engine.name)
        self.fill()
        body = encode(self.parts)
        self.size = len(body)
        if self.trail is not None:
            self.joiner.trails.went(self.trail, engine.name)
        return body

    def warm(self, engines: Sequence[Engine]) -> Warm:
        tokens = {engine.name: self._head(engine.name).predicted for engine in engines}
        last = "" if self.trail is None else self.joiner.trails.last(self.trail)
        return Warm(tokens, self.joiner.residents.speed(engines), last)

    def notes(self) -> Headers:
        notes: Headers = []
        if self.found is not None:
            head = self.head
            amount = f"{len(head.tokens)} tokens" if head.tokens else "none"
            notes.append((b"x-aicockpit-context", told(f"{amount}; {head.reason}")))
        if self.ask.suffix:
            name = self.voice.style.name if self.voice is not None else "none"
            notes.append((b"x-aicockpit-fim", told(name)))
        return notes

    def account(self) -> dict[str, Any]:
        head, usage = self.head, self.usage
        return {
            "workspace": self.found.name if self.found is not None else None,
            "path": self.ask.path,
            "epoch": head.epoch,
            "pack_tokens": head.pack_tokens,
            "journal_tokens": head.journal_tokens,
            "neighbourhood_tokens": head.neighbourhood_tokens,
            "similar_tokens": head.similar_tokens,
            "reason": head.reason,
            "predicted_cached": head.predicted,
            "prompt_tokens": usage.prompt if usage is not None else None,
            "cached_tokens": usage.cached if usage is not None else None,
            "outcome": self.outcome().value if self.found is not None else None,
        }

    def tap(self) -> Tap:
        return UsageTap(self.hide_usage)

    def shown(self, answer: bytes) -> bytes:
        """A whole JSON answer as the client gets it."""
        return answer

    def finished(self, engine: Engine, usage: Usage | None) -> None:
        """The answer has ended, or its client has left (then `usage` is None)."""
        self.usage = usage
        if self.found is not None:
            self.joiner.parity.outcomes.count(self.found.id, self.found.name, self.model, self.kind, self.outcome())
        residents = self.joiner.residents
        if usage is None and not self.tokens:  # only its bytes are known
            residents.used(engine.name, self.size)
            return
        if self.salted or usage is None:  # what it found says nothing of others, or is not known
            prompt = usage.prompt if usage is not None else len(self.tokens)
            residents.learn(engine.name, (), prompt, None)
            return
        if self.head.predicted:
            self.joiner.parity.compare(engine.name, self.head.predicted, usage.cached)
        self.learn(engine.name, usage)
        if self.head.tokens and self.found is not None and usage.cached is not None:
            self.joiner.contexts.finished(self.found.id, self.model, self.kind, usage.prompt - usage.cached)

    def outcome(self) -> Outcome:
        """What context it had, as the metric counts it."""
        if self.head.tokens:
            return Outcome.WARM
        if self.ask.tokens == 0:
            return Outcome.NONE_ASKED
        if self.voice is None:
            return Outcome.NO_TOKENIZER
        return Outcome.UNFIT if self.reason else _OUTCOMES[self.head.lacks]

    def learn(self, engine: str, usage: Usage) -> None:
        """Tell what this answer has shown of the engine's cache."""
        self.joiner.residents.learn(engine, () if self.foreign else self.tokens, usage.prompt, usage.cached)

    def _head(self, engine: str) -> Head:
        if self.found is None or self.reason:
            return Head(reason=self.reason)
        asked = self.room() if self.ask.tokens is None else min(self.ask.tokens, self.room())
        if asked <= 0:
            why = "the request wants none" if self.ask.tokens == 0 else "no room in the model's context"
            return Head(reason=why, lacks=Lacks.ROOM)
        return self.joiner.contexts.head(self.found.id, self.model, self.kind, self.ask.path, engine, asked)

    def _answer_tokens(self) -> int:
        for name in self.limits:
            value = value_of(self.parts, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return int(min(value, _MOST))
        return self.default_answer()

    def _ask_for_usage(self) -> bool:
        """Have the usage sent at a stream's end; whether the client must not see it."""
        if value_of(self.parts, "stream") is not True:
            return False
        options = value_of(self.parts, "stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage"):
            return False
        self.parts["stream_options"] = raw_of({**options, "include_usage": True})
        return True


_OUTCOMES = {
    Lacks.BUDGET: Outcome.OFF,
    Lacks.EPOCH: Outcome.NO_EPOCH,
    Lacks.WARMTH: Outcome.NOT_WARM,
    Lacks.ROOM: Outcome.NO_ROOM,
}
decode = msgspec.json.decode
encode = msgspec.json.Encoder().encode


def value_of(parts: Mapping[str, msgspec.Raw], name: str) -> Any:
    raw = parts.get(name)
    return None if raw is None else decode(raw)


def raw_of(value: object) -> msgspec.Raw:
    return msgspec.Raw(encode(value))
