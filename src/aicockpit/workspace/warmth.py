"""What is known about the KV cache of each engine: how many leading tokens of a prompt are resident there.

Two sources. `KvIndex`, when the engine sends KV events and none was missed: exact. Otherwise what finished requests
have shown (`cached_tokens`), kept as an LRU of as many blocks as the engine has, in the order in which vLLM evicts: the
deepest blocks of the prompt used longest ago first. That is an estimate with an age; it errs towards "not resident".
Used on the path of a request (`resident`) and by the prefetcher. One event loop, no I/O.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aicockpit.engines.blocks import SEED, event_keys, hash_blocks
from aicockpit.engines.kv import KvInfo
from aicockpit.engines.kv_events import KvIndex

# Tokens of the prompts whose hashes are kept, and how many of the latest with the same first block are compared with
# a new one, which mostly extends one.
_CHAIN_TOKENS = 2_000_000
_COMPARED = 4
# Blocks that requests in work hold beyond what is cached: partly filled ones.
_MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Residency:
    """`tokens`: leading ones, whole blocks. `age_s`: since the least fresh of them was last seen; 0 if `exact`."""

    tokens: int = 0
    age_s: float = 0.0
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a finished request showed. `expected`: tokens believed resident before, `cached`: what it found."""

    expected: int
    cached: int | None

    @property
    def lost(self) -> bool:
        return self.cached is not None and self.cached < self.expected


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The block hashes of a prompt and their numbers in KV events."""

    tokens: tuple[int, ...]
    hashes: tuple[bytes, ...]
    keys: tuple[int, ...]


class Chains:
    """Block hashes of prompts, each computed once. Found by the tuple's identity, which costs nothing; a new tuple that
    begins as a known one does is hashed from there on."""

    def __init__(self, block_size: int, seed: str = SEED, limit: int = _CHAIN_TOKENS) -> None:
        self.block_size, self._seed, self._limit = block_size, seed, limit
        self._held = 0
        self._known: OrderedDict[int, Chain] = OrderedDict()
        self._latest: dict[tuple[int, ...], deque[Chain]] = {}

    def get(self, tokens: Sequence[int]) -> Chain:
        found = self._known.get(id(tokens))
        if found is not None and found.tokens is tokens:
            self._known.move_to_end(id(tokens))
            return found
        row, size = tuple(tokens), self.block_size
        known, count = self._alike(row)
        if known is not None and count:
            more = hash_blocks(row[count * size :], size, known.hashes[count - 1])
            chain = Chain(row, known.hashes[:count] + tuple(more), known.keys[:count] + event_keys(more))
        else:
            more = hash_blocks(row, size, seed=self._seed)
            chain = Chain(row, tuple(more), event_keys(more))
        self._keep(chain)
        return chain

    def _alike(self, row: tuple[int, ...]) -> tuple[Chain | None, int]:
        """The latest prompt with the longest beginning in common, and that in blocks."""
        best, most, size = None, 0, self.block_size
        for known in self._latest.get(row[:size], ()):
            low, high = most, min(len(known.hashes), len(row) // size)
            if known.tokens[: high * size] == row[: high * size]:
                low = high
            while low < high:
                middle = (low + high + 1) // 2
                same = known.tokens[low * size : middle * size] == row[low * size : middle * size]
                # Only a beginning that was equal so far is searched on.
                low, high = (middle, high) if same else (low, middle - 1)
            if low > most and known.tokens[: low * size] == row[: low * size]:
                best, most = known, low
        return best, most

    def _keep(self, chain: Chain) -> None:
        # The chain holds the tuple, so no other object can have its id while it is known.
        self._known[id(chain.tokens)] = chain
        self._latest.setdefault(chain.tokens[: self.block_size], deque(maxlen=_COMPARED)).append(chain)
        self._held += len(chain.tokens)
        while self._held > self._limit and len(self._known) > 1:
            _, old = self._known.popitem(last=False)
            self._held -= len(old.tokens)
            latest = self._latest[old.tokens[: self.block_size]]
            if old in latest:
                latest.remove(old)
            if not latest:
                del self._latest[old.tokens[: self.block_size]]


@dataclass(slots=True)
class _Cache:
    """One engine. `seen`: block -> (when, proven by a hit), the next to be evicted first; ints are unknown blocks."""

    info: KvInfo
    chains: Chains
    index: KvIndex | None
    seen: OrderedDict[bytes | int, tuple[float, bool]] = field(default_factory=OrderedDict)
    # Has any request of this life hit the cache? Until then what was computed need not have been kept.
    caches: bool = False
    version: int = 0
    others: int = 0

    @property
    def room(self) -> int:
        """Blocks that can hold what is cached: one is vLLM's null block, a few are in work."""
        return max(1, self.info.blocks - 1 - max(1, int(self.info.blocks * _MARGIN)))

    def counts(self, block: bytes) -> tuple[float, bool] | None:
        known = self.seen.get(block)
        return known if known is not None and (known[1] or self.caches) else None

    def leading(self, hashes: Sequence[bytes]) -> tuple[int, float]:
        """Blocks believed resident, and when the least fresh of them was seen."""
        oldest = float("inf")
        for count, block in enumerate(hashes):
            known = self.counts(block)
            if known is None:
                return count, oldest
            oldest = min(oldest, known[0])
        return len(hashes), oldest

    def touch(self, hashes: Sequence[bytes], proven: int, now: float) -> None:
        """These were used together. A freed prompt is queued for eviction from its end."""
        for position in range(len(hashes) - 1, -1, -1):
            block = hashes[position]
            before = self.seen.pop(block, (0.0, False))
            self.seen[block] = (now, position < proven or before[1])

    def fill(self, count: int, now: float) -> None:
        """So many blocks went to tokens that we do not know."""
        for _ in range(min(count, self.room)):
            self.others += 1
            self.seen[self.others] = (now, True)

    def trim(self) -> None:
        surplus = len(self.seen) - self.room
        for _ in range(surplus):
            self.seen.popitem(last=False)
        self.version += surplus > 0

    def drop_from(self, hashes: Sequence[bytes], first: int) -> None:
        """Blocks from `first` on were evicted, and with them what would have been evicted earlier."""
        lost = hashes[first]
        while self.seen:
            block, _ = self.seen.popitem(last=False)
            if block == lost:
                break
        for block in hashes[first:]:
            self.seen.pop(block, None)
        self.version += 1


