"""How other assistants lay out their prompts, from their published rules, on the same budget of tokens.

Kind to them where a rule leaves room: snippets are tokenised apart, so that a seam costs nothing; they are gathered
in no time; the ring gets the same idle time for its warm-up as our prefetch does.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aicockpit.prompts.fim import Style
from aicockpit.prompts.tail import TailLimits
from aicockpit.prompts.tokens import Encoder
from benchmarks.edits import Event
from benchmarks.kvsim import Background

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]+")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of repository context, and lines of the file before and behind the cursor."""

    context: int = 16_384
    before: int = TailLimits().prefix_lines
    after: int = TailLimits().suffix_lines


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: its tokens, how many of them are the shared pack, and whether it is the first to show a change."""

    tokens: tuple[int, ...]
    pack: int = 0
    fresh: bool = False


class Layout(Protocol):
    """A way to lay out prompts. `event` comes first, then idle time passes, then the request is made."""

    name: str

    def event(self, event: Event) -> None: ...

    def prompt(self, event: Event) -> Prompt: ...


@dataclass(frozen=True, slots=True)
class Kit:
    """What every layout works with."""

    encoder: Encoder
    style: Style
    sizes: Sizes
    background: Background
    seed: int
    name: str

    def item(self, path: str, text: str) -> tuple[int, ...]:
        return self.style.item(self.encoder, path, text)

    def clipped(self, event: Event) -> tuple[str, str]:
        """As many whole lines around the cursor as everybody gets: a window that slides."""
        before = event.prefix.splitlines(keepends=True)[-self.sizes.before :]
        after = event.suffix.splitlines(keepends=True)[: self.sizes.after]
        return "".join(before), "".join(after)

    def tail(self, event: Event, window: tuple[str, str], repo_level: bool) -> tuple[int, ...]:
        return self.style.tail(self.encoder, event.path, *window, repo_level=repo_level)


def words_of(text: str) -> set[str]:
    return set(WORD.findall(text))


def chunks_of(text: str, lines: int) -> list[str]:
    rows = text.splitlines(keepends=True)
    return ["".join(rows[start : start + lines]) for start in range(0, len(rows), lines)]


class Index:
    """Chunks of a tree, found by the words they share with a query: rare words weigh more (BM25 without lengths)."""

    def __init__(self, tree: Mapping[str, str], lines: int) -> None:
        self._lines = lines
        self._of: dict[str, list[tuple[str, int]]] = {}
        self._postings: dict[str, set[tuple[str, int]]] = {}
        self.text: dict[tuple[str, int], str] = {}
        for path, text in tree.items():
            self.put(path, text)

    def put(self, path: str, text: str | None) -> None:
        for key in self._of.pop(path, []):
            for word in words_of(self.text.pop(key)):
                self._postings[word].discard(key)
        for number, chunk in enumerate(chunks_of(text, self._lines) if text else []):
            key = (path, number)
            self._of.setdefault(path, []).append(key)
            self.text[key] = chunk
            for word in words_of(chunk):
                self._postings.setdefault(word, set()).add(key)

    def ranked(self, query: str, without: str) -> list[tuple[str, int]]:
        scores: defaultdict[tuple[str, int], float] = defaultdict(float)
        for word in sorted(words_of(query)):
            keys = self._postings.get(word, set())
            weight = math.log(1 + len(self.text) / (1 + len(keys)))
            for key in keys:
                scores[key] += weight
        return [key for _, key in sorted((-round(score, 6), key) for key, score in scores.items() if key[0] != without)]


class Tabby:
    """Snippets found with the 20 lines before the cursor, as comments in front of the prefix, best last."""

    name = "Tabby"

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        self._kit, self._index = kit, Index(tree, 32)
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        self._saved = False

    def event(self, event: Event) -> None:
        self._saved = bool(event.changes)
        for change in event.changes:
            self._index.put(change.path, change.new)

    def _comment(self, path: str, text: str) -> tuple[int, ...]:
        if (path, text) in self._tokens:
            return self._tokens[path, text]
        mark = "#" if path.endswith((".py", ".rb", ".pyi")) else "//"
        body = f"{mark} Path: {path}\n" + "".join(f"{mark} {line}" for line in text.splitlines(keepends=True))
        self._tokens[path, text] = self._kit.encoder.encode(body)
        return self._tokens[path, text]

    def prompt(self, event: Event) -> Prompt:
        query = "".join(event.prefix.splitlines(keepends=True)[-20:])
        left, snippets = self._kit.sizes.context, list[int]()
        for key in self._index.ranked(query, event.path):
            tokens = self._comment(key[0], self._index.text[key])
            if len(tokens) > left:
                break
            left -= len(tokens)
            snippets += tokens
        tail = self._kit.tail(event, self._kit.clipped(event), repo_level=False)
        mark = int(bool(tail) and tail[0] in self._kit.encoder.specials.values())
        return Prompt((*tail[:mark], *snippets, *tail[mark:]), fresh=self._saved)


class Continue:
    """Recently opened files, edited and visited ranges, in an order that is drawn anew for each request."""

    name = "Continue"

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        self._kit = kit
        self._tree = dict(tree)
        self._opened: deque[str] = deque(sorted(tree, key=lambda path: (-len(tree[path]), path))[:12], maxlen=12)
        self._edited: deque[tuple[str, str]] = deque(maxlen=10)
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        self._rng = random.Random(kit.seed)
        self._saved = False

    def event(self, event: Event) -> None:
        self._saved = bool(event.changes)
        for change in event.changes[:20]:
            if change.new is None:
                self._tree.pop(change.path, None)
                continue
            self._tree[change.path] = change.new
            lines = change.new.splitlines(keepends=True)
            old = (change.old or "").splitlines(keepends=True)
            first = next((n for n, (a, b) in enumerate(zip(lines, old, strict=False)) if a != b), 0)
            self._edited.appendleft((change.path, "".join(lines[max(0, first - 5) : first + 25])))
        if event.path not in self._opened:
            self._opened.appendleft(event.path)

    def prompt(self, event: Event) -> Prompt:
        open_files = [path for path in self._opened if path in self._tree and path != event.path]
        snippets = [(path, chunk) for path in open_files for chunk in chunks_of(self._tree[path], 64)]
        snippets += [(path, text) for path, text in self._edited if path != event.path]
        self._rng.shuffle(snippets)
        left = self._kit.sizes.context
        prompt = list(self._kit.style.header(self._kit.encoder, self._kit.name))
        for path, text in snippets:
            if (path, text) not in self._tokens:
                self._tokens[path, text] = self._kit.item(path, text)
            tokens = self._tokens[path, text]
            if len(tokens) <= left:
                left -= len(tokens)
                prompt += tokens
        tail = self._kit.tail(event, self._kit.clipped(event), repo_level=True)
        return Prompt((*prompt, *tail), fresh=self._saved)


class Ring:
    """llama.vscode: 16 chunks, first in, first out; picked on opening, leaving, saving and after moving 32 lines.

    A chunk moves from the queue into the ring after 3 s without a key or on a pause, and the ring is warmed then.
    """

    name = "llama.vscode ring"
    chunks = 16
    idle_s = 1.0

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        self._kit = kit
        self._rng = random.Random(kit.seed)
        self._ring: deque[tuple[str, str]] = deque(maxlen=self.chunks)
        self._queue: deque[tuple[str, str]] = deque(maxlen=self.chunks)
        self._last: tuple[str, str, int] = ("", "", 0)
        self._line = 0
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        self._head: tuple[int, ...] = ()
        self._turned = False
        for path in sorted(tree, key=lambda path: (-len(tree[path]), path))[: self.chunks]:
            self._pick(path, tree[path], self._ring)  # a session that has been going on for a while
        self._warm()

    def _pick(self, path: str, text: str, target: deque[tuple[str, str]]) -> None:
        rows = text.splitlines(keepends=True)
        if len(rows) < 3:
            return
        if len(rows) > 64:
            start = self._rng.randrange(len(rows) - 63)
            rows = rows[start : start + 64]
        chunk = "".join(rows)
        for store in (self._ring, self._queue):
            for known in list(store):
                if _similar(chunk, known[1]) > 0.9:
                    store.remove(known)
        target.append((path, chunk))

    def event(self, event: Event) -> None:
        path, text, _ = self._last
        if event.path != path:
            if path:
                self._pick(path, text, self._queue)
            self._pick(event.path, event.text, self._queue)
        for change in event.changes[:20]:
            if change.new is not None:
                self._pick(change.path, change.new, self._queue)
        line = event.prefix.count("\n")
        if event.path == path and abs(line - self._line) > 32:
            rows = event.text.splitlines(keepends=True)
            self._pick(path, "".join(rows[max(0, line - 1024) : max(0, line - 256)]), self._queue)
            self._line = line
        self._last = (event.path, event.text, event.cursor)
        self._turned = event.pause_s >= self.idle_s and bool(self._queue)
        if self._turned:
            self._ring.append(self._queue.popleft())
            self._warm()

    def _warm(self) -> None:
        """Put the ring together, and have it prefilled in idle time."""
        left, parts = self._kit.sizes.context, list[tuple[int, ...]]()
        for path, text in reversed(self._ring):  # what does not fit is left out from the oldest
            if (path, text) not in self._tokens:
                self._tokens[path, text] = self._kit.item(path, text)
            left -= len(self._tokens[path, text])
            if left < 0:
                break
            parts.append(self._tokens[path, text])
        header = self._kit.style.header(self._kit.encoder, self._kit.name)
        self._head = header + tuple(token for part in reversed(parts) for token in part)
        self._kit.background.want(self._head)

    def prompt(self, event: Event) -> Prompt:
        return Prompt(self._head + self._kit.tail(event, self._kit.clipped(event), repo_level=True), fresh=self._turned)


def _similar(a: str, b: str) -> float:
    """Jaccard over lines, as llama.vscode compares chunks."""
    one, two = set(a.splitlines()), set(b.splitlines())
    return len(one & two) / max(1, len(one | two))
