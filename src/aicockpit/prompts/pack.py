"""The pack: a snapshot's most useful skeletons as one immutable list of token ids.

Which items: files in order of rank (a PageRank over symbol references) until the token budget is full. A file gives its
skeleton; a small central file whose skeleton is nearly all of it anyway is given whole; other text gives its head.

In which order ("coldest first"), so that a change leaves as much as possible in front of it as it was:
1. skeletons, then whole files, then heads of text: a body edit cannot change the first,
2. files that many files refer to before those that few do (in powers of two of that number): a central interface is
   changed with care, and what enters or leaves at the budget's edge is referred to by few, so it stands last,
3. the path.
Ranks themselves do not order items: every edit moves all of them a little, while the number of referring files moves
only for the files that the edit began or ceased to mention. Nor do times of files, or how often one has changed so far:
they differ between clones and servers, and equal snapshots are to give equal packs everywhere, after a restart too.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import xxhash

from aicockpit.prompts.languages import TEXT, is_noise
from aicockpit.prompts.portions import Portions, whole
from aicockpit.prompts.rank import Graph, linked, ranked
from aicockpit.prompts.skeleton import Analysis

WHOLE_CHARS = 1_500  # a longer file is never given whole
WHOLE_REFERRERS = 3  # files that must refer to it
WHOLE_SHARE = 0.7  # of the text that its skeleton must already be
LARGEST_SHARE = 4  # one item takes at most a quarter of the budget
CHARS_PER_TOKEN = 4  # about, to cut a skeleton before it is encoded
MISSES = 40  # items too large for what is left of the budget, before we stop looking for smaller ones
CACHED_ITEM_COST = 32  # tokens' worth of memory that a cached item costs beside its tokens


class Encoder(Protocol):
    """What a pack needs of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...
    def encode(self, text: str, /) -> tuple[int, ...]: ...


E = TypeVar("E", bound=Encoder)
ReadBy = TypeVar("ReadBy", bound=Encoder, contravariant=True)


class Style(Protocol[ReadBy]):
    """How a model family writes a repository down, for the encoder of that family."""

    @property
    def name(self) -> str: ...
    def header(self, encoder: ReadBy, repo: str, /) -> tuple[int, ...]: ...
    def item(self, encoder: ReadBy, path: str, text: str, /) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a snapshot. `mtime_ns` is carried for others; it decides nothing here."""

    path: str
    hash: bytes
    mtime_ns: int
    analysis: Analysis


@dataclass(frozen=True, slots=True)
class Item:
    """One file's part of a pack. `kind`: skeleton, full or head. `why` is for people, and in no token."""

    path: str
    kind: str
    text: str
    tokens: tuple[int, ...]
    why: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """Header and items as one token list. `id`: 32 hex digits of its tokens; `cuts`: the offset behind each item."""

    id: str
    tokens: tuple[int, ...]
    items: tuple[Item, ...]
    header: int
    cuts: tuple[int, ...]


