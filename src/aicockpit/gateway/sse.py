"""Watching a stream of server-sent events go by: does it hold an engine's error, does it end as it should?

Events are never re-framed: the bytes go on as they came. The fast path looks at each piece once.
"""

from __future__ import annotations

import msgspec

_HELD = 64 * 1024


class StreamWatch:
    """Feed it every piece. `error` is the engine's error message once one was seen inside the stream.

    `finished`: some choice had its `finish_reason`; a dying vLLM may send `[DONE]` without one.
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
        if not piece.endswith((b"\n\n", b"\r\n\r\n")):
            cut = max(piece.rfind(b"\n\n") + 2, piece.rfind(b"\r\n\r\n") + 4 if b"\r" in piece else 0)
            cut = 0 if cut == 1 else cut
            # An event longer than what is held is no error of an engine: those are short.
            self._partial = piece[cut:] if len(piece) - cut <= _HELD else b"."
            piece = piece[:cut]
        if not self.finished and (b'"finish_reason":"' in piece or b'"finish_reason": "' in piece):
            self.finished = True
        if b'"error"' in piece and self.error is None:
            self.error = _find_error(piece)

    @property
    def between_events(self) -> bool:
        return not self._partial


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
