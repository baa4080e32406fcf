"""Which KV blocks an engine holds right now, told by its own KV events over ZMQ.

`KvIndex` is the set of resident blocks, `Reader` puts frames into it in order, `KvEvents` is the task on the sockets.
Frame: topic, 8-byte big-endian sequence, payload (`kv_frames.py`). What is missed is asked for again: a DEALER sends an
empty frame and the first sequence wanted, and gets the batches and then sequence -1.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import zmq
import zmq.asyncio

from aicockpit.engines.blocks import SEED, event_key, hash_blocks
from aicockpit.engines.kv_frames import Batch, Removed, Stored, decode

log = logging.getLogger(__name__)

_END = -1
_HIGH_WATER = 100_000


@dataclass(slots=True)
class Counts:
    """What came and what was wrong with it, for /metrics.

    `unknown`, `broken`, `elsewhere`: events of kinds that are news to us, that cannot be read, of a tier below the
    cache. `duplicates`: batches that came twice; `gaps`: times that batches were lost for good; `replays`: times that
    missed ones were asked for again; `overflows`: times that more blocks were told of than the engine has.
    """

    batches: int = 0
    unknown: int = 0
    broken: int = 0
    elsewhere: int = 0
    duplicates: int = 0
    gaps: int = 0
    replays: int = 0
    overflows: int = 0


class KvIndex:
    """Keys of the resident blocks; never more than `capacity`. `exact`: it is all that the engine holds, and no more.

    `reason` says why it is not. `version` moves whenever blocks went away, and when exactness begins or ends. `counts`
    go on where those of the engine's index before were.
    """

    def __init__(self, capacity: int, counts: Counts | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"the index needs room for at least one block, not {capacity}")
        self.capacity = capacity
        self.exact = False
        self.reason = "no KV events seen yet"
        self.version = 0
        self.counts = Counts() if counts is None else counts
        self._keys: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    def add(self, keys: Iterable[int]) -> bool:
        """False when they are more than the engine can hold: removals were missed."""
        for key in keys:
            self._keys[key] = None
        surplus = len(self._keys) - self.capacity
        if surplus <= 0:
            return True
        self.counts.overflows += 1
        self.doubt(f"it told of more than its {self.capacity} blocks")
        for key in list(itertools.islice(self._keys, surplus)):
            del self._keys[key]
        return False

    def remove(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._keys.pop(key, None)
        self.version += 1

    def clear(self) -> None:
        self._keys.clear()
        self.version += 1

    def trust(self) -> None:
        """Nothing is missing: it is exact from here on."""
        self.version += not self.exact
        self.exact, self.reason = True, ""

    def doubt(self, reason: str) -> None:
        """Something was missed: the index is no proof until the next clear or full resync."""
        if self.exact:
            log.info("KV events: %s", reason)
            self.version += 1
        self.exact, self.reason = False, reason

    def resident(self, keys: Sequence[int]) -> int:
        """How many leading keys are present."""
        held = self._keys
        for count, key in enumerate(keys):
            if key not in held:
                return count
        return len(keys)

    def confirm(self, keys: Iterable[int], version: int) -> bool:
        """A request has just hit these blocks. Believed only if nothing went away since `version` was read.

        vLLM tells of a removal also when another copy of the block stays.
        """
        if version == self.version:
            self.add(keys)
        return version == self.version


class Fed(Enum):
    """What became of a batch."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    GAP = "gap"  # not applied: batches before it are missing
    RESTARTED = "restarted"  # not applied: an older sequence with a newer time, so another publisher