class ItemCache:
    """Token lists of items, so that an edit encodes one file again. Bounded, in tokens; the oldest used goes."""

    def __init__(self, limit_tokens: int) -> None:
        self._limit = limit_tokens
        self._held = 0
        self._lists: OrderedDict[tuple[bytes, str, str, str], array[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def get(self, key: tuple[bytes, str, str, str], make: Callable[[], Sequence[int]]) -> tuple[int, ...]:
        """The tokens of (hash, path, kind, fingerprint), made if they are not held."""
        found = self._lists.get(key)
        if found is None:
            found = self._lists[key] = array("I", make())
            self._held += len(found) + CACHED_ITEM_COST
        self._lists.move_to_end(key)
        while self._held > self._limit and len(self._lists) > 1:
            _, dropped = self._lists.popitem(last=False)
            self._held -= len(dropped) + CACHED_ITEM_COST
        return tuple(found)


def build(
    sources: Sequence[Source],
    texts: Callable[[bytes], str],
    style: Style[E],
    encoder: E,
    repo: str,
    budget: int,
    cache: ItemCache,
    *,
    known: Graph | None = None,
) -> Pack:
    """The pack of a snapshot: at most `budget` tokens, the header included; see the module for what decides.

    `texts` gives a file's text by its hash. `known`: the sources' graph, if it is at hand. Equal input gives equal ids.
    A budget that does not hold the header and one item gives a pack without tokens.
    """
    return whole(building(sources, texts, style, encoder, repo, budget, cache, known=known))


def building(
    sources: Sequence[Source],
    texts: Callable[[bytes], str],
    style: Style[E],
    encoder: E,
    repo: str,
    budget: int,
    cache: ItemCache,
    *,
    known: Graph | None = None,
) -> Portions[Pack]:
    """`build`, in portions."""
    header = tuple(style.header(encoder, repo))
    if known is None:
        known = yield from linked({source.path: source.analysis for source in sources})
    yield
    by_path = {source.path: source for source in sources}
    referrers = dict(zip(known.paths, known.referrers, strict=True))
    ranks = yield from ranked(known)
    yield
    order = sorted(
        (path for path in ranks if path in by_path and by_path[path].analysis.skeleton and not is_noise(path)),
        key=lambda path: (by_path[path].analysis.language == TEXT, -ranks[path], path.count("/"), path),
    )
    left, largest, misses = budget - len(header), budget // LARGEST_SHARE, 0
    items: list[Item] = []
    for place, path in enumerate(order):
        yield
        source = by_path[path]
        kind, text = _choose(source, referrers[path], texts)
        cut = _cut(text, largest * CHARS_PER_TOKEN)
        how = kind if cut == text else f"{kind}:{len(cut)}"  # what the budget cut short is another list
        tokens = cache.get(
            (source.hash, path, how, f"{style.name} {encoder.fingerprint}"),
            partial(style.item, encoder, path, cut),
        )
        if len(tokens) > left:
            misses += 1
            if misses >= MISSES or left <= 0:
                break
            continue
        left -= len(tokens)
        items.append(Item(path, kind, cut, tokens, _why(place, len(order), referrers[path], cut != text), source.hash))
    yield
    if not items:
        header = ()
    kinds = ("skeleton", "full", "head")
    items.sort(key=lambda item: (kinds.index(item.kind), -referrers[item.path].bit_length(), item.path))
    return _joined(header, items)


def _joined(header: tuple[int, ...], items: Sequence[Item]) -> Pack:
    tokens = list(header)
    cuts = []
    for item in items:
        tokens += item.tokens
        cuts.append(len(tokens))
    name = xxhash.xxh3_128(b"".join(token.to_bytes(4, "little") for token in tokens)).hexdigest()
    return Pack(name, tuple(tokens), tuple(items), len(header), tuple(cuts))


def _choose(source: Source, referrers: int, texts: Callable[[bytes], str]) -> tuple[str, str]:
    skeleton = source.analysis.skeleton
    if source.analysis.language == TEXT:
        return "head", skeleton
    if referrers >= WHOLE_REFERRERS and len(skeleton) <= WHOLE_CHARS:
        text = texts(source.hash).rstrip()
        if 0 < len(text) <= WHOLE_CHARS and len(skeleton) >= WHOLE_SHARE * len(text):
            return "full", text
    return "skeleton", skeleton


def _cut(text: str, limit: int) -> str:
    """Whole lines from the beginning."""
    if len(text) <= limit:
        return text
    end = text.rfind("\n", 0, limit)
    return text[: max(end, 0)] or text[:limit]


def _why(place: int, count: int, referrers: int, cut: bool) -> str:
    by = "referenced by 1 file" if referrers == 1 else f"referenced by {referrers} files"
    return f"rank {place + 1} of {count}, {by}" + (", cut to a quarter of the budget" if cut else "")
