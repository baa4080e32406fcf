"""The routes that are conversations: pack and journal stand as text in front of what the client's system message says.

The engine's template renders them, so a head is known only by its tokens (`workspace/room.py` has them rendered), and
three routes lead to one template: `/v1/chat/completions`, Anthropic's `/v1/messages` and `/v1/responses`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

import msgspec

from aicockpit.engines.engine import Engine
from aicockpit.gateway.composition import LONGEST, Composition, decode, raw_of, value_of
from aicockpit.gateway.exchange import Tap, Usage
from aicockpit.gateway.layouts import Traits, arguments
from aicockpit.gateway.taps import EventTap, with_instructions
from aicockpit.gateway.voices import Voice
from aicockpit.gateway.windows import Window
from aicockpit.prompts.chat import apart, in_front, is_system, merged
from aicockpit.workspace.head import Head

# Tokens that a chat template puts around messages; only an estimate keeps a context out that could not fit.
_FRAME = 256
# A template shows tools with more white space and quotes than the client sent, mostly well under twice as much.
_TOOLS_GROW = 2
# Left to an answer without a limit of its own: a share of the model's length, between these.
_ANSWER_SHARE, _LEAST_ANSWER, _MOST_ANSWER = 8, 512, 8192
# The last tokens of a head may be joined to what follows it: never counted on.
_SEAM = 2


class Conversation(Composition):
    """What the three have in common. `fields`: where the client's own words stand in the body."""

    kind = "chat"
    against = (*Composition.against, "chat_template", "documents", "add_special_tokens")
    fields: ClassVar[tuple[str, ...]]
    # The list of what was said, which may be a string.
    said: ClassVar[str]

    def read(self) -> None:
        self.given = {name: self.parts[name] for name in self.fields if name in self.parts}
        raw = self.given.get(self.said)
        self.messages = list_of(raw)
        self.bytes = sum(len(self.parts[name]) for name in (*self.fields, "tools") if name in self.parts)
        self.tools = list_of(self.parts.get("tools"))
        self.length: int | None = None
        self.edge = 0
        self.traits = []
        for effort in self.efforts():
            found = arguments(self.template_arguments(effort))
            if isinstance(found, str):
                self.reason = self.reason or found
                found = b""
            self.traits.append(Traits(bool(self.tools), self.turns(), found))
        if not self.messages and not (raw is not None and isinstance(decode(raw), str)):
            self.reason = self.reason or "the request has no messages"

    @abstractmethod
    def turns(self) -> bool:
        """Whether the conversation has more than one turn."""

    @abstractmethod
    def efforts(self) -> tuple[str | None, ...]:
        """How much the model is to think, as the engine hands it to the template: one of these."""

    def template_arguments(self, effort: str | None) -> dict[str, Any]:
        """What the engine hands to the template beside messages and tools. As vLLM has it in `build_chat_params`."""
        given = value_of(self.parts, "chat_template_kwargs")
        found = dict(given) if isinstance(given, dict) else {}
        if given is not None and not isinstance(given, dict):
            self.reason = self.reason or "the request has `chat_template_kwargs` that are no object"
        if effort is not None:
            found.setdefault("enable_thinking", effort != "none")
            found["reasoning_effort"] = effort
        return found

    async def prepare(self, window: Window, engines: Sequence[Engine]) -> None:
        """A token is a byte at least; where that bound leaves too little, count. Then ask for the layout."""
        if self.voice is None or self.found is None or self.reason or self.ask.tokens == 0:
            return
        if self.room() < self.voice.max_len // 2 and self.bytes < LONGEST * self.voice.max_len:
            self.length = await self._count(self.voice)
        for traits in self.traits:
            edge = await self.joiner.layouts.edge(engines, self.model, traits)
            if isinstance(edge, str):
                self.reason = edge
                return
            self.edge = max(self.edge, edge)

    def restore(self) -> None:
        """The client's own words as they came: a request may be written anew for another engine."""
        for name in self.fields:
            self.parts.pop(name, None)
        self.parts.update(self.given)

    def room(self) -> int:
        """What the messages, at most, the template and the answer leave."""
        if self.voice is None:
            return 0
        length = self.bytes if self.length is None else self.length
        return self.voice.max_len - length - _FRAME - self.answer

    def default_answer(self) -> int:
        length = self.voice.max_len if self.voice is not None else 0
        return min(_MOST_ANSWER, max(_LEAST_ANSWER, length // _ANSWER_SHARE))

    def learn(self, engine: str, usage: Usage) -> None:
        """The prompt's tokens are not known here, but that it began with the head, when that was found in the cache."""
        head, there = self.head.tokens, self.head.predicted
        residents = self.joiner.residents
        if there and not self.edge and not self.foreign and usage.cached is not None and usage.cached >= there:
            residents.learn(engine, head, len(head), there)
            residents.learn(engine, (), usage.prompt - len(head), usage.cached - there)
        else:
            residents.learn(engine, (), usage.prompt, usage.cached)

    def _head(self, engine: str) -> Head:
        head = super()._head(engine)
        sure = max(0, len(head.tokens) - _SEAM - self.edge)
        return replace(head, predicted=sure) if head.predicted > sure else head

    async def _count(self, voice: Voice) -> int:
        texts = [bytes(raw) for name, raw in self.given.items() if name != self.said]
        texts += [bytes(message) for message in self.messages] or [bytes(self.given.get(self.said, b""))]
        lengths = self.joiner.lengths
        tools = await lengths.total(voice.encoder, [bytes(tool) for tool in self.tools])
        return _TOOLS_GROW * tools + await lengths.total(voice.encoder, texts)


class Chat(Conversation):
    """`/v1/chat/completions`: the first system message."""

    fields, said = ("messages",), "messages"

    def turns(self) -> bool:
        return many(self.messages)

    def efforts(self) -> tuple[str | None, ...]:
        return (text_of(value_of(self.parts, "reasoning_effort")),)

    def read(self) -> None:
        super().read()
        self.first = decode(self.messages[0]) if self.messages else None

    def fill(self) -> None:
        text = self.head.text
        if not text or not self.messages:
            self.restore()
        elif is_system(self.first):
            self.parts["messages"] = raw_of([merged(self.first, text), *self.messages[1:]])
        else:
            self.parts["messages"] = raw_of([{"role": "system", "content": text}, *self.messages])


class Messages(Conversation):
    """`/v1/messages`, Anthropic's: the first block of `system`, which vLLM joins without anything in between."""

    fields, said = ("system", "messages"), "messages"
    limits = ("max_tokens",)
    asks_for_usage = False

    def read(self) -> None:
        super().read()
        self.own = value_of(self.parts, "system")
        if not isinstance(self.own, str | list | None):
            self.reason = self.reason or "the request's `system` is neither text nor blocks"

    def turns(self) -> bool:
        return many(self.messages)

    def efforts(self) -> tuple[str | None, ...]:
        """`thinking` that is disabled counts as an effort, before that of the output: which one, vLLM finds out."""
        wanted, thinking = value_of(self.parts, "output_config"), value_of(self.parts, "thinking")
        if isinstance(thinking, dict) and thinking.get("type") == "disabled":
            return "none", "low"
        return (text_of(wanted.get("effort")) if isinstance(wanted, dict) else None,)

    def fill(self) -> None:
        self.restore()
        text, own = self.head.text, self.own
        if text and isinstance(own, str) and own:
            self.parts["system"] = raw_of(in_front(text, own))
        elif text:
            # A block of its own: vLLM leaves out a client's first one by how it begins, and joins system messages among
            # the turns to the last one.
            self.parts["system"] = raw_of(apart(text, own or []))

    def tap(self) -> Tap:
        return EventTap()


class Responses(Conversation):
    """`/v1/responses`: `instructions`, or the first item of `input` where the client's system message is that.

    The engine repeats the instructions in its answers; the client is shown its own.
    """

    fields, said = ("instructions", "input"), "input"
    against = (*Conversation.against, "prompt", "previous_input_messages")
    limits = ("max_output_tokens",)
    asks_for_usage = False

    def read(self) -> None:
        super().read()
        self.own = value_of(self.parts, "instructions")
        self.first = decode(self.messages[0]) if self.messages else None
        self.put = False
        if not isinstance(self.own, str | None):
            self.reason = self.reason or "the request's `instructions` are no text"

    def turns(self) -> bool:
        return many(self.messages) or value_of(self.parts, "previous_response_id") is not None

    def efforts(self) -> tuple[str | None, ...]:
        reasoning = value_of(self.parts, "reasoning")
        return (text_of(reasoning.get("effort")) if isinstance(reasoning, dict) else None,)

    def fill(self) -> None:
        self.restore()
        text, first = self.head.text, self.first
        self.put = bool(text)
        # With an earlier response its turns come before `input`, so that its first item is not the prompt's first.
        follows = value_of(self.parts, "previous_response_id") is not None
        if text and not self.own and not follows and is_system(first) and first.get("type", "message") == "message":
            self.put = False
            self.parts["input"] = raw_of([merged(first, text, "input_text"), *self.messages[1:]])
        elif text:
            self.parts["instructions"] = raw_of(in_front(text, self.own))

    def tap(self) -> Tap:
        return EventTap(self.shown_instructions)

    def shown(self, answer: bytes) -> bytes:
        mine = self.shown_instructions
        return answer if mine is None else with_instructions(answer, mine)

    @property
    def shown_instructions(self) -> msgspec.Raw | None:
        """What to show for the instructions that we sent; None when they are the client's."""
        if not self.put:
            return None
        return self.given.get("instructions", msgspec.Raw(b"null"))


class _Role(msgspec.Struct):
    role: Any = None


def list_of(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    """The items of a list as they came, nothing if it is no list."""
    if raw is None:
        return []
    try:
        return decode(raw, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        return []


def many(messages: Sequence[msgspec.Raw]) -> bool:
    """More than one that is no system message; the roles of the first few tell it."""
    return len(list(islice((one for one in messages if not _system(one)), 2))) > 1


def _system(message: msgspec.Raw) -> bool:
    try:
        return is_system(msgspec.to_builtins(decode(message, type=_Role)))
    except msgspec.ValidationError:
        return False


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) else None
