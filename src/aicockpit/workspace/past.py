"""Heads that told of the tree as it was before several files changed at once: a branch that was left, a stash, a pull.

When these files are again as they were, all or nearly all, such a head serves as it did, journal, skeletons, snippets
and all: nothing is built, and what the engines still have of it, open files included, is not computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

from aicockpit.workspace.epoch import Entry, Epoch, differing
from aicockpit.workspace.opened import View

# Files that change in one manifest and are no save of one who types: fewer are not worth remembering what was before.
SEVERAL = 2
_KEPT = 4
# An earlier head has to differ from the tree in so many times fewer files than the newest.
_FEWER = 4


@dataclass(frozen=True, slots=True)
class Rendered:
    """The journal, and the day, for which a chat's message was rendered last."""

    entries: tuple[Entry, ...]
    day: date


@dataclass(frozen=True, slots=True)
class Past:
    """An epoch that told of every file, and what stood behind it in the open ones. `changed`: files saved since."""

    epoch: Epoch
    views: Mapping[str, View]
    rendered: Rendered | None = None
    changed: set[str] = field(default_factory=set)

    def differ(self, files: Mapping[str, bytes]) -> set[str]:
        """The files that are not as it says."""
        return set(differing(self.epoch, files, self.changed))


class Pasts:
    """The last few, the newest last."""

    def __init__(self) -> None:
        self._known: deque[Past] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, past: Past) -> None:
        self._known.append(past)

    def changed(self, paths: Iterable[str]) -> None:
        """These files are other than they were."""
        paths = list(paths)
        for past in self._known:
            past.changed.update(paths)

    def again(self, files: Mapping[str, bytes], differ: int) -> tuple[Past, set[str]] | None:
        """The one that tells best of the files as they are, and those it does not tell of; None if none is much better
        than one that differs in `differ` files. It is no longer kept."""
        found = [(past, past.differ(files)) for past in reversed(self._known)]
        best = min(found, key=lambda one: len(one[1]), default=None)
        if best is None or len(best[1]) * _FEWER > differ:
            return None
        self._known.remove(best[0])
        return best