class Warmth:
    """See the module. Engines are named by `Engine.name`; one that was not opened holds nothing.

    `adapter` names the LoRA module that a prompt is for: its KV is other KV.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: str = SEED) -> None:
        self._clock, self._seed = clock, seed
        self._caches: dict[str, _Cache] = {}

    def open(self, engine: str, info: KvInfo, index: KvIndex | None = None) -> None:
        """A life of an engine begins, with nothing in its cache that we know of."""
        self._caches[engine] = _Cache(info, Chains(info.block_size, self._seed), index)

    def forget(self, engine: str) -> None:
        """Its cache is gone, or nobody knows: everything is cold."""
        self._caches.pop(engine, None)

    def info(self, engine: str) -> KvInfo | None:
        cache = self._caches.get(engine)
        return cache.info if cache else None

    def exact(self, engine: str) -> bool:
        cache = self._caches.get(engine)
        return cache is not None and cache.index is not None and cache.index.exact

    def why_inexact(self, engine: str) -> str:
        """Why what is resident there is an estimate; "" while KV events tell it exactly."""
        cache = self._caches.get(engine)
        if cache is None:
            return "its cache is not known yet"
        return "it sends no KV events" if cache.index is None else cache.index.reason

    def version(self, engine: str) -> int:
        """Moves whenever blocks went away, as far as we know."""
        cache = self._caches.get(engine)
        if cache is None:
            return -1
        return cache.version + (cache.index.version if cache.index else 0)

    def resident(self, engine: str, tokens: Sequence[int], adapter: str = "") -> Residency:
        """Leading tokens of `tokens` in the engine's cache. Give the same tuple again: then nothing is hashed."""
        cache = self._caches.get(engine)
        if cache is None:
            return Residency()
        chain = cache.chains.get(tokens)
        size = cache.info.block_size
        if cache.index is not None and cache.index.exact and not adapter:
            return Residency(cache.index.resident(chain.keys) * size, 0.0, True)
        count, oldest = cache.leading(_of(chain.hashes, adapter))
        return Residency(count * size, self._clock() - oldest if count else 0.0, False)

    def learn(
        self,
        engine: str,
        tokens: Sequence[int],
        cached: int | None,
        *,
        generated: int = 0,
        adapter: str = "",
    ) -> Learnt:
        """A request with the prompt `tokens` has finished. `cached`: its `cached_tokens`; None: the engine did not say.

        What it computed is resident now as well, once the engine has shown that it caches at all.
        """
        cache = self._caches.get(engine)
        if cache is None:
            return Learnt(0, cached)
        size, now = cache.info.block_size, self._clock()
        hashes = _of(cache.chains.get(tokens).hashes, adapter)
        believed, _ = cache.leading(hashes)
        # vLLM computes at least the last token, so the block that holds it is never hit.
        believed = min(believed, (len(tokens) - 1) // size)
        learnt = Learnt(believed * size, cached)
        if cached is None:
            cache.fill(len(hashes), now)
        else:
            # What was generated lies deeper than the prompt, so it goes first.
            cache.fill((len(tokens) + generated) // size - len(hashes), now)
            hits = cached // size
            if hits < believed:
                cache.drop_from(hashes, hits)
            if hits:
                cache.caches = True
            elif believed:
                cache.caches = False
            cache.touch(hashes, hits, now)
        cache.trim()
        return learnt

    def used(self, engine: str, tokens: int) -> None:
        """A request whose tokens nobody knows has put so many of them into the cache."""
        cache = self._caches.get(engine)
        if cache is not None:
            cache.fill(-(-tokens // cache.info.block_size), self._clock())
            cache.trim()

    def confirm(self, engine: str, tokens: Sequence[int], version: int) -> bool:
        """All whole blocks of `tokens` were hit, and nothing went away since `version` of the index was read."""
        cache = self._caches.get(engine)
        if cache is None or cache.index is None:
            return True
        return cache.index.confirm(cache.chains.get(tokens).keys, version)

    def chain(self, engine: str, tokens: Sequence[int], adapter: str = "") -> tuple[bytes, ...]:
        """The block hashes of `tokens` on this engine; empty while it is not open."""
        cache = self._caches.get(engine)
        return _of(cache.chains.get(tokens).hashes, adapter) if cache else ()


def _of(hashes: tuple[bytes, ...], adapter: str) -> tuple[bytes, ...]:
    mark = adapter.encode()
    return tuple(mark + block for block in hashes) if adapter else hashes
