"""Taking turns on GPUs: two engines that start on one GPU at once measure each other's memory and get it wrong.

One lock per GPU, held from before the start until the engine is ready or gone; and before a start, a wait until the
memory of whatever ran there before is really free (the driver gives it back some time after the process ended).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

ReadFree = Callable[[str], int | None]

# As many equal readings of the free memory mean that nothing is being freed or taken any more.
SETTLED_READINGS = 3
SETTLED_SPREAD = 64 << 20

log = logging.getLogger(__name__)


def settled(readings: Sequence[int]) -> bool:
    """Has the free memory (bytes, oldest first) stopped moving?"""
    last = readings[-SETTLED_READINGS:]
    return len(last) == SETTLED_READINGS and max(last) - min(last) <= SETTLED_SPREAD


def _unknown(gpu: str) -> int | None:
    return None


class GpuTurns:
    """`read_free(gpu)` is the free memory in bytes, or None where it cannot be read: then there is no wait.

    What was free before one of our engines started there must be free again before the next.
    """

    def __init__(self, read_free: ReadFree = _unknown, *, settle_wait: float = 60.0, read_period: float = 0.5) -> None:
        self._read_free, self._settle_wait, self._read_period = read_free, settle_wait, read_period
        self._locks: dict[str, asyncio.Lock] = {}
        self._before: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def turn(self, gpus: Sequence[str]) -> AsyncIterator[None]:
        """Hold these GPUs. Always taken in the same order, so that two engines cannot wait for each other."""
        async with contextlib.AsyncExitStack() as stack:
            for gpu in sorted(set(gpus)):
                await stack.enter_async_context(self._locks.setdefault(gpu, asyncio.Lock()))
            await asyncio.gather(*(self._settle(gpu) for gpu in set(gpus)))
            yield

    async def _settle(self, gpu: str) -> None:
        readings: list[int] = []
        try:
            async with asyncio.timeout(self._settle_wait):
                while not (settled(readings) and readings[-1] + SETTLED_SPREAD >= self._before.get(gpu, 0)):
                    # In a thread: a driver call can take a second while memory is being freed.
                    free = await asyncio.to_thread(self._read_free, gpu)
                    if free is None:
                        return
                    readings.append(free)
                    await asyncio.sleep(self._read_period)
        except TimeoutError:
            log.warning("GPU %s: its memory is not free again after %g s; starting anyway", gpu, self._settle_wait)
        if readings:
            self._before[gpu] = readings[-1]
