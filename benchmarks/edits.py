"""A trace of editing: what a developer does in a tree, one event for each completion request.

Lines that were really added are typed character by character; now and then a suggestion (the rest of the real line)
is accepted; other files are saved meanwhile, files appear, the branch is switched and switched back.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.corpus import Commit, History, changes_between

KEYSTROKE, NEWLINE, ACCEPT, SAVE = "keystroke", "newline", "accept a suggestion", "save of another file"
SWITCH, JUMP, BRANCH, NEW = "switch of file", "jump", "branch switch", "new file"
KINDS = (KEYSTROKE, NEWLINE, ACCEPT, SAVE, SWITCH, JUMP, NEW, BRANCH)
PAUSES = {KEYSTROKE: 0.2, NEWLINE: 0.5, ACCEPT: 1.0, SAVE: 0.2, SWITCH: 2.0, JUMP: 1.5, NEW: 0.2, BRANCH: 0.2}
READING_S = 30.0  # after a switch of branch, before more is done
TYPED_LINES = 8  # of one hunk; more are pasted
BRANCH_KEYS = 12


@dataclass(frozen=True, slots=True)
class Change:
    """One file on disk; None where it does not exist."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, the seconds until the request that follows, and what the editor then shows."""

    kind: str
    pause_s: float
    changes: tuple[Change, ...]
    path: str
    text: str
    cursor: int

    @property
    def prefix(self) -> str:
        return self.text[: self.cursor]

    @property
    def suffix(self) -> str:
        return self.text[self.cursor :]


class Editor:
    """One developer: the tree on disk, the open file, the cursor."""

    def __init__(self, history: History, seed: int) -> None:
        self.tree = dict(history.base)
        self.path, self.text, self.cursor = "", "", 0
        self._rng = random.Random(f"{seed} {history.name} edits")
        self._later: list[Change] = []  # on disk already, told with the next event

    def trace(self, history: History) -> Iterator[Event]:
        """Every event of the history, with a switch to the other branch and back in the middle."""
        half = len(history.commits) // 2
        for number, commit in enumerate(history.commits):
            if number == half and self.path:
                yield from self._branch(history.other)
            yield from self._commit(commit)

    def write(self, path: str, new: str | None) -> Change:
        change = Change(path, self.tree.get(path), new)
        if new is None:
            self.tree.pop(path, None)
        else:
            self.tree[path] = new
        return change

    def _event(self, kind: str, changes: tuple[Change, ...] = (), pause_s: float | None = None) -> Event:
        told, self._later = (*self._later, *changes), []
        return Event(kind, PAUSES[kind] if pause_s is None else pause_s, told, self.path, self.text, self.cursor)

    def _open(self, path: str, text: str, cursor: int) -> None:
        self.path, self.text, self.cursor = path, text, cursor

    def _commit(self, commit: Commit) -> Iterator[Event]:
        changed = [p for p, new in commit.changes.items() if new is not None and p in self.tree]
        main = next((path for path in changed if self._hunks(path, commit.changes[path] or "")), None)
        others = [path for path in commit.changes if path != main]
        if main is None:
            self._later += [self.write(path, commit.changes[path]) for path in others]
            return
        target = commit.changes[main] or ""
        fresh = main != self.path
        self._open(main, self.tree[main], 0)
        yield from self._edit(target, [(path, commit.changes[path]) for path in others], fresh)
        self._later.append(self.write(main, target))

    def _hunks(self, path: str, new: str) -> list[tuple[int, int, list[str]]]:
        """(first old line, last old line, new lines) of what a commit adds to a file."""
        old_lines, new_lines = self.tree[path].splitlines(keepends=True), new.splitlines(keepends=True)
        matcher = difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False)
        codes = matcher.get_opcodes()
        return [(a, b, new_lines[c:d]) for tag, a, b, c, d in codes if tag in ("insert", "replace")]

    def _edit(self, target: str, others: list[tuple[str, str | None]], fresh: bool) -> Iterator[Event]:
        """Type the lines that are new in `target`; other files are saved at moments in between."""
        hunks = self._hunks(self.path, target)
        lines = self.text.splitlines(keepends=True)
        shift = 0
        for number, (first, last, new) in enumerate(hunks[:3]):
            first, last = first + shift, last + shift
            del lines[first:last]
            shift += len(new) - (last - first)
            start = sum(map(len, lines[:first]))
            self.text = "".join(lines)
            if number == 0:
                yield from self._arrive(start, fresh)
            else:
                self.cursor = start
                yield self._event(JUMP)
            yield from self._type(new[:TYPED_LINES], others)
            lines[first:first] = new
        for path, text in others:  # those for which there was no moment
            self._later.append(self.write(path, text))
        others.clear()

    def _arrive(self, start: int, fresh: bool) -> Iterator[Event]:
        if fresh:
            self.cursor = start
            yield self._event(SWITCH)
        self.cursor = self._rng.randrange(len(self.text) + 1)
        yield self._event(JUMP)
        self.cursor = start
        yield self._event(JUMP)

    def _insert(self, text: str) -> None:
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def _type(self, lines: list[str], others: list[tuple[str, str | None]]) -> Iterator[Event]:
        for number, line in enumerate(lines):
            body = line.rstrip("\n")
            indent = len(body) - len(body.lstrip())
            if number == 0:
                self._insert(body[:indent] + "\n")  # an empty line was opened above what stands there
                self.cursor -= 1
            else:  # the editor indents
                self._insert("\n" + body[:indent])
                yield self._event(NEWLINE)
            left = body[indent:]
            accept = len(left) >= 12 and self._rng.random() < 0.4
            typed = self._rng.randrange(3, len(left) * 2 // 3) if accept else len(left)
            save_at = self._rng.randrange(1, typed) if others and typed > 2 and self._rng.random() < 0.8 else -1
            for place, character in enumerate(left[:typed]):
                self._insert(character)
                if place == save_at and others:
                    path, text = others.pop(0)
                    kind = NEW if path not in self.tree else SAVE
                    yield self._event(kind, (self.write(path, text),))
                else:
                    yield self._event(KEYSTROKE)
            if accept:
                self._insert(left[typed:])
                yield self._event(ACCEPT)

    def _branch(self, other: Mapping[str, str]) -> Iterator[Event]:
        """To the other branch and back, typing a little on each; the open file is what its branch says."""
        here = dict(self.tree)
        for tree in (other, here):
            changed = changes_between(self.tree, tree)
            changes = tuple(self.write(path, text) for path, text in changed.items())
            self.text = self.tree.get(self.path, self.text)
            self.cursor = min(self.cursor, len(self.text))
            self.cursor = self.text.rfind("\n", 0, self.cursor) + 1
            for place, character in enumerate("result = None\n"[:BRANCH_KEYS]):
                self._insert(character)
                pause = READING_S if place == BRANCH_KEYS - 1 else None
                yield self._event(BRANCH, changes, pause)
                changes = ()


def trace(history: History, seed: int) -> Iterator[Event]:
    """The events of one history: the same for the same seed."""
    return Editor(history, seed).trace(history)
