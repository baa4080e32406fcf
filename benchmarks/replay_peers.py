"""How other assistants lay out their prompts, from their published rules, on the same budget of tokens.

Kind to them where a rule leaves room: snippets are tokenised apart, so that a seam costs nothing; they are gathered
in no time; the ring gets the same idle time for its warm-up as our prefetch does.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.edits import BRANCH, Event
from benchmarks.replay_kit import Kit, Prompt, chunks_of

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]+")


def words_of(text: str) -> set[str]:
    return set(WORD.findall(text))


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


class Peer:
    """What the peers have in common: between two requests nothing happens, but that the background goes on."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def pause(self, seconds: float) -> None:
        self._kit.background.advance(seconds)


class Tabby(Peer):
    """Snippets found with the 20 lines before the cursor, as comments in front of the prefix, best last."""

    name = "Tabby"

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        super().__init__(kit)
        self._index = Index(tree, 32)

    def event(self, event: Event) -> None:
        for change in event.changes:
            self._index.put(change.path, change.new)

    def _comment(self, path: str, text: str) -> tuple[int, ...]:
        mark = "#" if path.endswith((".py", ".rb", ".pyi")) else "//"
        body = f"{mark} Path: {path}\n" + "".join(f"{mark} {line}" for line in text.splitlines(keepends=True))
        return self._kit.encoder.encode(body)

    def prompt(self, event: Event) -> Prompt:
        def find() -> list[tuple[str, int]]:
            return self._index.ranked("".join(event.prefix.splitlines(keepends=True)[-20:]), event.path)

        left, snippets = self._kit.sizes.context, list[int]()
        for path, number in self._kit.memo.once(event, self.name, find):
            text = self._index.text[path, number]
            tokens = self._kit.memo.tokens("comment", path, text, partial(self._comment, path, text))
            if len(tokens) > left:
                break
            left -= len(tokens)
            snippets += tokens
        tail = self._kit.tail(event, self._kit.clipped(event), repo_level=False, whole=True)
        mark = int(bool(tail) and tail[0] in self._kit.encoder.specials.values())
        return Prompt((*tail[:mark], *snippets, *tail[mark:]), mark + len(snippets))


class Continue(Peer):
    """Recently opened files, edited and visited ranges, in an order that is drawn anew for each request."""

    name = "Continue"

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        super().__init__(kit)
        self._tree = dict(tree)
        self._opened: deque[str] = deque(sorted(tree, key=lambda path: (-len(tree[path]), path))[:12], maxlen=12)
        self._edited: deque[tuple[str, str]] = deque(maxlen=10)
        self._rng = random.Random(kit.seed)

    def event(self, event: Event) -> None:
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
        def find() -> list[tuple[str, str]]:
            open_files = [path for path in self._opened if path in self._tree and path != event.path]
            found = [(path, chunk) for path in open_files for chunk in self._kit.memo.chunks(self._tree[path])]
            found += [(path, text) for path, text in self._edited if path != event.path]
            self._rng.shuffle(found)
            return found

        snippets = self._kit.memo.once(event, self.name, find)
        left = self._kit.sizes.context
        prompt = list(self._kit.style.header(self._kit.encoder, self._kit.name))
        for path, text in snippets:
            tokens = self._kit.item(path, text)
            if len(tokens) <= left:
                left -= len(tokens)
                prompt += tokens
        tail = self._kit.tail(event, self._kit.clipped(event), repo_level=True, whole=True)
        return Prompt((*prompt, *tail), len(prompt))


