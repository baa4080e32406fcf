"""One workspace while it is in use: its files as the store has them, its tracks, and the one task that changes them.

The task waits for its bell (a save, an open file, a report of a prefetcher, a finished build) or for the next idle
time; then it reads what changed, lets journals grow, starts and takes builds, and keeps what a restart needs. What
fails is told in the status and tried again, a defect too: that of a lane leaves the others alone, that of the task has
it launched anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sqlite3
from collections.abc import Collection, Mapping
from datetime import datetime, time, timedelta

from aicockpit.errors import AicockpitError
from aicockpit.workspace.budget import budget, wanted
from aicockpit.workspace.builds import KINDS, BuildFailed, Built, Described, Kind, ModelSpec, Snapshot
from aicockpit.workspace.care import Care
from aicockpit.workspace.census import Census
from aicockpit.workspace.chats import Chats
from aicockpit.workspace.desk import Desk
from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.kept import Kept
from aicockpit.workspace.manifest import File
from aicockpit.workspace.store import Info
from aicockpit.workspace.surroundings import Surroundings
from aicockpit.workspace.track import Building, Track
from aicockpit.workspace.tree import MANY, Tree, portions
from aicockpit.workspace.troubles import Troubles, failure, foreseen, meaning, outcome

logger = logging.getLogger(__name__)

# How often (seconds) a room looks whether what is overdue can be done.
_OVERDUE_S = 1.0
# A new day is noticed so soon (seconds) also on a machine that was suspended over midnight.
_DAY_S = 60.0
_Key = tuple[str, Kind]


class Room:
    """See the module. Everything here belongs to the task of `launch`, but for the reading `head` and `status`."""

    def __init__(self, info: Info, desk: Desk) -> None:
        self.id, self.repo, self.desk = info.id, info.name, desk
        self.used = self.last_save = desk.clock()
        self.tracks: dict[_Key, Track] = {}
        self.absent: dict[str, str] = {}
        self.refused: dict[_Key, str] = {}
        self.tree = Tree(desk.store, info)
        # Open files: the model that they are open for ("": any), and the line of the cursor.
        self._focus: dict[str, tuple[str, int | None]] = {}
        self._surveyed: Snapshot | None = None
        self._bell = asyncio.Event()
        self._chats, self._kept = Chats(desk, info.name), Kept(desk, info.id, info.name)
        self.surroundings = Surroundings(desk, info.name, self.tree.snapshot, self.ring)
        self._specs: dict[str, ModelSpec] = {}
        self._cares: dict[_Key, Care] = {}
        # Chat lanes that no engine renders.
        self._mute: set[_Key] = set()
        self._troubles = Troubles(desk.clock)
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self._dropped: set[asyncio.Task[Built]] = set()

    # From outside; none of these waits.

    def launch(self) -> None:
        # A context of its own: the request that happened to begin it must not stand in its log lines.
        context = contextvars.Context()
        self._again = None
        self._task = asyncio.create_task(self._run(), name=f"workspace {self.repo}", context=context)
        self._task.add_done_callback(self._ended)

    def changed(self, paths: Collection[str] | None) -> None:
        """Other content is in the store; None: look at the whole tree."""
        self.tree.touch(paths)
        self.last_save = self.desk.clock()
        self.ring()

    def focus(self, path: str, model: str = "", line: int | None = None) -> None:
        """A file is open in an editor, for one model or for all; its cursor is at `line`, from 1, if that is known."""
        self._focus.pop(path, None)
        self._focus[path] = model, line
        while len(self._focus) > self.desk.limits.focuses:
            del self._focus[next(iter(self._focus))]
        tracks = [track for (name, _), track in self.tracks.items() if model in ("", name)]
        news = [track.open.focus(path, line) for track in tracks]
        if any(news):
            self.ring()

    def ring(self) -> None:
        self._bell.set()

    @property
    def files(self) -> Mapping[str, File]:
        return self.tree.files

    @property
    def census(self) -> Census:
        return self.tree.census

    @property
    def problem(self) -> str:
        """Why nothing goes on, and when it will be tried again; "" while it does."""
        return self._troubles.told()

    def halted(self, track: Track) -> str:
        """Why a lane does not go on at all; "" while it does."""
        care = self._cares.get((track.spec.name, track.kind))
        return self.problem or (care.troubles.told("lane") if care else "")

    async def close(self) -> None:
        """End its task and its builds."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        builds = {track.building.task for track in self.tracks.values() if track.building and track.building.task}
        tasks = [task for task in (self._task, *builds, *self._dropped) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.surroundings.close()

    # The task.

    async def _run(self) -> None:
        while True:
            self._bell.clear()
            try:
                await self._turn()
            except (AicockpitError, OSError, sqlite3.Error) as error:
                told = self._troubles.fail("turn", f"stuck: {error}", self.desk.limits.retry_s)
                logger.warning("workspace %s: %s", self.repo, told)
            else:
                self._troubles.clear()
            self.desk.changed()
            await self._pause()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """It never ends by itself: it was closed, or it has a defect."""
        error = failure(task)
        if self._closed or error is None:
            return
        told = self._troubles.fail("task", f"stuck: {meaning(error)}", self.desk.limits.retry_s)
        logger.error("workspace %s: %s", self.repo, told, exc_info=error)
        self.tree.doubt()
        self._again = asyncio.get_running_loop().call_later(
            max(0.0, self._troubles.at("task") - self.desk.clock()), self.launch
        )

    async def _turn(self) -> None:
        changed = await self.tree.refresh()
        for part in portions(changed):
            for track in self.tracks.values():
                track.saved(part, self.tree.hashes, self.last_save)
            if len(changed) > MANY:
                await asyncio.sleep(0)
        self.surroundings.take()
        specs = {spec.name: spec for spec in self.desk.models()}
        self._follow(specs)
        for spec in specs.values():
            await self._open(spec)
        for key, track in list(self.tracks.items()):
            care = self._cares[key]
            if care.troubles.due("lane"):
                error = await outcome(self._attend(track, care), f"lane of {self.repo}")
                if error is not None:
                    # What was foreseen is the store's, mostly: saves are warmed all the same.
                    care.failed("store" if foreseen(error) else "lane", error)
                else:
                    care.troubles.well("lane")
                    care.troubles.well("store")
            track.problem = care.troubles.told()

    async def _pause(self) -> None:
        due = [at for track in self.tracks.values() if (at := track.idle_at(self.last_save)) is not None]
        due += [track.render_at for track in self.tracks.values() if track.render_at]
        if any(track.rendered for track in self.tracks.values()):
            due.append(self.desk.clock() + min(_DAY_S, _left_of_day(self.desk.today())))
        if self.surroundings.search is None:
            due += [at for track in self.tracks.values() if (at := track.look_at()) is not None]
        due += [at for one in (self._troubles, *(care.troubles for care in self._cares.values())) for at in one.waits()]
        now = self.desk.clock()
        # What is overdue waits for something that rings the bell, mostly; looked at now and then all the same.
        wait = min(at - now if at > now else _OVERDUE_S for at in due) if due else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._bell.wait()

    # Models come and go.

    def _follow(self, specs: Mapping[str, ModelSpec]) -> None:
        """These are served now: nothing is told of others, and what one was refused for may have changed."""
        for key, track in list(self.tracks.items()):
            spec = specs.get(key[0])
            if (
                spec is None
                or key[1] not in spec.kinds
                or (spec.folder, spec.fim) != (track.spec.folder, track.spec.fim)
            ):
                self._part(track)
            else:
                track.spec = spec
        same = {name for name, spec in specs.items() if self._specs.get(name) == spec}
        heard = {key for key in self._mute if not self._chats.refusal(key[0])}
        self.refused = {key: why for key, why in self.refused.items() if key[0] in same and key not in heard}
        self._mute &= self.refused.keys()
        left = [(name, kind) for name, spec in specs.items() for kind in KINDS if kind not in spec.kinds]
        self.refused |= dict.fromkeys(left, "its role in the fleet leaves this lane out")
        self.absent = {name: why for name, why in self.absent.items() if name in specs}
        self._chats.forget(specs)
        self._specs = dict(specs)

    def _part(self, track: Track) -> None:
        if track.building is not None and track.building.task is not None:
            self._drop(track.building.task)
        del self.tracks[track.spec.name, track.kind], self._cares[track.spec.name, track.kind]

    async def _open(self, spec: ModelSpec) -> None:
        """Tracks for a model that is new here."""
        lacking = [kind for kind in spec.kinds if not {(spec.name, kind)} & (self.tracks.keys() | self.refused.keys())]
        if not lacking:
            return
        if spec.folder is None:
            self.absent[spec.name] = spec.why_not or "its tokenizer is not known here"
            return
        try:
            described = await self.desk.builder.describe(spec)
        except BuildFailed as error:
            self.absent[spec.name] = str(error)
            return
        self.absent.pop(spec.name, None)
        for kind in lacking:
            await self._begin(spec, kind, described)

    async def _begin(self, spec: ModelSpec, kind: Kind, described: Described) -> None:
        sizes = wanted(self.desk.worth(spec.name, kind), spec.max_model_len, spec.budget)
        if not sizes.total:
            self.refused[spec.name, kind] = "; ".join(sizes.reasons) or "the table gives this lane no context"
            return
        if kind == "chat" and (why := self._chats.refusal(spec.name)):
            self._refuse(spec.name, kind, why)
            return
        track = Track(self.id, spec, kind, described, sizes, self.desk.limits)
        await self._kept.restore(track, self.tree.hashes)
        for path, (model, line) in self._focus.items():
            if model in ("", spec.name):
                track.open.focus(path, line)
        self.tracks[spec.name, kind], self._cares[spec.name, kind] = (
            track,
            Care(track, self.repo, Troubles(self.desk.clock)),
        )

    def _refuse(self, model: str, kind: Kind, why: str) -> None:
        """No engine renders it: it takes no share of a cache until one may."""
        self.refused[model, kind] = why
        self._mute.add((model, kind))
        logger.warning("workspace %s, %s of %s: no context: %s", self.repo, kind, model, why)
        if (track := self.tracks.get((model, kind))) is not None:
            self._part(track)
            self.ring()  # the other lane has the share now

    # One lane.

    async def _attend(self, track: Track, care: Care) -> None:
        """All that is due for one track."""
        desk, sight, model = self.desk, self.desk.sight, track.spec.name
        lanes = sum(key[0] == model for key in self.tracks)
        worth, kv = desk.worth(model, track.kind), sight.kv(model)
        track.budget = budget(worth, track.spec.max_model_len, kv, track.spec.budget, desk.rooms(), lanes)
        self._take(track, care)
        await self._recall(track, care)
        due = care.troubles.due("journal")
        try:
            for epoch in list(track.epochs):
                await self._journal(track, care, epoch, due)
            if due:
                care.troubles.well("journal")
        except BuildFailed as error:
            care.failed("journal", error)
        desk.changed()  # a save is warmed while the rest is done
        self._build(track, care)
        await self._chats.render(track, care.troubles)
        if track.kind == "chat" and (why := self._chats.refusal(model)):
            self._refuse(model, track.kind, why)
            return
        if care.troubles.due("near"):
            try:
                await self.surroundings.attend(track, self._survey, self.tree.hashes)
                care.troubles.well("near")
            except BuildFailed as error:
                care.failed("near", error)
        await self.surroundings.look(track, self.tree.hashes)
        track.renew_near(sight)
        track.prune(sight)
        track.measure(sight, desk.clock())
        care.tell_warmth(sight)
        await self._kept.keep(track)

    async def _recall(self, track: Track, care: Care) -> None:
        building = track.building
        if await care.recall(self.tree, self.desk.sight):
            if building is not None and building.task is not None:
                self._drop(building.task)
            logger.info("workspace %s, %s of %s: as it was before", self.repo, track.kind, track.spec.name)

    async def _journal(self, track: Track, care: Care, epoch: Epoch, due: bool) -> None:
        changes = await care.to_say(epoch, self.tree)
        if changes and due:
            limits = self.desk.limits
            made = await self.desk.builder.journal(track.spec, track.kind, changes, limits.lines)
            track.say(epoch.serial, made, self.last_save)

    def _build(self, track: Track, care: Care) -> None:
        """Begin a build if one is due."""
        why = track.why_build(self.desk.clock(), self.last_save, self.desk.sight)
        if not why:
            if track.building is None and care.troubles.due("build"):  # what failed is not needed any more
                care.troubles.well("build")
                track.retry_at = 0.0
            return
        care.troubles.trying("build")
        track.retry_at = 0.0
        if track.building is not None and track.building.task is not None:
            self._drop(track.building.task)
        building = Building(self.tree.snapshot(), self.tree.lend(), track.budget, why)
        track.building = building
        self.census.tell(self.files)

        def report(done: int, total: int) -> None:
            building.done, building.total = done, total

        work = self.desk.builder.build(building.snapshot, track.spec, track.kind, track.budget.pack, report)
        building.task = asyncio.create_task(work, name=f"build {self.repo} {track.kind}")
        building.task.add_done_callback(lambda _: self.ring())
        logger.info("workspace %s, %s of %s: building a pack: %s", self.repo, track.kind, track.spec.name, why)

    def _drop(self, task: asyncio.Task[Built]) -> None:
        task.cancel()
        self._dropped.add(task)
        task.add_done_callback(self._dropped.discard)

    def _take(self, track: Track, care: Care) -> None:
        building = track.building
        if building is None or building.task is None or not building.task.done():
            return
        track.building = None
        if (error := failure(building.task)) is not None:
            care.failed("build", error)
            return
        care.troubles.well("build")
        self._surveyed = building.snapshot
        track.take(building.task.result(), building)

    def _survey(self) -> Snapshot:
        """The files as they were when a pack was built last: the builder has those at hand."""
        self._surveyed = self._surveyed or self.tree.snapshot()
        return self._surveyed


def _left_of_day(now: datetime) -> float:
    """Seconds to midnight, and a little more."""
    return (datetime.combine(now.date() + timedelta(days=1), time()) - now).total_seconds() + 0.01
