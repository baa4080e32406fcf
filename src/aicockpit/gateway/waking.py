"""A request for a model that is not in memory waits until it is: the forwarder's side of `engines/swapper.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from aicockpit.engines.engine import Engine

# A killed process is noticed sooner than this, on a machine that has something else to do too.
_NOTICE_S = 1.0
_LOOK_S = 0.02


class Waker(Protocol):
    """Brings models back into memory."""

    async def wake(self, engines: Sequence[Engine], /) -> None:
        """Wait until one of them is ready. Raises NotReady, Overloaded."""
        ...


async def awake(waker: Waker, engines: Sequence[Engine], tried: Sequence[Engine] = ()) -> bool:
    """Wait until an engine is back that can be brought back; False when there is nothing to wait for.

    `engines` serve the model, `tried` have just failed this request. Raises as `Waker.wake`.
    """
    left = [engine for engine in engines if engine not in tried]
    if left and all(engine.ready and engine.supervised and engine.breaker.open for engine in left):
        return await _gone(left)
    away = [engine for engine in left if engine.wakeable or engine.coming_back]
    if not away or any(engine.ready for engine in left):
        return False
    await waker.wake(away)
    return True


async def _gone(engines: Sequence[Engine]) -> bool:
    """Whether one of them, which all fail but count as ready, turns out to have died a moment ago."""
    until = time.monotonic() + _NOTICE_S
    while time.monotonic() < until:
        await asyncio.sleep(_LOOK_S)
        if not all(engine.ready for engine in engines):
            return True
    return False