class Ring(Peer):
    """llama.vscode: chunks of 32 lines, first in, first out, by the rules of its extra-context.ts.

    What stands before the cursor in its line goes behind the last control token, as its field `prompt` has it.

    Picked at random from the 64 lines around the cursor on opening, leaving and saving the open file; from the whole
    of another file that is saved; after a request more than 32 lines away from the last pick, from what stands around
    the local context. A change on disk that no editor saved is not seen. One chunk a second moves from the queue into
    the ring, once 3 s have passed since the last request, and the ring is warmed then.
    """

    name = "llama.vscode ring"
    chunk = 64  # ring_chunk_size: a longer text gives half as many lines
    scope = 1_024  # ring_scope
    queued = 16
    moved = 32
    similar = 0.9
    idle_s, update_s = 3.0, 1.0
    chunks: int | None = 16  # ring_n_chunks

    def __init__(self, kit: Kit, tree: Mapping[str, str]) -> None:
        super().__init__(kit)
        self._rng = random.Random(kit.seed)
        self._ring: deque[tuple[str, str]] = deque()
        self._queue: deque[tuple[str, str]] = deque()
        self._last: tuple[str, str, int] | None = None
        self._picked = -9_999
        self._head: tuple[int, ...] = ()
        self._fill(tree)
        self._warm()

    def _fill(self, tree: Mapping[str, str]) -> None:
        """A session that has been going on for a while: the largest files were worked in, by turns."""
        files = sorted(tree, key=lambda path: (-len(tree[path]), path))
        for turn in range(512):
            path = files[turn % min(len(files), 16)]
            if len(self._ring) >= self.chunks if self.chunks else self._size(self._ring) > self._kit.sizes.context:
                return
            self._pick(path, tree[path].split("\n"), evict=False)
            self._ring.extend(self._queue)
            self._queue.clear()

    def _size(self, ring: Sequence[tuple[str, str]]) -> int:
        return sum(len(self._kit.item(*one)) for one in ring)

    def _pick(self, path: str, lines: Sequence[str], evict: bool = True) -> None:
        if len(lines) < 3:
            return
        if len(lines) + 1 >= self.chunk:
            half = self.chunk // 2
            start = self._rng.randrange(max(1, len(lines) - half + 1))
            lines = lines[start : start + half]
        text = "\n".join(lines) + "\n"
        if evict:
            if any(text == known for store in (self._ring, self._queue) for _, known in store):
                return
            for store in (self._ring, self._queue):
                for one in [one for one in store if _similar(text, one[1]) > self.similar]:
                    store.remove(one)
        if len(self._queue) >= self.queued:
            self._queue.popleft()
        self._queue.append((path, text))

    def _around(self, path: str, text: str, line: int) -> None:
        half = self.chunk // 2
        self._pick(path, text.split("\n")[max(0, line - half) : line + half + 1])

    def event(self, event: Event) -> None:
        line = event.prefix.count("\n")
        if self._last is None or event.path != self._last[0]:
            if self._last is not None:
                self._around(*self._last)
            self._around(event.path, event.text, line)
        for change in event.changes if event.kind != BRANCH else ():
            if change.new is not None:
                self._pick(change.path, change.new.split("\n"))
        self._last = (event.path, event.text, line)

    def pause(self, seconds: float) -> None:
        passed, wait = 0.0, self.idle_s
        while self._queue and passed + wait <= seconds:
            self._kit.background.advance(wait)
            passed, wait = passed + wait, self.update_s
            self._turn()
        self._kit.background.advance(seconds - passed)

    def _turn(self) -> None:
        self._ring.append(self._queue.popleft())
        while self._over():
            self._ring.popleft()
        self._warm()

    def _over(self) -> bool:
        return self.chunks is not None and len(self._ring) > self.chunks

    def _warm(self) -> None:
        """Put the ring together, and have it prefilled in idle time. What has no room is left out from the oldest."""
        left, parts = self._kit.sizes.context, list[tuple[int, ...]]()
        for path, text in reversed(self._ring):
            tokens = self._kit.item(path, text)
            left -= len(tokens)
            if left < 0:
                break
            parts.append(tokens)
        header = self._kit.style.header(self._kit.encoder, self._kit.name)
        self._head = header + tuple(token for part in reversed(parts) for token in part)
        self._kit.background.want(self._head)

    def prompt(self, event: Event) -> Prompt:
        prompt = Prompt(self._head + self._kit.tail(event, self._kit.clipped(event), repo_level=True), len(self._head))
        line = event.prefix.count("\n")
        if abs(line - self._picked) > self.moved:
            lines = event.text.split("\n")
            sizes = self._kit.sizes
            before, behind = max(0, line - sizes.before), min(len(lines) - 1, line + sizes.after)
            self._pick(event.path, lines[max(0, line - self.scope) : before + 1], evict=False)
            self._pick(event.path, lines[behind : behind + self.chunk + 1], evict=False)
            self._picked = line
        return prompt


class WideRing(Ring):
    """The same with as many chunks as the budget has room for, instead of the 16 that are its default."""

    name = "ring, enlarged"
    chunks = None

    def _over(self) -> bool:
        return self._size(self._ring) > self._kit.sizes.context


def _similar(a: str, b: str) -> float:
    """Jaccard over lines, as llama.vscode compares chunks."""
    one, two = set(a.splitlines()), set(b.splitlines())
    return len(one & two) / max(1, len(one | two))
