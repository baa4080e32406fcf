"""A request for a model that is not in memory waits until it is: the forwarder's side of `engines/swapper.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aicockpit.engines.engine import Engine


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
    away = [engine for engine in left if engine.wakeable or engine.coming_back]
    if not away or any(engine.ready for engine in left):
        return False
    await waker.wake(away)
    return True
