"""Which engine had the last request for the same file: of two that are equally warm it still holds that request's tail.

Asked by `composition.py` before an engine is chosen, told when a request is sent.
"""

from __future__ import annotations

from collections import OrderedDict

_KEPT = 1024
# (key id, workspace, model, path; "" where the client names none).
Key = tuple[str, str, str, str]


class Trails:
    """Engines' names by file; of too many files the one asked for longest ago is forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._kept = kept

    def last(self, key: Key) -> str:
        """The engine's name, "" if none is known."""
        return self._known.get(key, "")

    def went(self, key: Key, engine: str) -> None:
        """A request for this file is sent there now."""
        self._known[key] = engine
        self._known.move_to_end(key)
        if len(self._known) > self._kept:
            self._known.popitem(last=False)
