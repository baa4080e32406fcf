"""How a request joins a workspace, and the prompt that comes of it: `header | pack | journal | neighbourhood | tail`.

A request names its workspace by header, by body fields, or by the model name `model@workspace`. Without one, and
without a `suffix`, nothing here runs. Context never makes a request fail: where there is none, the answer says why.
"""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from aicockpit.engines.client import Headers
from aicockpit.engines.engine import Engine
from aicockpit.errors import BadRequest, NotFound
from aicockpit.gateway.ask import Ask
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.exchange import Residents, Usage
from aicockpit.gateway.headers import told
from aicockpit.gateway.routing import Warm
from aicockpit.gateway.sse import UsageTap
from aicockpit.gateway.voices import Voice, Voices
from aicockpit.gateway.windows import Window, Windows
from aicockpit.prompts.chat import with_context
from aicockpit.prompts.tokens import TextTooLong
from aicockpit.workspace.builds import Kind
from aicockpit.workspace.head import Head

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
JOINABLE = frozenset((COMPLETIONS, CHAT))
_OURS = ("workspace", "path", "context")
_DEFAULT_NEW_TOKENS = {COMPLETIONS: 16, CHAT: 512}
# Tokens that a chat template puts around messages; only an estimate keeps a context out that could not fit.
_CHAT_FRAME = 256
# Characters that are tokenised in well under a millisecond.
_SHORT = 2000
# Characters of a text per token of the model's length, beyond which it cannot fit and is not tokenised.
_LONGEST = 16
_MOST = 1 << 30
# With these the engine does not read its prefix cache, caches apart, or lays the prompt out in another way.
_AGAINST = (
    *("cache_salt", "prompt_logprobs", "truncate_prompt_tokens", "chat_template", "chat_template_kwargs"),
    *("documents", "tools", "echo"),
)


class Contexts(Protocol):
    """The server's warm contexts (`workspace/epochs.py`)."""

    def head(
        self, workspace_id: int, model: str, lane: Kind, path: str, engine_name: str, asked: int | None = None
    ) -> Head: ...
    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...]) -> None: ...
    def finished(self, workspace_id: int, model: str, lane: Kind, uncached: int) -> None: ...


