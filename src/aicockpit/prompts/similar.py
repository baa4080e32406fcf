"""Snippets of other files whose words overlap most with the lines before the cursor: an index, its search, the segment.

Pure. The builder keeps one `Chunks` per tree and makes the last part of an open file's neighbourhood with it. Such a
snippet is worth the most to a small model; searched for and computed at each request it would also cost the most. So
the query is held until the words around the cursor have changed (`moved`), and what was found is warmed.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from aicockpit.prompts.pack import E, Style

CHUNK_LINES = 32
CHUNK_CHARS = 8_000  # of a chunk; a longer one is generated or minified, and fits no segment
CHUNK_WORDS = 400  # of a chunk; one with more of them is data that looks like text
VOCABULARY = 1_000_000  # words known; beyond it, which only data brings, new ones find nothing: 250 MB at most
MOVED_BELOW = 0.5  # similarity of two queries under which a new search is worth its prefetch
ROW_FROM = 256  # entries of a list that is kept as bits, too, once it is asked for
ROWS = 2_048  # of those: 50 MB at most with 200,000 chunks
STEPS = tuple(0.8**step for step in range(20))  # similarities; the first that enough chunks may reach is sought
COMPACT_FROM = 1_000  # chunks gone before they are taken out of the index
_ASCII = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_LETTERS = re.compile(r"[^\W\d_]+")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SET = re.compile(rb"[^\0]")


@dataclass(frozen=True, slots=True)
class Found:
    """A place that a search found: lines from 1, the last one included; `score` is the Jaccard similarity, 0 to 1."""

    path: str
    first: int
    last: int
    score: float


@dataclass(frozen=True, slots=True)
class Snippet:
    """A found place with its text, as it stands in a segment. `first`: its first line, from 1."""

    path: str
    first: int
    text: str
    score: float


def words(text: str) -> frozenset[str]:
    """The words that names and prose are made of, in small letters: `getURLFor` is get, url, for; no single letters.

    Parts of names find more of the names of the next line than whole names do, above all with a query that is some
    lines old.
    """
    found = _ASCII.findall(text) if text.isascii() else _LETTERS.findall(_HUMPS.sub(" ", text))
    return frozenset(word.lower() for word in set(found) if len(word) > 1)


def query(prefix: str) -> frozenset[str]:
    """The words of the last CHUNK_LINES lines before the cursor, the cursor's own line included."""
    at = len(prefix)
    for _ in range(CHUNK_LINES):
        at = prefix.rfind("\n", 0, at)
        if at < 0:
            return words(prefix)
    return words(prefix[at + 1 :])


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of the words of both that is common to them; 1 for two empty sets."""
    both = len(one & other)
    union = len(one) + len(other) - both
    return both / union if union else 1.0


def moved(used: frozenset[str], now: frozenset[str]) -> bool:
    """Whether a new search is worth it: the words around the cursor are no longer those that were searched for."""
    return jaccard(used, now) < MOVED_BELOW


class Chunks:
    """The words of a tree's files, in chunks of CHUNK_LINES lines. Holds no text. One thread at a time.

    `limit`: chunks that are held at most; `left_out` counts the files that had no room, or not enough of it. 200,000
    chunks of source code take some 130 MB.
    """

    def __init__(self, limit: int = 200_000, vocabulary: int = VOCABULARY) -> None:
        self._limit, self._vocabulary = limit, vocabulary
        self._lists: dict[str, array[int]] = {}  # word -> numbers of chunks, rising
        self._sizes = array("I")  # words of each chunk
        self._files = array("I")
        self._firsts = array("I")  # first line from 1
        self._lasts = array("I")
        self._paths: list[str] = []  # by number of file, in order of adding
        self._known: dict[str, _Held] = {}
        self._partly: set[str] = set()
        self._alive = 0  # bit n: chunk n is there
        self._count = 0
        self._rows: dict[str, tuple[int, int]] = {}  # long lists as bits, last used last: entries read, bits
        self._classes: dict[int, int] = {}  # least size of a class of sizes -> bits
        self._classed = 0  # chunks that stand in them

    def __len__(self) -> int:
        """Chunks held."""
        return self._count

    @property
    def left_out(self) -> int:
        """Files that are missing here, or have a part missing, for want of room."""
        return len(self._partly)

    def add(self, path: str, text: str) -> None:
        """Take a file in. One that is known is replaced."""
        self.drop(path)
        start, number = len(self._sizes), len(self._paths)
        for first, last, found in _cut(text):
            place = len(self._sizes)
            if self._count + place - start >= self._limit:
                self._partly.add(path)
                break
            for word in found:
                held = self._lists.get(word)
                if held is None:
                    if len(self._lists) >= self._vocabulary:
                        continue
                    held = self._lists[word] = array("I")
                held.append(place)
            self._sizes.append(len(found))
            self._files.append(number)
            self._firsts.append(first)
            self._lasts.append(last)
        self._paths.append(path)
        held_now = self._known[path] = _Held(number, start, len(self._sizes))
        self._alive |= held_now.bits
        self._count += held_now.end - start

    def drop(self, path: str) -> None:
        """Forget a file. Nothing happens for one that is not known."""
        self._partly.discard(path)
        known = self._known.pop(path, None)
        if known is None:
            return
        self._alive ^= known.bits
        self._count -= known.end - known.start
        if len(self._sizes) - self._count > max(COMPACT_FROM, self._count):
            self._compact()

    def search(self, query: frozenset[str], without: Collection[str], count: int = 20) -> list[Found]:
        """The `count` chunks most like the query, best first, of no file in `without`; equal ones by path and line.

        What comparing with every chunk would find, but none that shares no word with the query. All chunks are
        counted at once: a word is a row of bits, one for each chunk, and the rows are added up as binary numbers
        whose digits are rows again. Of the chunks, in classes of their size, only those are then looked at that share
        enough words to be among the best.
        """
        alive = self._alive
        for path in without:
            if path in self._known:
                alive &= ~self._known[path].bits
        digits = _sum(self._row(word) & alive for word in query if word in self._lists)
        if not digits or count < 1:
            return []
        near = _Near(digits, self._by_size(), alive, len(query))
        step = bisect_left(STEPS, True, key=lambda floor: near.reach(floor).bit_count() >= count)
        floor = STEPS[step] if step < len(STEPS) else 0.0
        scores = near.scores(floor, self._sizes)
        least = sorted(scores.values(), reverse=True)[count - 1] if len(scores) >= count else 0.0
        if least < floor:
            scores = near.scores(least, self._sizes)
        best = [(-score, self._paths[self._files[n]], self._firsts[n], self._lasts[n]) for n, score in scores.items()]
        return [Found(path, first, last, -score) for score, path, first, last in sorted(best)[:count]]

    def _row(self, word: str) -> int:
        """The chunks that have a word, as bits."""
        places = self._lists[word]
        if len(places) < ROW_FROM:
            return _bits(places)
        read, row = self._rows.pop(word, (0, 0))
        if read < len(places):
            row |= _bits(places[read:])
        self._rows[word] = len(places), row
        if len(self._rows) > ROWS:
            del self._rows[next(iter(self._rows))]
        return row

    def _by_size(self) -> dict[int, int]:
        """The chunks of each class of sizes, as bits. A class is an eighth of its power of two wide."""
        fresh: dict[int, list[int]] = {}
        for place in range(self._classed, len(self._sizes)):
            size = self._sizes[place]
            shift = max(0, size.bit_length() - 4)
            fresh.setdefault(size >> shift << shift, []).append(place)
        for least, places in fresh.items():
            self._classes[least] = self._classes.get(least, 0) | _bits(places)
        self._classed = len(self._sizes)
        return self._classes

    def _compact(self) -> None:
        """Take what is gone out of every list, and number the rest anew."""
        kept = _places(self._alive)
        numbers = dict(zip(kept, range(len(kept)), strict=True))
        lists = {}
        for word, held in self._lists.items():
            if left := array("I", [numbers[place] for place in held if place in numbers]):
                lists[word] = left
        files = {old.number: new for new, old in enumerate(self._known.values())}
        known = {}
        end = 0
        for new, (path, old) in enumerate(self._known.items()):
            start, end = end, end + old.end - old.start
            known[path] = _Held(new, start, end)
        self._lists, self._known, self._paths = lists, known, list(known)
        self._files = array("I", [files[self._files[place]] for place in kept])
        self._sizes, self._firsts, self._lasts = (
            array("I", [values[place] for place in kept]) for values in (self._sizes, self._firsts, self._lasts)
        )
        self._alive = (1 << len(kept)) - 1
        self._rows, self._classes, self._classed = {}, {}, 0


@dataclass(frozen=True, slots=True)
class _Held:
    """A file in the index: its number, and its chunks from `start` to before `end`."""

    number: int
    start: int
    end: int

    @property
    def bits(self) -> int:
        return ((1 << (self.end - self.start)) - 1) << self.start


class _Near:
    """How many words each chunk shares with a query, and who can reach a similarity."""

    def __init__(self, digits: Sequence[int], classes: Mapping[int, int], alive: int, asked: int) -> None:
        self._digits, self._classes, self._alive, self._asked = digits, classes, alive, asked
        self._shares: dict[int, int] = {}

    def reach(self, floor: float) -> int:
        """The chunks, as bits, that share a word and may be as similar as `floor`: all that are, and some more."""
        found = 0
        for least, chunks in self._classes.items():
            # A chunk of s words, n of them shared with a query of q, has the similarity n / (q + s - n).
            needed = max(1, ceil(floor * (self._asked + least) / (1 + floor) - 1e-9))
            found |= self._sharing(needed) & chunks
        return found

    def scores(self, floor: float, sizes: Sequence[int]) -> dict[int, float]:
        """The similarity of each chunk that may reach `floor`, by its number."""
        digits = [digit.to_bytes(digit.bit_length() // 8 + 1, "little") for digit in self._digits]
        scores = {}
        for place in _places(self.reach(floor)):
            at, bit = place >> 3, place & 7
            shared = sum((row[at] >> bit & 1) << power for power, row in enumerate(digits) if at < len(row))
            scores[place] = shared / (self._asked + sizes[place] - shared)
        return scores

    def _sharing(self, needed: int) -> int:
        """The chunks that share at least so many words."""
        if needed >> len(self._digits):
            return 0
        found = self._shares.get(needed)
        if found is None:
            more, same = 0, self._alive
            for power in range(len(self._digits) - 1, -1, -1):
                if needed >> power & 1:
                    same &= self._digits[power]
                else:
                    more |= same & self._digits[power]
                    same ^= same & self._digits[power]
            found = self._shares[needed] = more | same
        return found


def segment(
    found: Iterable[Found],
    text_of: Callable[[str], str | None],
    style: Style[E],
    encoder: E,
    budget: int,
) -> tuple[tuple[int, ...], tuple[Snippet, ...]]:
    """What of the found places (best first) fits into `budget` tokens: the tokens and what stands in them, best last.

    `text_of` gives the text of a path as it was added, None for one that is gone. No text stands there twice, also
    where files are copies of each other.
    """
    parts: list[tuple[tuple[int, ...], Snippet]] = []
    shown: set[str] = set()
    left = budget
    for place in found:
        if left <= 0:
            break
        text = text_of(place.path)
        if text is None:
            continue
        chunk = "\n".join(text.split("\n")[place.first - 1 : place.last]).rstrip()
        if not chunk or chunk in shown:
            continue
        tokens = style.item(encoder, place.path, chunk)
        if len(tokens) > left:
            continue
        shown.add(chunk)
        left -= len(tokens)
        parts.append((tuple(tokens), Snippet(place.path, place.first, chunk, place.score)))
    parts.reverse()
    return tuple(token for tokens, _ in parts for token in tokens), tuple(snippet for _, snippet in parts)


def _cut(text: str) -> Iterable[tuple[int, int, frozenset[str]]]:
    """First and last line, from 1, and the words of each chunk that has any."""
    lines = text.split("\n")
    for start in range(0, len(lines), CHUNK_LINES):
        part = lines[start : start + CHUNK_LINES]
        chunk = "\n".join(part)
        if len(chunk) <= CHUNK_CHARS and 0 < len(found := words(chunk)) <= CHUNK_WORDS:
            yield start + 1, start + len(part), found


def _bits(places: Sequence[int]) -> int:
    """Rising numbers as the bits of one number."""
    row = bytearray((places[-1] >> 3) + 1)
    for place in places:
        row[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(row, "little")


def _places(bits: int) -> list[int]:
    """The numbers of the bits that are set, rising."""
    row = bits.to_bytes(bits.bit_length() // 8 + 1, "little")
    found = []
    for match in _SET.finditer(row):
        at, value = match.start(), row[match.start()]
        found += [at * 8 + bit for bit in range(8) if value >> bit & 1]
    return found


def _sum(rows: Iterable[int]) -> list[int]:
    """Adds bits of the same place: the digits of the sums, lowest first, each for all places; none for zero."""
    digits: list[int] = []
    for row in rows:
        for power, digit in enumerate(digits):
            digits[power], row = digit ^ row, digit & row
            if not row:
                break
        if row:
            digits.append(row)
    return digits
