"""Who waits for whom: background work behind interactive work, an old request behind a newer one in its slot.

vLLM's own priority orders its waiting queue only; it does not protect an interactive request from a long prefill
that already runs (docs/engines.md). So background work waits here, before the engine sees it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aicockpit.errors import ApiError, BadRequest, Overloaded, Superseded
from aicockpit.types import Lane

MAX_SLOT = 128


def parse_lane(value: bytes, default: Lane) -> Lane:
    """The header `X-AiCockpit-Lane`. Raises BadRequest naming the lanes."""
    if not value:
        return default
    try:
        return Lane(value.decode("ascii", "replace").strip().lower())
    except ValueError as error:
        names = ", ".join(Lane)
        raise BadRequest(f"X-AiCockpit-Lane must be one of: {names}", code="unknown_lane") from error


def parse_slot(value: bytes) -> bytes:
    """The header `X-AiCockpit-Slot`. Raises BadRequest when it is too long."""
    if len(value) > MAX_SLOT:
        raise BadRequest(f"X-AiCockpit-Slot is longer than {MAX_SLOT} bytes", code="slot_too_long")
    return value


class WaitingRoom:
    """Background requests waiting for their turn, first come first served, each until its own deadline."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._queue: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    async def turn(self, again: bool, deadline: float | None) -> None:
        """Return when it may be worth choosing again. `again`: it had its turn in vain and keeps its place.

        `deadline` is on the event loop's clock. Raises Overloaded when the room is full or the deadline passes.
        """
        if len(self._queue) >= self.size and not again:
            raise Overloaded(f"{self.size} background requests are waiting already", headers=((b"retry-after", b"5"),))
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if again:
            self._queue.appendleft(ticket)
        else:
            self._queue.append(ticket)
        try:
            async with asyncio.timeout_at(deadline):
                await ticket
        except TimeoutError as error:
            self._give_up(ticket)
            message = "background work waited behind interactive work for too long (AICOCKPIT_BACKGROUND_WAIT)"
            raise Overloaded(message, headers=((b"retry-after", b"10"),)) from error
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise

    def wake(self) -> None:
        """Something ended or changed: the first in line may look again."""
        while self._queue:
            ticket = self._queue.popleft()
            if not ticket.done():
                ticket.set_result(None)
                return

    def _give_up(self, ticket: asyncio.Future[None]) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)
        else:  # its turn had come: the next one's now
            self.wake()


class Cancellable:
    """A request's task, and what its client is told if it is cancelled; one that leaves is told nothing."""

    __slots__ = ("reason", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.reason: ApiError | None = None

    def cancel(self, reason: ApiError) -> None:
        if self.reason is None and not self.task.done():
            self.reason = reason
            self.task.cancel()


class Slots:
    """The request in work per (key, slot): a newer one cancels the older at once."""

    def __init__(self) -> None:
        self._busy: dict[tuple[str, bytes], Cancellable] = {}

    def take(self, key_id: str, slot: bytes, request: Cancellable) -> None:
        older = self._busy.get((key_id, slot))
        self._busy[key_id, slot] = request
        if older is not None:
            older.cancel(Superseded("a newer request in the same X-AiCockpit-Slot took its place"))

    def leave(self, key_id: str, slot: bytes, request: Cancellable) -> None:
        if self._busy.get((key_id, slot)) is request:
            del self._busy[key_id, slot]

    def __len__(self) -> int:
        return len(self._busy)
