"""Watching a stream of server-sent events go by: does it hold an engine's error, does it end as it should?

Events are never re-framed: the bytes go on as they came. The fast path looks at each piece once.
"""

from __future__ import annotations

import msgspec

_HELD = 64 * 1024
# Kept of an event that is not held, so that its end is still recognised.
_TAIL = 3
_ENDS = (b"\n\n", b"\r\n\r\n")


class StreamWatch:
    """Feed it every piece. `error` is the engine's error message once one was seen inside the stream.

    `finished`: some choice had its `finish_reason`, or an event was too long to be looked at; a dying vLLM may send
    `[DONE]` without one.
    """

    __slots__ = ("_partial", "error", "finished")

    def __init__(self) -> None:
        self.error: str | None = None
        self.finished = False
        self._partial = b""

    def feed(self, piece: bytes) -> None:
        if self._partial:
            piece = self._partial + piece
            self._partial = b""
        if not piece.endswith(_ENDS):
            cut = _whole(piece)
            rest, piece = piece[cut:], piece[:cut]
            if len(rest) > _HELD:  # no error of an engine is so long
                self.finished = True
                rest = rest[-_TAIL:]
            self._partial = rest
        self._look(piece)

    def end(self) -> None:
        """The stream is over: what is held is its last event, though no empty line followed it."""
        self._look(self._partial)

    @property
    def between_events(self) -> bool:
        return not self._partial

    def _look(self, events: bytes) -> None:
        if not self.finished and (b'"finish_reason":"' in events or b'"finish_reason": "' in events):
            self.finished = True
        if b'"error"' in events and self.error is None:
            self.error = _find_error(events)


def _whole(piece: bytes) -> int:
    """Where the last complete event in it ends."""
    return max(place + len(end) if (place := piece.rfind(end)) >= 0 else 0 for end in _ENDS)


class UsageTap:
    """Reads the usage out of a stream of events; takes the event that carries nothing else away when `hide` is set.

    Complete events go on at once; the beginning of one waits for its end.
    """

    __slots__ = ("_held", "_hide", "usage")

    def __init__(self, hide: bool) -> None:
        self._hide = hide
        self._held = b""
        self.usage: object = None

    def feed(self, piece: bytes) -> bytes:
        """What of it, and of what was held, may go on."""
        whole = self._held + piece
        end = _whole(whole)
        if len(whole) - end > _HELD:  # no event that matters here is so long
            end = len(whole)
        self._held = whole[end:]
        ready = whole[:end]
        return self._read(ready) if b'"usage"' in ready else ready

    def rest(self) -> bytes:
        """What is held when the stream ends."""
        held, self._held = self._held, b""
        return held

    def _read(self, events: bytes) -> bytes:
        kept = []
        for event in events.split(b"\n\n"):
            found = _usage_of(event)
            if found is not None:
                self.usage, alone = found
                if alone and self._hide:
                    continue
            kept.append(event)
        return b"\n\n".join(kept)


def _usage_of(event: bytes) -> tuple[object, bool] | None:
    """The usage in an event of one line, and whether it has no choices beside it."""
    if not event.startswith(b"data:") or b'"usage"' not in event:
        return None
    try:
        found = msgspec.json.decode(event[5:].strip())
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict) or not found.get("usage"):
        return None
    return found["usage"], not found.get("choices")


def _find_error(piece: bytes) -> str | None:
    """The message of the first event whose JSON has a non-null top-level `error`, or whose type is `error`."""
    for line in piece.splitlines():
        if not line.startswith(b"data:") or b'"error"' not in line:
            continue
        try:
            found = msgspec.json.decode(line[5:].strip())
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            continue
        if not isinstance(found, dict):
            continue
        error = found.get("error")
        if error or found.get("type") == "error":
            source = error if isinstance(error, dict) else found
            return str(source.get("message") or error or "error without a message")
    return None
