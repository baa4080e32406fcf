"""One workspace while it is in use: its files as the store has them, its tracks, and the one task that changes them.

The task waits for its bell (a save, an open file, a report of a prefetcher, a finished build) or for the next idle
time; then it reads what changed, lets journals grow, starts and takes builds, and keeps what a restart needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sqlite3
import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, time, timedelta

from aicockpit.errors import AicockpitError
from aicockpit.prompts.chat import system_text
from aicockpit.workspace import saved
from aicockpit.workspace.budget import budget, wanted
from aicockpit.workspace.builds import KINDS, BuildFailed, Built, Kind, ModelSpec, Snapshot
from aicockpit.workspace.census import Census
from aicockpit.workspace.desk import Desk
from aicockpit.workspace.epoch import Epoch, chat_chain, with_version
from aicockpit.workspace.manifest import File
from aicockpit.workspace.store import Info
from aicockpit.workspace.surroundings import Surroundings
from aicockpit.workspace.track import Building, Rendered, Track

logger = logging.getLogger(__name__)

# So many changed files are read one by one; more of them as the whole tree.
_ONE_BY_ONE = 200
# How often (seconds) a room looks whether what is overdue can be done.
_OVERDUE_S = 1.0
# A new day is noticed so soon (seconds) also on a machine that was suspended over midnight.
_DAY_S = 60.0


class Room:
    """See the module. Everything here belongs to the task of `launch`, but for the reading `head` and `status`."""

    def __init__(self, info: Info, desk: Desk) -> None:
        self.id, self.repo, self.desk = info.id, info.name, desk
        self.used = self.last_save = desk.clock()
        self.tracks: dict[tuple[str, Kind], Track] = {}
        self.absent: dict[str, str] = {}
        self.refused: dict[tuple[str, Kind], str] = {}
        self.files: dict[str, File] = {}
        self.hashes: dict[str, bytes] = {}
        self.census = Census(info.name)
        self._all, self._dirty = True, set[str]()
        self._ready = False
        # Open files: the model that they are open for ("": any), and the line of the cursor.
        self._focus: dict[str, tuple[str, int | None]] = {}
        self._snapshot: Snapshot | None = None
        self._surveyed: Snapshot | None = None
        self._retry_at = 0.0
        self._bell = asyncio.Event()
        self.surroundings = Surroundings(desk, info.name, self._tree, self.ring)
        self._task: asyncio.Task[None] | None = None
        self._dropped: set[asyncio.Task[Built]] = set()

    # From outside; none of these waits.

    def launch(self) -> None:
        # A context of its own: the request that happened to begin it must not stand in its log lines.
        context = contextvars.Context()
        self._task = asyncio.create_task(self._run(), name=f"workspace {self.repo}", context=context)
        self._task.add_done_callback(_tell_defect)

    def changed(self, paths: Collection[str] | None) -> None:
        """Other content is in the store; None: look at the whole tree."""
        if paths is None or len(paths) > _ONE_BY_ONE:
            self._all = True
        else:
            self._dirty.update(paths)
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

    async def close(self) -> None:
        """End its task and its builds."""
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
                self._retry_at = self.desk.clock() + self.desk.limits.retry_s
                logger.warning("workspace %s: %s; next try in %g s", self.repo, error, self.desk.limits.retry_s)
            else:
                self._retry_at = 0.0
            self.desk.changed()
            await self._pause()

    async def _turn(self) -> None:
        await self._refresh()
        self.surroundings.take()
        specs = {spec.name: spec for spec in self.desk.models()}
        for key, track in list(self.tracks.items()):
            spec = specs.get(key[0])
            if spec is None or (spec.folder, spec.fim) != (track.spec.folder, track.spec.fim):
                if track.building is not None and track.building.task is not None:
                    self._drop(track.building.task)
                del self.tracks[key]
            else:
                track.spec = spec
        for spec in specs.values():
            await self._open(spec)
        for track in list(self.tracks.values()):
            try:
                await self._attend(track)
            except BuildFailed as error:
                self._stuck(track, error)

    async def _pause(self) -> None:
        due = [at for track in self.tracks.values() if (at := track.idle_at(self.last_save)) is not None]
        due += [track.render_at for track in self.tracks.values() if track.render_at]
        if any(track.rendered for track in self.tracks.values()):
            due.append(self.desk.clock() + min(_DAY_S, _left_of_day(self.desk.today())))
        if self.surroundings.search is None:
            due += [at for track in self.tracks.values() if (at := track.look_at()) is not None]
        if self._retry_at:
            due.append(self._retry_at)
        now = self.desk.clock()
        # What is overdue waits for something that rings the bell, mostly; looked at now and then all the same.
        wait = min(at - now if at > now else _OVERDUE_S for at in due) if due else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._bell.wait()

    async def _refresh(self) -> None:
        """Read from the store what changed: whatever order the news came in, the store has the truth."""
        if not (self._all or self._dirty):
            return
        whole, dirty = self._all, self._dirty
        self._all, self._dirty = False, set()
        store, id = self.desk.store, self.id
        try:
            if whole:
                now = {file.path: file for file in await asyncio.to_thread(store.files, id)}
                changed = {
                    path for path in now.keys() | self.files.keys() if _hash(now, path) != _hash(self.files, path)
                }
            else:
                read = await asyncio.to_thread(lambda: {path: store.file(id, path) for path in dirty})
                now = {path: file for path, file in read.items() if file is not None}
                changed = {path for path in dirty if _hash(now, path) != _hash(self.files, path)}
        except BaseException:
            self._all |= whole
            self._dirty |= dirty
            raise
        if whole:
            self.files, self.hashes = now, {path: file.hash for path, file in now.items()}
        else:
            for path in changed:
                if path in now:
                    self.files[path], self.hashes[path] = now[path], now[path].hash
                else:
                    self.files.pop(path, None)
                    self.hashes.pop(path, None)
        if changed:
            self._snapshot = None
            self.census.changed()
            if self._ready:
                for track in self.tracks.values():
                    track.saved(changed, self.hashes, self.last_save)
        self._ready = True

    async def _open(self, spec: ModelSpec) -> None:
        """Tracks for a model that is new here."""
        if all((spec.name, kind) in self.tracks or (spec.name, kind) in self.refused for kind in KINDS):
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
        for kind in KINDS:
            sizes = wanted(self.desk.worth(spec.name, kind), spec.max_model_len, spec.budget)
            if not sizes.total:
                self.refused[spec.name, kind] = "; ".join(sizes.reasons) or "the table gives this lane no context"
                continue
            track = Track(self.id, spec, kind, described, sizes, self.desk.limits)
            await self._restore(track)
            for path, (model, line) in self._focus.items():
                if model in ("", spec.name):
                    track.open.focus(path, line)
            self.tracks[spec.name, kind] = track

    async def _attend(self, track: Track) -> None:
        """All that is due for one track."""
        desk, sight = self.desk, self.desk.sight
        lanes = sum(key[0] == track.spec.name for key in self.tracks)
        worth = desk.worth(track.spec.name, track.kind)
        kv = sight.kv(track.spec.name)
        track.budget = budget(worth, track.spec.max_model_len, kv, track.spec.budget, desk.rooms(), lanes)
        self._take(track)
        for epoch in list(track.epochs):
            await self._journal(track, epoch)
        desk.changed()  # a save is warmed while the rest is done
        if why := track.why_build(desk.clock(), self.last_save, sight):
            self._build(track, why)
        await self._render(track)
        if desk.clock() >= track.retry_at:
            await self.surroundings.attend(track, self._survey, self.hashes)
            await self.surroundings.look(track, self.hashes)
        track.renew_near(sight)
        track.prune(sight)
        track.measure(sight, desk.clock())
        await self._keep(track)

    async def _journal(self, track: Track, epoch: Epoch) -> None:
        changes = track.to_say(epoch, self.hashes)
        if changes and self.desk.clock() >= track.retry_at:
            made = await self.desk.builder.journal(track.spec, track.kind, changes, self.desk.limits.lines)
            track.say(epoch.serial, made, self.last_save)

    def _build(self, track: Track, why: str) -> None:
        if track.building is not None and track.building.task is not None:
            self._drop(track.building.task)
        building = Building(self._tree(), dict(self.hashes), track.budget, why)
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

    def _take(self, track: Track) -> None:
        building = track.building
        if building is None or building.task is None or not building.task.done():
            return
        track.building = None
        try:
            built = building.task.result()
        except BuildFailed as error:
            self._stuck(track, error)
            return
        self._surveyed = building.snapshot
        track.take(built, building)

    def _stuck(self, track: Track, error: BuildFailed) -> None:
        """Said in the status; the others go on, and this one is tried again later."""
        track.problem = f"stuck: {error}"
        track.retry_at = self.desk.clock() + self.desk.limits.retry_s
        logger.warning("workspace %s, %s of %s: %s", self.repo, track.kind, track.spec.name, track.problem)

    async def _render(self, track: Track) -> None:
        """Chat: the engine says which tokens the message is. Tried again later when it cannot.

        On another day they may be others: some templates print the date in front of it.
        """
        now, day = self.desk.clock(), self.desk.today().date()
        if track.kind != "chat" or now < track.render_at:
            return
        track.render_at = 0.0
        for place, epoch in enumerate(track.epochs):
            before = track.rendered.get(epoch.serial)
            if epoch.chains and before is not None and before.entries is epoch.entries and before.day == day:
                continue
            engine = next(
                (name for name in self.desk.sight.serving(track.spec.name) if self.desk.sight.ready(name)), ""
            )
            if not engine:
                track.render_at = now + self.desk.limits.render_retry_s
                return
            items = [(item.path, item.text) for item in epoch.pack.items]
            items += [(entry.path, entry.text) for entry in epoch.entries]
            text = system_text(items, self.repo, track.described.specials)
            try:
                tokens = await self.desk.render(engine, track.spec.name, text) if text else ()
            except AicockpitError as error:
                track.render_at = now + self.desk.limits.render_retry_s
                track.problem = f"{engine} did not render the chat: {error}"
                return
            if track.problem and not track.retry_at:
                track.problem = ""
            track.rendered[epoch.serial] = Rendered(epoch.entries, day)
            if epoch.newest is not None and epoch.newest.tokens == tokens:
                continue
            if before is not None and before.day != day:  # no request begins with what was rendered then
                epoch = replace(epoch, chains=())
            track.epochs[place] = with_version(epoch, chat_chain(tokens, epoch.pack, epoch.entries, text))

    def _tree(self) -> Snapshot:
        """The files as they are now."""
        if self._snapshot is None:
            # The builder outlives a room: no tag may ever mean another tree.
            self._snapshot = Snapshot(f"{self.id}/{uuid.uuid4().hex}", self.repo, dict(self.files))
        return self._snapshot

    def _survey(self) -> Snapshot:
        """The files as they were when a pack was built last: the builder has those at hand."""
        self._surveyed = self._surveyed or self._tree()
        return self._surveyed

    # What a restart needs.

    def _made(self, track: Track) -> saved.Made:
        known = track.described
        made = wanted(self.desk.worth(track.spec.name, track.kind), None, track.spec.budget)
        sizes = (made.pack, made.journal, made.neighbourhood)  # what a pack was made for: no snippets
        return saved.Made(known.fingerprint, known.style, self.repo, sizes)

    async def _restore(self, track: Track) -> None:
        store, names = self.desk.store, _names(track)
        data, journal = [await asyncio.to_thread(store.get_state, self.id, name) for name in names]
        if data is None:
            return
        try:
            epoch = await asyncio.to_thread(saved.load_epoch, data, journal, self._made(track), 0)
        except saved.StateUnusable as error:
            logger.info("workspace %s, %s of %s: built anew: %s", self.repo, track.kind, track.spec.name, error)
            for name in names:
                await asyncio.to_thread(store.put_state, self.id, name, None)
            return
        track.restore(epoch, self.hashes)

    async def _keep(self, track: Track) -> None:
        """Persist the epoch that serves (or the newest, while none does), and its journal."""
        if not track.epochs:
            return
        epoch = track.in_service(self.desk.sight)[0]
        kept = track.kept
        if kept is not None and kept.said is epoch.said and kept.base is epoch.base and kept.serial == epoch.serial:
            return
        store, (name, journal) = self.desk.store, _names(track)
        if not epoch.tag or kept is None or kept.tag != epoch.tag:
            data = await asyncio.to_thread(saved.dump_epoch, epoch, self._made(track))
            await asyncio.to_thread(store.put_state, self.id, name, data)
            epoch = replace(epoch, tag=saved.tag_of(data))
            track.epochs = [epoch if one.serial == epoch.serial else one for one in track.epochs]
        data = await asyncio.to_thread(saved.dump_journal, epoch)
        await asyncio.to_thread(store.put_state, self.id, journal, data)
        track.kept = epoch


def _names(track: Track) -> tuple[str, str]:
    return f"epoch/{track.kind}/{track.spec.name}", f"journal/{track.kind}/{track.spec.name}"


def _left_of_day(now: datetime) -> float:
    """Seconds to midnight, and a little more."""
    return (datetime.combine(now.date() + timedelta(days=1), time()) - now).total_seconds() + 0.01


def _hash(files: dict[str, File], path: str) -> bytes | None:
    file = files.get(path)
    return file.hash if file else None


def _tell_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a workspace's task ended by a defect", exc_info=error)
