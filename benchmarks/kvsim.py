"""A prefix cache as vLLM has it: hash-chained blocks of 16 tokens, least recently used first out; and idle time."""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence

import xxhash

BLOCK = 16
STEP = 512  # tokens of one prefetch step


def chain(tokens: Sequence[int]) -> list[int]:
    """The hash of each full block, each depending on all before it."""
    data = memoryview(array("I", tokens)).cast("B")
    width = BLOCK * array("I").itemsize
    found, parent = [], 0
    for start in range(0, len(data) - width + 1, width):
        parent = xxhash.xxh3_64_intdigest(data[start : start + width], seed=parent)
        found.append(parent)
    return found


class Cache:
    """The blocks of one engine. `capacity` in blocks."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def resident(self, hashes: Sequence[int]) -> int:
        """Leading blocks that are there."""
        for count, block in enumerate(hashes):
            if block not in self._blocks:
                return count
        return len(hashes)

    def use(self, hashes: Sequence[int]) -> None:
        """Blocks computed or read: the deepest of a prefix are the first to go."""
        for block in reversed(hashes):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.capacity:
            self._blocks.popitem(last=False)


class Background:
    """Prefetch in idle time: prefixes grow step by step, `speed` tokens/s, nothing while a request runs."""

    def __init__(self, cache: Cache, speed: float) -> None:
        self._cache, self.speed = cache, speed
        self._wanted: deque[list[int]] = deque()
        self._credit = 0.0
        self.tokens = 0  # computed in the background

    def want(self, *prefixes: Sequence[int]) -> None:
        """Replace the wish list; the first comes first."""
        self._wanted = deque(chain(prefix) for prefix in prefixes)

    def add(self, prefix: Sequence[int]) -> None:
        self._wanted.append(chain(prefix))

    def advance(self, seconds: float) -> None:
        """Let idle time pass."""
        self._credit += seconds * self.speed
        while self._wanted:
            hashes = self._wanted[0]
            known = self._cache.resident(hashes)
            if known == len(hashes):
                self._wanted.popleft()
                continue
            step = min(STEP // BLOCK, len(hashes) - known)
            if step * BLOCK > self._credit:
                return
            self._credit -= step * BLOCK
            self.tokens += step * BLOCK
            self._cache.use(hashes[: known + step])
        self._credit = 0.0  # idle time cannot be saved up
