"""Taking turns on GPUs: two engines that start on one GPU at once measure each other's memory and get it wrong.

One lock per GPU, held from before the start until the engine is ready or gone; and before a start, a wait until the
memory of whatever ran there before is really free (the driver gives it back some time after the process ended).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

ReadFree = Callable[[str], int | None]

# As many equal readings of the free memory mean that nothing is being freed or taken any more.
SETTLED_READINGS = 3
SETTLED_SPREAD = 64 << 20
# What an engine may take beyond what it held when it became ready: workspaces of libraries, graphs made late.
GROWTH = 512 << 20
GIB = 1 << 30

log = logging.getLogger(__name__)


def settled(readings: Sequence[int]) -> bool:
    """Has the free memory (bytes, oldest first) stopped moving?"""
    last = readings[-SETTLED_READINGS:]
    return len(last) == SETTLED_READINGS and max(last) - min(last) <= SETTLED_SPREAD


def _unknown(gpu: str) -> int | None:
    return None


@dataclass(slots=True)
class _Gpu:
    """One GPU. `empty`: free bytes while none of our engines is there; `before`: at the beginning of the last turn;
    `held`: what each engine took in its turns, by name."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    empty: int | None = None
    before: int = 0
    held: dict[str, tuple[Callable[[], bool], int]] = field(default_factory=dict)

    def living(self) -> int:
        """Bytes of the engines that still run or sleep. A sleeper counts whole: that errs towards not waiting."""
        self.held = {name: (alive, took) for name, (alive, took) in self.held.items() if alive()}
        return sum(took for _, took in self.held.values())

    def required(self) -> int:
        """Bytes that are free once every engine that ended has given back its own."""
        if self.empty is None:
            return 0
        return self.empty - self.living() - GROWTH * len(self.held) - SETTLED_SPREAD

    def settled_at(self, free: int) -> None:
        living, self.before = self.living(), free
        self.empty = min(self.empty, free + living) if self.empty is not None and self.held else free + living

    def took(self, tenant: str, alive: Callable[[], bool], free: int) -> None:
        """The most of its turns: one that wakes takes less than it did at its start."""
        if self.empty is not None and alive():
            self.held[tenant] = alive, max(0, self.before - free, self.held.get(tenant, (alive, 0))[1])


class GpuTurns:
    """`read_free(gpu)` is the free memory in bytes, or None where it cannot be read: then there is no wait.

    What an engine of ours held must be free again after its end before the next starts; what others of ours hold,
    that run or sleep on the same GPU, is theirs and not waited for.
    """

    def __init__(self, read_free: ReadFree = _unknown, *, settle_wait: float = 60.0, read_period: float = 0.5) -> None:
        self._read_free, self._settle_wait, self._read_period = read_free, settle_wait, read_period
        self._gpus: dict[str, _Gpu] = {}

    @contextlib.asynccontextmanager
    async def turn(self, gpus: Sequence[str], tenant: str, alive: Callable[[], bool]) -> AsyncIterator[None]:
        """Hold these GPUs while `tenant` starts or wakes; `alive()`: does its process live? Asked later, too.

        Always taken in the same order, so that two engines cannot wait for each other.
        """
        async with contextlib.AsyncExitStack() as stack:
            names = sorted(set(gpus))
            for name in names:
                await stack.enter_async_context(self._gpus.setdefault(name, _Gpu()).lock)
            await asyncio.gather(*(self._settle(name) for name in names))
            yield
            for name in names:
                free = await asyncio.to_thread(self._read_free, name)
                if free is not None:
                    self._gpus[name].took(tenant, alive, free)

    async def _settle(self, name: str) -> None:
        gpu, readings = self._gpus[name], list[int]()
        try:
            async with asyncio.timeout(self._settle_wait):
                while not (settled(readings) and readings[-1] >= gpu.required()):
                    # In a thread: a driver call can take a second while memory is being freed.
                    free = await asyncio.to_thread(self._read_free, name)
                    if free is None:
                        return
                    readings.append(free)
                    await asyncio.sleep(self._read_period)
        except TimeoutError:
            log.warning(
                "GPU %s: after %g s %.1f GiB are free, and %.1f were expected now that an engine has ended there; "
                "starting anyway. Is another program using it (nvidia-smi)?",
                name,
                self._settle_wait,
                (readings or [0])[-1] / GIB,
                max(0, gpu.required()) / GIB,
            )
        if readings:
            gpu.settled_at(readings[-1])
