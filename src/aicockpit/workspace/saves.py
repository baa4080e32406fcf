"""Saves that no head tells of yet, and how long the last one took to be told. Owned by a track."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aicockpit.workspace.head import Choice


@dataclass(frozen=True, slots=True)
class Save:
    """A file's new content (None: it is gone), known since `at`, on the owner's clock."""

    at: float
    path: str
    content: bytes | None


class Saves:
    """The last `most` of them. `to_warm_s`: seconds from a save to a warm head that has it, of the latest one."""

    def __init__(self, most: int) -> None:
        self.to_warm_s: float | None = None
        self._open: deque[Save] = deque(maxlen=most)

    def add(self, paths: Iterable[str], files: Mapping[str, bytes], now: float) -> None:
        self._open.extend(Save(now, path, files.get(path)) for path in paths)

    def __bool__(self) -> bool:
        return bool(self._open)

    def settle(self, choices: Sequence[Choice], now: float) -> None:
        """`choices`: what serves now, engine by engine."""
        left: deque[Save] = deque(maxlen=self._open.maxlen)
        newest = {save.path: save for save in self._open}
        for save in newest.values():
            if any(_tells(choice, save) for choice in choices):
                if any(_entry_of(choice, save) for choice in choices):
                    self.to_warm_s = now - save.at
            else:
                left.append(save)
        self._open = left


def _entry_of(choice: Choice, save: Save) -> bool:
    return any(entry.path == save.path and entry.hash == save.content for entry in choice.epoch.entries)


def _tells(choice: Choice, save: Save) -> bool:
    """A choice's head has the content that was saved, or there is nothing worth saying of it."""
    epoch = choice.epoch
    if any(one.path == save.path and one.hash == save.content for one in epoch.entries[: choice.cut.entries]):
        return True
    return epoch.knows(save.path) == save.content and not _entry_of(choice, save)
