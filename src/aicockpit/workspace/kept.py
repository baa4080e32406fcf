"""What a restart needs of a room: the epoch of each lane and its journal, in the store. `room.py` calls it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

from aicockpit.workspace import saved
from aicockpit.workspace.budget import wanted
from aicockpit.workspace.desk import Desk
from aicockpit.workspace.track import Track

logger = logging.getLogger(__name__)


class Kept:
    """See the module. States of models that are not served now stay: whether one only sleeps is not known here."""

    def __init__(self, desk: Desk, id: int, repo: str) -> None:
        self._desk, self._id, self._repo = desk, id, repo

    async def restore(self, track: Track, files: Mapping[str, bytes]) -> None:
        """Give a new track, which nobody else has yet, the epoch of an earlier run; a state that does not fit goes."""
        store, names = self._desk.store, _names(track)
        data, journal = [await asyncio.to_thread(store.get_state, self._id, name) for name in names]
        if data is None:
            return
        try:
            epoch = await asyncio.to_thread(saved.load_epoch, data, journal, self._made(track), 0)
        except saved.StateUnusable as error:
            logger.info("workspace %s, %s of %s: built anew: %s", self._repo, track.kind, track.spec.name, error)
            for name in names:
                await asyncio.to_thread(store.put_state, self._id, name, None)
            return
        # It compares whole trees.
        await asyncio.to_thread(track.restore, epoch, files)

    async def keep(self, track: Track) -> None:
        """Persist the epoch that serves (or the newest, while none does), and its journal."""
        if not track.epochs:
            return
        epoch = track.in_service(self._desk.sight)[0]
        kept = track.kept
        if kept is not None and kept.said is epoch.said and kept.base is epoch.base and kept.serial == epoch.serial:
            return
        store, (name, journal) = self._desk.store, _names(track)
        if not epoch.tag or kept is None or kept.tag != epoch.tag:
            data = await asyncio.to_thread(saved.dump_epoch, epoch, self._made(track))
            await asyncio.to_thread(store.put_state, self._id, name, data)
            epoch = replace(epoch, tag=saved.tag_of(data))
            track.epochs = [epoch if one.serial == epoch.serial else one for one in track.epochs]
        data = await asyncio.to_thread(saved.dump_journal, epoch)
        await asyncio.to_thread(store.put_state, self._id, journal, data)
        track.kept = epoch

    def _made(self, track: Track) -> saved.Made:
        known = track.described
        made = wanted(self._desk.worth(track.spec.name, track.kind), None, track.spec.budget)
        sizes = (made.pack, made.journal, made.neighbourhood)  # what a pack was made for: no snippets
        return saved.Made(known.fingerprint, known.style, self._repo, sizes)


def _names(track: Track) -> tuple[str, str]:
    return f"epoch/{track.kind}/{track.spec.name}", f"journal/{track.kind}/{track.spec.name}"
