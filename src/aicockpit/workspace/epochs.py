"""All workspaces in use: which head a request gets, what the engines should keep warm. One per server.

The gateway calls `head` for a request, `changed`, `focus`, `status` and `deleted` for the API, and hands `report` to
each prefetcher. The work is done by the tasks of the rooms; nothing here waits but `restore` and `close`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from aicockpit.prompts import worth as worths
from aicockpit.workspace.budget import Worth
from aicockpit.workspace.builds import KINDS, Builds, Kind, ModelSpec
from aicockpit.workspace.desk import Desk, Render
from aicockpit.workspace.head import Head, Lacks
from aicockpit.workspace.manifest import Change
from aicockpit.workspace.room import Room
from aicockpit.workspace.sight import Prefetches, Sight, Warms
from aicockpit.workspace.status import status_of
from aicockpit.workspace.steps import Progress, Target
from aicockpit.workspace.store import Store
from aicockpit.workspace.track import EpochLimits, Track
from aicockpit.workspace.turns import Turns
from aicockpit.workspace.wishes import same, wishes

__all__ = ["Contexts", "EpochLimits", "Head", "ModelSpec", "Render"]

# The newest request counts this much in the mean of computed tokens.
_NEWEST = 0.2


class Contexts:
    """See the module. `models` and `prefetchers` are asked again and again, so both may change while this runs.

    `worth` is the table of budgets (model, lane); `clock` and `today` as in `desk.py`.
    """

    def __init__(
        self,
        store: Store,
        builder: Builds,
        warmth: Warms,
        prefetchers: Callable[[], Mapping[str, Prefetches]],
        models: Callable[[], Sequence[ModelSpec]],
        render: Render,
        *,
        worth: Callable[[str, str], Worth] | None = None,
        limits: EpochLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._store, self._clock, self._limits = store, clock, limits or EpochLimits()
        self.sight = Sight(warmth, prefetchers, clock)
        self._rooms: dict[int, Room] = {}
        self._sent: dict[str, list[Target]] = {}
        self._soon: asyncio.Handle | None = None
        self._turns = Turns()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._desk = Desk(
            store,
            builder,
            self.sight,
            render,
            models,
            worth or worths.shipped().lookup,
            self._sharing,
            self._retarget_soon,
            clock,
            today,
            self._limits,
        )

    # For the server.

    @property
    def idle(self) -> bool:
        """No workspace is in use."""
        return not self._rooms

    async def restore(self) -> None:
        """Go on with every workspace that an earlier run kept an epoch of, the one used last first."""
        names = [f"epoch/{kind}/{spec.name}" for spec in self._desk.models() for kind in KINDS]
        known = sorted(self._store.list(), key=lambda info: -info.used)
        kept = await asyncio.to_thread(
            lambda: [info.id for info in known if any(self._store.get_state(info.id, name) for name in names)]
        )
        kept = kept[: self._limits.rooms]
        now = self._clock()
        for id in kept:
            room = self._room(id)
            if room is not None:
                room.used = now - self._store.unused_s(id)

    async def close(self) -> None:
        """End every task. Nothing is lost: what a restart needs is in the store already."""
        self._closed = True
        if self._soon is not None:
            self._soon.cancel()
        rooms, self._rooms = list(self._rooms.values()), {}
        await asyncio.gather(*(room.close() for room in rooms), *self._closing)

    def report(self, target: Target, progress: Progress) -> None:
        """A prefetcher's news of one target."""
        self.sight.news()
        id = target.key[0]
        if isinstance(id, int) and (room := self._rooms.get(id)) is not None:
            room.ring()

    def engines_changed(self) -> None:
        """An engine came, went or restarted: every room looks again."""
        self._sent.clear()
        self.sight.news()
        for room in self._rooms.values():
            room.ring()
        self._retarget_soon()

    # For the API.

    async def changed(self, id: int, changes: Collection[Change]) -> None:
        """A manifest was applied."""
        room = self._use(id)
        if room is not None:
            room.changed([change.path for change in changes])

    async def focus(self, id: int, path: str, line: int | None = None, model: str | None = None) -> None:
        """This file is open: warm what it needs, for one model (by its first name) or for all.

        `line`, from 1, is where the cursor is in the file as it was saved last: what is like that place is warmed too,
        and the tail that a request there will have.
        """
        room = self._use(id)
        if room is not None:
            room.focus(path, model or "", line)

    async def deleted(self, id: int) -> None:
        """Forget a workspace. Its persisted epochs went with it in the store."""
        room = self._rooms.pop(id, None)
        if room is not None:
            await room.close()
            self._retarget_soon()

    def status(self, id: int) -> dict[str, Any]:
        """See `status.py`. A workspace that is not in use has no models in it."""
        room = self._rooms.get(id)
        if room is None:
            return {"models": {}, "reason": "not in use since the server started: the first request or save begins it"}
        return status_of(room, self.sight, self._clock())

    # For requests.

    def head(
        self, workspace_id: int, model: str, lane: Kind, path: str, engine_name: str, asked: int | None = None
    ) -> Head:
        """What stands in front of a request on one engine: never anything that the engine would have to compute.

        `path` is the open file ("" if not known), `asked` a limit in tokens (0: no context). An empty head says why.
        """
        if asked is not None and asked <= 0:
            return Head(reason="no context was asked for")
        room = self._use(workspace_id)
        if room is None:
            return Head(reason="there is no such workspace")
        track = room.tracks.get((model, lane))
        if track is None:
            why = room.refused.get((model, lane)) or room.absent.get(model)
            lacks = Lacks.BUDGET if (model, lane) in room.refused else Lacks.EPOCH
            return Head(reason=why or "warming 0 %", lacks=lacks)
        now = self._clock()
        if self._turns.asked((workspace_id, model), now):
            self._retarget_soon()
        if path and path not in track.open and track.open.has_room(now):
            room.focus(path, model)
        return track.head(engine_name, self.sight, path, asked)

    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...], prefix: str = "") -> None:
        """A completion of an open file has this tail: its runway when its head changes the next time.

        `prefix`: the text before its cursor, as the tail has it. What is like that place is looked for later, beside
        the requests.
        """
        room = self._rooms.get(workspace_id)
        track = room.tracks.get((model, "completion")) if room else None
        if room is not None and track is not None and track.open.seen(path, tail, prefix, self._clock()):
            room.ring()

    def finished(self, workspace_id: int, model: str, lane: Kind, uncached: int) -> None:
        """A request with a head has ended; `uncached` prompt tokens were computed. For the predicted time."""
        room = self._rooms.get(workspace_id)
        track = room.tracks.get((model, lane)) if room else None
        if track is not None:
            old = track.uncached
            track.uncached = float(uncached) if old is None else old + _NEWEST * (uncached - old)

    # Within.

    def _use(self, id: int) -> Room | None:
        room = self._rooms.get(id) or self._room(id)
        if room is not None:
            room.used = self._clock()
            self._store.touch(id)
        return room

    def _room(self, id: int) -> Room | None:
        """The room of a workspace, made if there is none. The one used longest ago makes way beyond the limit."""
        room = self._rooms.get(id)
        if room is not None or self._closed:
            return room
        info = self._store.info(id)
        if info is None:
            return None
        if len(self._rooms) >= self._limits.rooms:
            oldest = min(self._rooms.values(), key=lambda one: one.used)
            del self._rooms[oldest.id]
            task = asyncio.create_task(oldest.close(), name=f"close workspace {oldest.repo}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        room = self._rooms[id] = Room(info, self._desk)
        room.launch()
        return room

    def _sharing(self) -> int:
        """Workspaces that divide the KV caches: one that nobody works on is warmed with what the others leave."""
        since = self._clock() - self._limits.shared_s
        return max(1, sum(room.used >= since for room in self._rooms.values()))

    def _retarget_soon(self) -> None:
        if self._soon is None and not self._closed:
            self._soon = asyncio.get_running_loop().call_soon(self._retarget)

    def _retarget(self) -> None:
        """Tell each engine's prefetcher what to keep warm, if that is other than before."""
        self._soon = None
        tracks = self._in_order()
        prefetchers = self.sight.prefetchers()
        for name, prefetcher in prefetchers.items():
            names = prefetcher.engine.served_names
            targets = wishes([track for track in tracks if track.spec.name in names], name, self.sight)
            if name not in self._sent or not same(targets, self._sent[name]):
                self._sent[name] = targets
                prefetcher.set_targets(targets)
        for name in self._sent.keys() - prefetchers.keys():
            del self._sent[name]

    def _in_order(self) -> list[Track]:
        """Tracks by who was asked for last, workspaces without a request by their last use; completions before chat."""
        self._turns.keep(self._rooms)
        place = {key: number for number, key in enumerate(self._turns)}
        tracks = [track for room in self._rooms.values() for track in room.tracks.values()]
        return sorted(
            tracks,
            key=lambda one: (
                place.get((one.id, one.spec.name), len(place)),
                -self._rooms[one.id].used,
                KINDS.index(one.kind),
            ),
        )
