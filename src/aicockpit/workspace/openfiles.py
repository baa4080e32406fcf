"""The open files of one track, by last use: which neighbourhoods are due, where to look next.

No I/O and no tasks: `track.py` owns them, `surroundings.py` does what is due.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice

from aicockpit.workspace.budget import Budget
from aicockpit.workspace.builds import NearBy
from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.opened import Near, Opened, View
from aicockpit.workspace.turns import FRONT_S

# What is known of files is kept beyond those that are open, for who comes back to one.
_KEPT = 32


class OpenFiles:
    """`most` files are open at most, with a runway of at most `runway` tokens each; more are remembered."""

    def __init__(self, most: int, runway: int) -> None:
        self._most, self._runway = most, runway
        self._files: OrderedDict[str, Opened] = OrderedDict()

    def __contains__(self, path: str) -> bool:
        return any(path == one for one in self)

    def __iter__(self) -> Iterator[str]:
        """The open files' paths, the one worked in last first."""
        return islice(reversed(self._files), self._most)

    def get(self, path: str) -> Opened | None:
        """What is known of a file, open or not."""
        return self._files.get(path)

    def items(self) -> list[tuple[str, Opened]]:
        """The open files, the one worked in last first."""
        return [(path, self._files[path]) for path in self]

    def focus(self, path: str, line: int | None = None) -> bool:
        """The file is open, and its cursor at `line` (from 1) if that is known. True when there is something to do."""
        news = path not in self
        opened = self._files.setdefault(path, Opened())
        self._files.move_to_end(path)
        while len(self._files) > max(_KEPT, self._most):
            self._files.popitem(last=False)
        if line is None:  # nothing is known of the place: a guess would warm what nobody asks for
            return news
        return news | opened.lookout.point(line) | opened.point(line)

    def has_room(self, now: float) -> bool:
        """Another file may be open: one of those that are is not worked in. It makes way first."""
        files = self.items()
        busy = [path for path, opened in reversed(files) if now < opened.seen_at + FRONT_S]
        if len(busy) >= self._most:
            return False
        if len(files) >= self._most:
            for path in busy:
                self._files.move_to_end(path)
        return True

    def seen(self, path: str, tail: tuple[int, ...], prefix: str, now: float) -> bool:
        """A request had this tail, and this text before its cursor. True when there is something to do."""
        opened = self._files.get(path)
        if opened is None:
            return False
        front = next(self._files[path] for path in self)
        comes = front is not opened and now >= front.seen_at + FRONT_S
        if comes:  # what had no room behind other files may have it now
            self._files.move_to_end(path)
            for near in opened.nears.values():
                near.less = 0
        opened.seen_at = now
        bare = opened.seen(tail[: self._runway], prefix)
        return opened.lookout.see(prefix) | bare | comes

    def landings(self, files: Mapping[str, bytes]) -> list[tuple[str, bytes, int, str]]:
        """(path, content, line, how the last window began) of those whose runway has to be cut, the newest first."""
        return [
            (path, content, line, opened.begun)
            for path, opened in self.items()
            if (content := files.get(path)) is not None and (line := opened.landing(content)) is not None
        ]

    def land(self, path: str, content: bytes, line: int, runway: tuple[int, ...]) -> None:
        """A runway for that line of that content. See `Opened`."""
        opened = self._files.get(path)
        if opened is not None:
            opened.land(line, content, runway[: self._runway])

    def near_due(self, epochs: Sequence[Epoch], files: Mapping[str, bytes]) -> list[tuple[str, Epoch]]:
        """Those whose skeletons have to be made, for each of these epochs."""
        return [
            (path, epoch)
            for path, opened in self.items()
            for epoch in epochs
            if (known := opened.nears.get(epoch.serial)) is None or known.content != files.get(path)
        ]

    def near_made(self, path: str, serial: int, content: bytes | None, near: NearBy) -> None:
        """Skeletons for the file's `content`. The same ones again leave everything as it is."""
        opened = self._files.get(path)
        if opened is None:
            return
        known = opened.nears.get(serial)
        if known is not None and known.near.tokens == near.tokens:
            known.content, known.near = content, near
        else:
            opened.nears[serial] = Near(content, near)

    def renew(self, epochs: Sequence[Epoch], budget: Budget, given_up: Callable[[Epoch, str], bool]) -> None:
        """Set every neighbourhood behind its epoch's journal as it is now, and the runway behind it."""
        for path, opened in self.items():
            similar = opened.lookout.found.tokens if budget.similar else ()
            for epoch in epochs:
                if not budget.neighbourhood:  # then snippets and runway stand behind the journal
                    opened.nears.setdefault(epoch.serial, Near(None, NearBy()))
                if epoch.newest is not None and epoch.serial in opened.nears:
                    opened.renew(epoch.serial, epoch.newest, given_up(epoch, path), similar)

    def look_due(self, files: Mapping[str, bytes], packed: Collection[bytes], budget: int, now: float) -> list[str]:
        """Those with a place to look at now. `packed`: contents that stand in the pack as a whole."""
        for _, opened in self.items():
            opened.lookout.check(files, packed, budget)
        return [path for path, opened in self.items() if opened.lookout.due(now)]

    def look_at(self) -> float | None:
        """When the next place may be looked at, if there is one."""
        looks = [opened.lookout for _, opened in self.items()]
        return min((look.next_at for look in looks if look.pending and not look.searching), default=None)

    def views(self, serial: int) -> dict[str, View]:
        """What stands behind an epoch now, by path."""
        return {path: view for path, opened in self.items() if (view := opened.view(serial)) is not None}

    def recall(self, serial: int, views: Mapping[str, View]) -> None:
        """It stands there again in the files that are still open. See `Opened`."""
        for path, opened in self.items():
            if path in views:
                opened.recall(serial, views[path])

    def folded(self, epoch: Epoch) -> None:
        """See `Opened`."""
        for opened in self._files.values():
            opened.folded(epoch)

    def forget(self, serials: set[int], engines: set[str]) -> None:
        """See `Opened`."""
        for opened in self._files.values():
            opened.forget(serials, engines)
