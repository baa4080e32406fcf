"""Does a request's layout keep the context in front? Asked of the engine's own renderer, never guessed from a name.

What is warmed is the beginning of a conversation without tools. Many chat templates put the tools behind the system
message, some in front of it; some move the system message once there is more than one turn, and arguments of the
template may change the front. So, before the first request of each such kind, a few small conversations are rendered.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from aicockpit.engines.engine import Engine
from aicockpit.errors import AicockpitError, BadGateway
from aicockpit.prompts.chat import stable_head, system_text, with_context

# (engine, model, fields of /tokenize) -> token ids.
Render = Callable[[Engine, str, Mapping[str, object]], Awaitable[list[int]]]

_WAIT_S = 5.0
_KEPT = 256
# Seconds for which it is not asked again why an engine did not render.
_REFUSED_S = 5.0
# Tokens at the end of the context that may be joined to what follows it; no block of the cache is lost by them.
_EDGE = 4
_LONGEST_ARGUMENTS = 4096
# Answers of the class of refusals that mean: not now.
_LATER = (408, 425, 429)
_TEXT = system_text((("probe/a.py", "def first(a: int) -> str: ...\n"), ("probe/b.py", "LIMIT = 5\n")), "probe")
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
_ASKED = {"role": "user", "content": "a"}
_TURNS = (_ASKED, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a request may change the layout of its prompt. `arguments`: of the chat template, as sorted JSON."""

    tools: bool = False
    turns: bool = False
    arguments: bytes = b""

    @property
    def plain(self) -> bool:
        return self == Traits()

    def steps(self) -> Iterator[tuple[Traits, str]]:
        """One trait more at a time, and what it means when this one moves the context."""
        made = Traits()
        if self.arguments:
            made = replace(made, arguments=self.arguments)
            yield made, "the request's template arguments change what stands in front of the system message"
        if self.turns:
            made = replace(made, turns=True)
            yield made, "the model's template moves the system message in a longer conversation"
        if self.tools:
            yield replace(made, tools=True), "the model's template puts tools in front of the system message"

    def fields(self) -> dict[str, object]:
        """The conversation to render, as `/tokenize` takes it."""
        fields: dict[str, object] = {"messages": with_context(_TURNS if self.turns else (_ASKED,), _TEXT)}
        if self.tools:
            fields["tools"] = [_TOOL]
        if self.arguments:
            fields["chat_template_kwargs"] = msgspec.Raw(self.arguments)
        return fields


def arguments(given: Mapping[str, Any]) -> bytes | str:
    """Template arguments as `Traits` has them, or why they are not looked at."""
    sent = {name: value for name, value in given.items() if value is not None}
    if "chat_template" in sent:
        return "the request has `chat_template`"
    raw = msgspec.json.encode(sent, order="deterministic") if sent else b""
    return raw if len(raw) <= _LONGEST_ARGUMENTS else "the request's template arguments are too long"


class Layouts:
    """Remembers what each model's template does, for as long as its engines live."""

    def __init__(self, render: Render | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._render, self._clock = render or tokenize, clock
        self._known: OrderedDict[tuple[str, Traits], tuple[object, float, int | str]] = OrderedDict()

    async def edge(self, engines: Sequence[Engine], model: str, traits: Traits) -> int | str:
        """Tokens at the end of the warmed head that such a request does not share, or why it shares none of it."""
        if traits.plain:
            return 0
        ready = [engine for engine in engines if engine.ready]
        if not ready:
            return "no engine is ready to say how the model's template lays this request out"
        life, key, now = tuple((engine.name, engine.generation) for engine in ready), (model, traits), self._clock()
        known = self._known.get(key)
        if known is not None and known[0] == life and now < known[1]:
            return known[2]
        until = float("inf")
        try:
            found = await self._ask(ready[0], model, traits)
        except AicockpitError as error:
            found, until = f"{ready[0].name} did not render the request's layout: {error}", now + _REFUSED_S
        self._known[key] = life, until, found
        self._known.move_to_end(key)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found

    async def _ask(self, engine: Engine, model: str, traits: Traits) -> int | str:
        own = {"messages": with_context([{"role": "system", "content": "b"}, {"role": "user", "content": "c"}], _TEXT)}
        head = stable_head(await self._render(engine, model, Traits().fields()), await self._render(engine, model, own))
        edge = 0
        for step, why in traits.steps():
            same = len(stable_head(head, await self._render(engine, model, step.fields())))
            edge = len(head) - same
            if edge > _EDGE:
                return why
        return edge


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class Unrendered(BadGateway):
    """An engine refused to render (4xx): it will answer the same for as long as it lives."""


async def tokenize(engine: Engine, model: str, fields: Mapping[str, object], limit_s: float = _WAIT_S) -> list[int]:
    """A conversation in the engine's own template, as token ids. Raises AicockpitError, Unrendered above all."""
    body = msgspec.json.encode({"model": model, "add_generation_prompt": True, **fields})
    status, raw = await engine.upstream.fetch("POST", "/tokenize", body, limit_s=limit_s)
    if status != 200:
        shown = " ".join(raw[:300].decode("utf-8", "replace").split())
        refused = 400 <= status < 500 and status not in _LATER
        raise (Unrendered if refused else BadGateway)(f"engine {engine.name} answered {status} to /tokenize: {shown}")
    try:
        return msgspec.json.decode(raw, type=_Tokenized).tokens
    except msgspec.MsgspecError as error:
        raise BadGateway(f"engine {engine.name} answered /tokenize without tokens: {error}") from error
