"""How one lane of a room gets on: its troubles, and what was found out of a change too large to look at twice."""

from __future__ import annotations

import asyncio
import logging

from aicockpit.workspace.builds import Change
from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.sight import Sight
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

    def failed(self, what: str, error: BaseException) -> None:
        """Said in the status; the others go on, and this one is tried again later."""
        track, limits = self._track, self._track.limits
        told = self.troubles.fail(what, f"stuck: {meaning(error)}", limits.retry_s)
        track.problem, track.retry_at = self.troubles.told(), self.troubles.at("build")
        level, info = (logging.WARNING, None) if foreseen(error) else (logging.ERROR, error)
        logger.log(level, "workspace %s, %s of %s: %s", self._repo, track.kind, track.spec.name, told, exc_info=info)

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
