"""What stands around the open files of one room: their skeletons, the runways of places that an editor told of, and a
search for similar snippets beside the room.

A search may have to read the whole tree first, so it is a task of its own, one at a time; saves do not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aicockpit.prompts.similar import CHUNK_LINES
from aicockpit.workspace.builds import MAX_FILE, Similar, Snapshot, Sought
from aicockpit.workspace.desk import Desk
from aicockpit.workspace.track import Track
from aicockpit.workspace.troubles import failure, foreseen, meaning

logger = logging.getLogger(__name__)

# So often the wait after a search that failed is doubled: each try may cost the builder's process its life.
_MOST_DOUBLED = 5


@dataclass(slots=True, eq=False)
class Search:
    """One in work. `done` of `total` files of the tree are read."""

    track: Track
    path: str
    words: frozenset[str]
    done: int = 0
    total: int = 0
    task: asyncio.Task[Similar] | None = None


class Surroundings:
    """See the module. `snapshot` gives the tree as it is now, `ring` wakes the room."""

    def __init__(self, desk: Desk, repo: str, snapshot: Callable[[], Snapshot], ring: Callable[[], None]) -> None:
        self._desk, self._repo, self._snapshot, self._ring = desk, repo, snapshot, ring
        self.search: Search | None = None
        self._fails = 0

    async def close(self) -> None:
        """End the search."""
        if self.search is not None and self.search.task is not None:
            self.search.task.cancel()
            await asyncio.wait([self.search.task])

    def take(self) -> None:
        """What a finished search found belongs to its file now."""
        search = self.search
        if search is None or search.task is None or not search.task.done():
            return
        self.search = None
        opened = search.track.open.get(search.path)
        if (error := failure(search.task)) is not None:
            why = meaning(error)
            wait_s = self._desk.limits.retry_s * 2 ** min(self._fails, _MOST_DOUBLED)
            self._fails += 1
            if opened is not None:
                opened.lookout.fail(why, self._desk.clock() + wait_s)
            level, info = (logging.WARNING, None) if foreseen(error) else (logging.ERROR, error)
            told = "workspace %s: no similar snippets: %s; next try in %g s"
            logger.log(level, told, self._repo, why, wait_s, exc_info=info)
            return
        self._fails = 0
        if opened is not None:
            opened.lookout.take(self._desk.clock(), search.words, search.task.result())

    async def attend(self, track: Track, survey: Callable[[], Snapshot], files: Mapping[str, bytes]) -> None:
        """Cut the runways and make the skeletons that are due for one track. `survey`: the tree that was analysed.

        Raises BuildFailed.
        """
        for path, saved, line, begun in track.landings(files):
            runway = await self._desk.builder.runway(track.spec, path, saved, line, begun)
            track.open.land(path, saved, line, runway)
        for path, epoch in track.near_due(files, self._desk.sight):
            content, size = files.get(path), track.budget.neighbourhood
            without = frozenset(item.path for item in epoch.pack.items)
            found = await self._desk.builder.near(survey(), track.spec, path, content, size, without)
            track.near_made(path, epoch.serial, content, found)

    async def look(self, track: Track, files: Mapping[str, bytes]) -> None:
        """Begin a search where somebody has moved on, if none is in work."""
        if self.search is not None or not track.searches:
            return
        now, limits = self._desk.clock(), self._desk.limits
        packed = track.packed(files)
        for path in track.open.look_due(files, packed, track.budget.similar, now):
            opened = track.open.get(path)
            if opened is None:
                continue
            lookout = opened.lookout
            if (line := lookout.line) is not None:
                text = await self._stored(files.get(path), line)
                if lookout.line == line:
                    lookout.place = text
                elif lookout.line is not None:  # the cursor moved on meanwhile
                    continue
            words = lookout.look(now, limits.search_s)
            if not words:
                continue
            lookout.begin(now, limits.search_s, limits.search_most_s)
            own = files.get(path)
            told = tuple((entry.path, entry.text) for entry in track.epochs[0].entries)
            without = packed if own is None else packed | {own}
            self._begin(track, Sought(path, words, track.budget.similar, without, told))
            return

    def _begin(self, track: Track, sought: Sought) -> None:
        search = self.search = Search(track, sought.path, sought.query)

        def report(done: int, total: int) -> None:
            search.done, search.total = done, total

        work = self._desk.builder.similar(self._snapshot(), track.spec, sought, report)
        search.task = asyncio.create_task(work, name=f"search {self._repo}")
        search.task.add_done_callback(lambda _: self._ring())

    async def _stored(self, content: bytes | None, line: int) -> str:
        """The text of a stored file up to a line, as far back as a search looks."""
        data = None if content is None else await asyncio.to_thread(self._desk.store.blob, content)
        if data is None or len(data) > MAX_FILE:
            return ""
        lines = data.decode("utf-8", "replace").split("\n")[:line]
        return "\n".join(lines[-CHUNK_LINES:])
