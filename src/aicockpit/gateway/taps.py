"""Reading the usage out of streams of named events, and giving the client its own instructions back in them.

Anthropic's streams tell it in `message_start` and `message_delta`, those of `/v1/responses` in their last event.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

# Held of an event whose end has not come: it may repeat instructions and tools.
_HELD = 4 * 1024 * 1024
_ENDS = (b"\n\n", b"\r\n\r\n")
_EVENTS = re.compile(rb"(\r?\n\r?\n)")
_DATA = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class EventTap:
    """Feed it every piece; what it returns goes on to the client.

    Without `instructions` that is every piece as it came, when it came. With them an event waits for its end, and those
    that repeat the instructions sent show these (raw JSON) instead.
    """

    __slots__ = ("_held", "_instructions", "usage")

    def __init__(self, instructions: msgspec.Raw | None = None) -> None:
        self._instructions = instructions
        self._held = b""
        self.usage: object = None

    def feed(self, piece: bytes) -> bytes:
        whole = self._held + piece
        end = max(place + len(mark) if (place := whole.rfind(mark)) >= 0 else 0 for mark in _ENDS)
        if len(whole) - end > _HELD:
            end = len(whole)
        self._held = whole[end:]
        ready = self._read(whole[:end])
        return piece if self._instructions is None else ready

    def rest(self) -> bytes:
        """What is held when the stream ends: its last event, though no empty line followed it."""
        held, self._held = self._held, b""
        ready = self._read(held)
        return b"" if self._instructions is None else ready

    def _read(self, events: bytes) -> bytes:
        if b'"usage"' not in events and (self._instructions is None or b'"instructions"' not in events):
            return events
        return b"".join(self._event(part) if part.strip() else part for part in _EVENTS.split(events))

    def _event(self, event: bytes) -> bytes:
        lines = list(_DATA.finditer(event))
        if len(lines) != 1:
            return event
        try:
            fields = _split(lines[0][1])
            inner = {name: _split(fields[name]) for name in ("message", "response") if name in fields}
            for found in (fields, *inner.values()):
                if "usage" in found:
                    self._note(_decode(found["usage"]), "message" in inner)
        except _UNREADABLE:
            return event
        if self._instructions is None or "instructions" not in inner.get("response", ()):
            return event
        fields["response"] = msgspec.Raw(_encode({**inner["response"], "instructions": self._instructions}))
        start, end = lines[0].span(1)
        return event[:start] + _encode(fields) + event[end:]

    def _note(self, usage: Any, begins: bool) -> None:
        """Later figures count. vLLM's first ones do not know the cache yet, so they tell nothing on their own."""
        if not isinstance(usage, dict) or (begins and usage.get("cache_read_input_tokens") is None):
            return
        self.usage = {**self.usage, **usage} if isinstance(self.usage, dict) else usage


def with_instructions(answer: bytes, instructions: msgspec.Raw) -> bytes:
    """A whole answer with `instructions` (raw JSON) for those that it repeats; every other value keeps its bytes."""
    try:
        fields = _split(answer)
    except _UNREADABLE:
        return answer
    return _encode({**fields, "instructions": instructions}) if "instructions" in fields else answer
