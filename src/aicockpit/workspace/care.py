"""How one lane of a room gets on: its troubles, where it is warm, and what is known of too large a change."""

from __future__ import annotations

import asyncio
import logging

from aicockpit.workspace.builds import Change
from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import Track
from aicockpit.workspace.tree import MANY, Tree
from aicockpit.workspace.troubles import Troubles, foreseen, meaning

logger = logging.getLogger(__name__)


class Care:
    """Of one track, by the room's task."""

    def __init__(self, track: Track, repo: str, troubles: Troubles) -> None:
        self.troubles = troubles
        self._track, self._repo = track, repo
        # The epoch and the revision of the tree for which too many files were found to differ, by serial.
        self._weighed: dict[int, tuple[Epoch, int]] = {}
        self._recalled = -1
        # The pack that was told to be warm, by engine.
        self._warm: dict[str, str] = {}

    def failed(self, what: str, error: BaseException) -> None:
        """Said in the status; the others go on, and this one is tried again later."""
        track, limits = self._track, self._track.limits
        told = self.troubles.fail(what, f"stuck: {meaning(error)}", limits.retry_s)
        track.problem, track.retry_at = self.troubles.told(), self.troubles.at("build")
        level, info = (logging.WARNING, None) if foreseen(error) else (logging.ERROR, error)
        logger.log(level, "workspace %s, %s of %s: %s", self._repo, track.kind, track.spec.name, told, exc_info=info)

    def tell_warmth(self, sight: Sight) -> None:
        """In the log, one line when a pack is warm on an engine for the first time, and one when no head is any more.

        None for a journal that grows: saves come every few seconds.
        """
        track, engines = self._track, sight.serving(self._track.spec.name)
        self._warm = {name: pack for name, pack in self._warm.items() if name in engines}
        for name in engines if track.epochs else ():
            newest = track.epochs[0]
            progress = sight.progress(name, track.key(newest))
            what = (self._repo, track.kind, track.spec.name)
            if progress.state is WarmState.WARM and self._warm.get(name) != newest.pack.id:
                self._warm[name] = newest.pack.id
                took = "" if progress.seconds is None else f" after {progress.seconds:.1f} s"
                origin = progress.origin
                logger.info(
                    "workspace %s, %s of %s: warm on %s%s: %d tokens "
                    "(%d computed, %d in memory before, %d from a KV tier)",
                    *(*what, name, took, progress.total, origin.computed, origin.memory, origin.tier),
                )
            elif name in self._warm and track.choose(name, sight) is None:
                del self._warm[name]
                why = progress.reason or ("its blocks are gone" if sight.ready(name) else "the engine is not ready")
                logger.info("workspace %s, %s of %s: no longer warm on %s: %s", *what, name, why)

    async def recall(self, tree: Tree, sight: Sight) -> bool:
        """See `Track.recall`. Once for each change; after one of many files it is looked for in a thread."""
        track = self._track
        if self._recalled == tree.revision:
            return False
        self._recalled = tree.revision
        many = any(len(pending) > MANY for pending in track.pending.values())
        found = await asyncio.to_thread(track.look_back, tree.hashes) if many else track.look_back(tree.hashes)
        if found is not None:
            track.recall(found, sight)
        return found is not None

    async def to_say(self, epoch: Epoch, tree: Tree) -> list[Change]:
        """See `Track.to_say`. Of a branch switch in a large tree: in a thread, and once."""
        track = self._track
        count = len(track.pending.get(epoch.serial, ()))
        if count <= max(MANY, track.limits.bulk):
            return track.to_say(epoch, tree.hashes)
        known = self._weighed.get(epoch.serial)
        if known is not None and known[0] is epoch and known[1] == tree.revision:
            return []
        changes = await asyncio.to_thread(track.to_say, epoch, tree.hashes)
        if len(track.pending[epoch.serial]) == count:
            there = {one.serial for one in track.epochs}
            self._weighed = {serial: one for serial, one in self._weighed.items() if serial in there}
            self._weighed[epoch.serial] = epoch, tree.revision
        return changes