@dataclass(slots=True)
class Reader:
    """Puts batches into the index in order of their sequence. No I/O."""

    index: KvIndex
    seed: str = SEED
    expected: int = 0
    # Every batch since the beginning, or since a clear, was seen and understood.
    complete: bool = True
    _last_ts: float = -math.inf
    _rank: int | None = None
    # Is a block's hash the one that we would compute? None: not seen yet.
    _comparable: bool | None = None

    def begin(self) -> None:
        """A new publisher, or a replay from the first batch: what was known is void."""
        self.expected, self.complete, self._last_ts = 0, True, -math.inf
        self._rank = self._comparable = None
        self.index.clear()
        self.index.doubt("its events are being read from the first one on")

    def feed(self, sequence: int, payload: bytes, *, force: bool = False) -> Fed:
        """`force`: apply it though batches before it are lost for good."""
        batch = decode(payload)
        counts = self.index.counts
        if sequence < self.expected:
            if batch.ts > self._last_ts:
                return Fed.RESTARTED
            counts.duplicates += 1
            return Fed.DUPLICATE
        if sequence > self.expected:
            if not force:
                return Fed.GAP
            counts.gaps += 1
            self.complete = False
            self.index.doubt(f"batches {self.expected} to {sequence - 1} are lost")
        self.expected = sequence + 1
        self._last_ts = max(self._last_ts, batch.ts)
        self._apply(batch)
        return Fed.APPLIED

    def settle(self) -> None:
        """All that was sent has been read: does the index hold exactly what the engine does?"""
        if self._comparable is False:
            self.index.doubt("its block hashes are not vLLM's default (PYTHONHASHSEED or --prefix-caching-hash-algo)")
        elif self.complete:
            self.index.trust()

    def _apply(self, batch: Batch) -> None:
        counts, index = self.index.counts, self.index
        counts.batches += 1
        counts.unknown += batch.unknown
        counts.broken += batch.broken
        counts.elsewhere += batch.elsewhere
        for event in batch.events:
            if isinstance(event, Stored):
                self._compare(event)
                if not index.add(event.keys):
                    self.complete = False
            elif isinstance(event, Removed):
                index.remove(event.keys)
            else:
                index.clear()
                self.complete = True
        if batch.broken:
            self.complete = False
            index.doubt("an event could not be read, or is of a second KV group")
        elif self._rank is None:
            self._rank = batch.rank
        elif batch.rank != self._rank:
            self.complete = False
            index.doubt("several engine cores send to one endpoint")

    def _compare(self, event: Stored) -> None:
        if self._comparable is None and event.first and event.keys:
            ours = hash_blocks(event.first, event.block_size, seed=self.seed)
            self._comparable = event_key(ours[0]) == event.keys[0]


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Seconds. `replay_wait`: for the whole answer to a replay. `quiet_s`: silence after which a lost last batch is
    asked for; sooner at the start (`first_quiet_s`), when the subscription may have come late."""

    replay_wait: float = 5.0
    quiet_s: float = 5.0
    first_quiet_s: float = 0.25


class KvEvents:
    """One task that keeps `index` as the engine's events say. Without `replay` a gap ends exactness until a clear."""

    def __init__(
        self,
        endpoint: str,
        replay: str | None,
        index: KvIndex,
        *,
        topic: str = "",
        seed: str = SEED,
        limits: EventLimits | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.index = index
        self._endpoint, self._replay_endpoint, self._topic = endpoint, replay, topic
        self._limits, self._on_change = limits or EventLimits(), on_change
        self._reader = Reader(index, seed)
        self._resync_due = replay is not None
        self._context: zmq.asyncio.Context | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def exact(self) -> bool:
        return self.index.exact

    def launch(self) -> None:
        """Start listening; the engine need not be there yet. Raises zmq.ZMQError for what is no endpoint."""
        context = zmq.asyncio.Context()
        try:
            live = self._connect(context, zmq.SUB, self._endpoint)
            live.setsockopt(zmq.SUBSCRIBE, self._topic.encode())
        except zmq.ZMQError:
            context.destroy(linger=0)
            raise
        self._context = context
        self._task = asyncio.create_task(self._listen(live), name=f"KV events {self._endpoint}")
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop listening; the index stays as it is, and is no longer exact."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)
        self.index.doubt("its KV events are no longer read")

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An index that nobody feeds must not be believed."""
        if not task.cancelled():
            log.error("KV events of %s are no longer read", self._endpoint, exc_info=task.exception())
            self.index.doubt("its KV events are no longer read")

    @staticmethod
    def _connect(context: zmq.asyncio.Context, kind: int, endpoint: str) -> zmq.asyncio.Socket:
        socket = context.socket(kind)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        socket.connect(endpoint)
        return socket

    async def _listen(self, live: zmq.asyncio.Socket) -> None:
        await self._look()
        quiet = self._limits.first_quiet_s
        while True:
            if await live.poll(int(quiet * 1000)):
                for sequence, payload in _frames(await live.recv_multipart()):
                    await self._take(sequence, payload)
                self._on_change()
            else:
                await self._look()
                quiet = min(quiet * 2, self._limits.quiet_s)

    async def _take(self, sequence: int, payload: bytes) -> None:
        reader = self._reader
        fed = reader.feed(sequence, payload)
        if fed is Fed.RESTARTED:
            await self._resync()
            fed = reader.feed(sequence, payload)
        if fed is Fed.GAP:
            self.index.counts.replays += 1
            await self._replay(reader.expected)
            fed = reader.feed(sequence, payload, force=True)
        reader.settle()

    async def _look(self) -> None:
        """Silence. A batch lost at the end, or an engine that is gone, shows only when one asks."""
        if self._replay_endpoint is None:
            return
        if self._resync_due:
            await self._resync()
        elif not await self._replay(self._reader.expected):
            self.index.doubt("its replay endpoint does not answer")
            self._resync_due = True
        else:
            self._reader.settle()
        self._on_change()

    async def _resync(self) -> None:
        """Build the index anew, from the publisher's first batch if it still has that."""
        self._reader.begin()
        self._resync_due = not await self._replay(0) and self._replay_endpoint is not None
        if self._resync_due:
            self.index.doubt("its replay endpoint does not answer")
        else:
            self._reader.settle()

    async def _replay(self, start: int) -> bool:
        """Ask for the batches from `start` on and put them in. False when the answer does not end in time.

        On a socket of its own: the rest of an answer that came too late must not be taken for the next one's.
        """
        if self._context is None or self._replay_endpoint is None:
            return False
        asked = self._connect(self._context, zmq.DEALER, self._replay_endpoint)
        try:
            async with asyncio.timeout(self._limits.replay_wait):
                await asked.send_multipart([b"", start.to_bytes(8, "big")])
                while True:
                    for sequence, payload in _frames(await asked.recv_multipart()):
                        if sequence == _END:
                            return True
                        self._reader.feed(sequence, payload, force=True)
        except TimeoutError:
            return False
        finally:
            asked.close(linger=0)


def _frames(parts: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Sequence and payload: the last two parts, whatever stands before them. Nothing for another shape."""
    if len(parts) >= 2 and len(parts[-2]) == 8:
        yield int.from_bytes(parts[-2], "big", signed=True), parts[-1]