class Found(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


class Finder(Protocol):
    def __call__(self, caller: Caller, name: str, /) -> Found | None: ...


class Parity(Protocol):
    """Counts what was predicted to be cached against what was."""

    def compare(self, engine: str, predicted: int, cached: int | None) -> None: ...


class Joiner:
    """Turns an ask into the composer that writes the request for the chosen engine."""

    def __init__(self, contexts: Contexts, residents: Residents, find: Finder, voices: Voices, parity: Parity) -> None:
        self.contexts, self.residents, self.find, self.voices, self.parity = contexts, residents, find, voices, parity
        self.windows = Windows()

    async def join(
        self,
        ask: Ask,
        path: str,
        body: bytes,
        edits: Mapping[str, object],
        model: str,
        caller: Caller,
        why_not: str = "",
    ) -> Composition:
        """`why_not`: a reason against context for this model. Raises BadRequest, NotFound (no such workspace)."""
        found = None
        if ask.workspace:
            found = self.find(caller, ask.workspace)
            if found is None:
                raise NotFound(
                    f"there is no workspace {ask.workspace[:64]!r} here. `aicockpit watch PATH --name NAME` makes one.",
                    code="workspace_not_found",
                    param="workspace",
                )
        parts = _split(body)
        for name in _OURS if ask.workspace else ():
            parts.pop(name, None)
        parts.update({name: msgspec.Raw(_encode(value)) for name, value in edits.items()})
        voice = await self.voices.get(model)
        kind = _Completion if path == COMPLETIONS else _Chat
        # Without a path the next request may be of another file: nothing of this one may be held for it.
        window = self.windows.of((caller.id, ask.workspace, ask.path)) if ask.path else Window()
        try:
            made = kind(self, ask, found, voice, model, parts, why_not)
            await made.prepare(window)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
        except TextTooLong as error:
            raise BadRequest(str(error), code="prompt_too_long", param="prompt") from error
        return made


class Composition(ABC):
    """One request's prompt in the making; `exchange.Composer` says who calls what."""

    kind: ClassVar[Kind]
    path: ClassVar[str]

    def __init__(
        self,
        joiner: Joiner,
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
        self.foreign = bool(why_not)
        self.usage: Usage | None = None
        self.hide_usage = self._ask_for_usage()
        self.salted = _value(parts, "cache_salt") is not None
        self.read()
        for name in _AGAINST:
            value = _value(parts, name)
            if value is not None and value is not False and not (name == "cache_salt" and ask.tokens):
                self.reason = self.reason or f"the request has `{name}`"
        self.reason = self.reason or why_not

    @abstractmethod
    def read(self) -> None:
        """Take what is needed from the client's body. Raises BadRequest, TextTooLong."""

    @abstractmethod
    async def prepare(self, window: Window) -> None:
        """Whatever takes long and does not depend on the engine."""

    @abstractmethod
    def room(self) -> int:
        """Tokens that may stand in front of the client's own."""

    @abstractmethod
    def fill(self) -> None:
        """Set the parts of the body that depend on the head."""

    def compose(self, engine: Engine) -> bytes:
        self.head = self._head(engine.name)
        self.fill()
        return _encode(self.parts)

    def warm(self, engines: Sequence[Engine]) -> Warm:
        tokens = {engine.name: self._head(engine.name).predicted for engine in engines}
        return Warm(tokens, self.joiner.residents.speed(engines))

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
            "reason": head.reason,
            "predicted_cached": head.predicted,
            "prompt_tokens": usage.prompt if usage is not None else None,
            "cached_tokens": usage.cached if usage is not None else None,
        }

    def tap(self) -> UsageTap:
        return UsageTap(self.hide_usage)

    def finished(self, engine: Engine, usage: Usage | None) -> None:
        """The answer has ended, or its client has left (then `usage` is None)."""
        self.usage = usage
        residents = self.joiner.residents
        if self.salted or usage is None:  # what it found says nothing of others, or is not known
            prompt = usage.prompt if usage is not None else len(self.tokens)
            residents.learn(engine.name, (), prompt, None)
            return
        if self.head.predicted:
            self.joiner.parity.compare(engine.name, self.head.predicted, usage.cached)
        residents.learn(engine.name, () if self.foreign else self.tokens, usage.prompt, usage.cached)
        if self.head.tokens and self.found is not None and usage.cached is not None:
            self.joiner.contexts.finished(self.found.id, self.model, self.kind, usage.prompt - usage.cached)

    def _head(self, engine: str) -> Head:
        if self.found is None or self.reason:
            return Head(reason=self.reason)
        asked = self.room() if self.ask.tokens is None else min(self.ask.tokens, self.room())
        if asked <= 0:
            why = "the request wants none" if self.ask.tokens == 0 else "no room in the model's context"
            return Head(reason=why)
        return self.joiner.contexts.head(self.found.id, self.model, self.kind, self.ask.path, engine, asked)

    def _new_tokens(self) -> int:
        for name in ("max_completion_tokens", "max_tokens"):
            value = _value(self.parts, name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return int(min(value, _MOST))
        return _DEFAULT_NEW_TOKENS[self.path]

    def _ask_for_usage(self) -> bool:
        """Have the usage sent at a stream's end; whether the client must not see it."""
        if _value(self.parts, "stream") is not True:
            return False
        options = _value(self.parts, "stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage"):
            return False
        self.parts["stream_options"] = msgspec.Raw(_encode({**options, "include_usage": True}))
        return True


class _Completion(Composition):
    """`/v1/completions`: sent as token ids, the tail in the model's own fill-in-the-middle form."""

    kind, path = "completion", COMPLETIONS
    tails: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def read(self) -> None:
        prompt, self.suffix = _value(self.parts, "prompt"), _value(self.parts, "suffix") or ""
        self.parts.pop("suffix", None)
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        self.prefix = prompt if isinstance(prompt, str) else ""
        self.ids = tuple(prompt) if _is_ids(prompt) else ()
        if self.suffix and not isinstance(prompt, str):
            raise BadRequest("`suffix` needs one `prompt`, a string", code="invalid_prompt", param="prompt")
        if self.suffix and self.voice is None:
            raise BadRequest(f"`suffix` cannot be used here: {self.reason}", code="no_tokenizer", param="suffix")
        size = len(self.prefix) + len(self.suffix)
        if self.found is None and self.voice is not None and size > _LONGEST * self.voice.max_len:
            raise TextTooLong(f"prompt and suffix have {size} characters, too many for {self.voice.max_len} tokens")
        if not isinstance(prompt, str) and not self.ids:
            self.reason = "the request has several prompts"

    async def prepare(self, window: Window) -> None:
        """Tokenise the tail, with and without a header in front; off the event loop when it is long."""
        if self.ids:
            self.tails = (self.ids, self.ids)
        elif self.voice is not None and (self.suffix or not self.reason):
            prefix, suffix = self.prefix, self.suffix
            if self.found is not None:
                prefix, suffix = window.move(prefix, suffix, self.voice.limits)
            call = functools.partial(_tails, self.voice, self.ask.path, prefix, suffix)
            self.tails = call() if len(prefix) + len(suffix) < _SHORT else await asyncio.to_thread(call)

    def room(self) -> int:
        if self.voice is None:
            return 0
        return self.voice.max_len - len(self.tails[True]) - self._new_tokens()

    def fill(self) -> None:
        if self.voice is None or (self.reason and not self.suffix):
            return
        self.tokens = (*self.head.tokens, *self.tails[bool(self.head.tokens)])
        if self.found is not None and self.ask.path and not self.reason:
            self.joiner.contexts.seen(self.found.id, self.model, self.ask.path, self.tails[True])
        self.parts["prompt"] = msgspec.Raw(_encode(self.tokens))
        given = _value(self.parts, "stop_token_ids")
        readable = given is None or (isinstance(given, list) and all(isinstance(one, int) for one in given))
        if self.voice.style.stops and not self.ids and readable and _value(self.parts, "ignore_eos") is not True:
            stops = dict.fromkeys((*(given or ()), *self.voice.style.stops))
            self.parts["stop_token_ids"] = msgspec.Raw(_encode(list(stops)))


def _tails(voice: Voice, path: str, prefix: str, suffix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The request's own tokens: as a whole prompt, and behind a header."""
    suffix = suffix if voice.style.fim else ""
    return voice.tail(path, prefix, suffix, False), voice.tail(path, prefix, suffix, True)


class _Chat(Composition):
    """`/v1/chat/completions`: the pack and the journal as the first system message."""

    kind, path = "chat", CHAT

    def read(self) -> None:
        messages = _value(self.parts, "messages")
        self.messages = messages if isinstance(messages, list) else []
        self.raw = bytes(self.parts.get("messages", b"")) + bytes(self.parts.get("tools", b""))
        self.size = len(self.raw)
        if not self.messages:
            self.reason = "the request has no messages"

    async def prepare(self, window: Window) -> None:
        """A token is a byte at least; where that bound leaves too little, count."""
        if self.voice is not None and self.found is not None and self.room() < self.voice.max_len // 2:
            text = self.raw.decode("utf-8", "replace")
            if len(text) < _LONGEST * self.voice.max_len:
                self.size = len(await asyncio.to_thread(self.voice.encoder.encode, text))

    def room(self) -> int:
        """What the messages, at most, the template and the answer leave."""
        if self.voice is None:
            return 0
        return self.voice.max_len - self.size - _CHAT_FRAME - self._new_tokens()

    def fill(self) -> None:
        messages = with_context(self.messages, self.head.text) if self.head.text else self.messages
        if self.messages:
            self.parts["messages"] = msgspec.Raw(_encode(messages))


_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _value(parts: Mapping[str, msgspec.Raw], name: str) -> Any:
    raw = parts.get(name)
    return None if raw is None else _decode(raw)


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(one, int) for one in prompt)
