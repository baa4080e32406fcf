"""A file that is open in an editor: its neighbourhoods, the tail its requests had last, and the head it keeps.

The runway is that tail, put behind the neighbourhood when a chain is made and left alone until the next one is made:
a keystroke changes no wish. An editor that tells where its cursor is changes it: then the runway is the tail that a
request at that line will have, cut from the file as it was saved last. No I/O; `openfiles.py` owns these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aicockpit.prompts.tail import sample
from aicockpit.workspace.builds import NearBy, Similar
from aicockpit.workspace.epoch import Chain, Epoch, near_chain, renumbered, similar_chain, with_runway
from aicockpit.workspace.head import Choice, Hold
from aicockpit.workspace.lookout import Lookout

# A runway that differs from what is warm only in so many last tokens (a line or two) is not worth another one.
_NEARLY = 32
# A head that changes has what differs from its runway computed anew. More than so many tokens of it, as after a jump or
# when the file became another one, are worth another runway; a new line, which moves what stands behind it, is not.
_ANEW = 128


@dataclass(slots=True)
class Near:
    """The neighbourhood of one open file for one epoch, and `under | skeletons | snippets | runway` as a chain.

    `base`: its first two parts. `less`: it did not get warm (no room in a cache, too long for the model), so it goes
    without a runway (1), then without snippets too (2). `moved`: its runway is of another place than the cursor is.
    """

    content: bytes | None
    near: NearBy
    chain: Chain | None = None
    under: Chain | None = None
    base: Chain | None = None
    similar: tuple[int, ...] = ()
    less: int = 0
    moved: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What stood behind an epoch in an open file at some time."""

    near: Near
    found: Similar


@dataclass(slots=True)
class Opened:
    """See the module. `nears` by the serial of the epoch, `holds` by engine.

    `line`, from 1: where an editor said that the cursor is, None once a request has come since: that knows better.
    `landed`: the line and the content that the runway was cut for. `begun`: how the last request's window began.
    """

    nears: dict[int, Near] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    tail: tuple[int, ...] = ()
    seen_at: float = 0.0
    lookout: Lookout = field(default_factory=Lookout)
    line: int | None = None
    landed: tuple[int, bytes] | None = None
    begun: str = ""

    def newest(self, serial: int) -> Chain | None:
        """The chain that should serve this file in an epoch."""
        one = self.nears.get(serial)
        return one.chain if one else None

    def chains(self, serial: int, hold: Hold) -> Sequence[Chain]:
        """What may serve this file in an epoch, best first: also what serves it now."""
        newest, held = self.newest(serial), hold.choice
        found = () if newest is None else (newest,)
        if held is None or held.epoch.serial != serial or held.chain is newest:
            return found
        return *found, held.chain

    def seen(self, tail: tuple[int, ...], prefix: str = "") -> bool:
        """A request had this tail, and this text before its cursor. True when a chain that is to serve has nothing of
        it behind it."""
        self.tail, self.line, self.landed = tail, None, None
        if prefix:
            self.begun = sample(prefix)
        return any(self._behind(one) for one in self.nears.values())

    def point(self, line: int) -> bool:
        """An editor's cursor is at this line. True when that is news."""
        line = max(1, line)
        news = line != self.line
        self.line = line
        return news

    def landing(self, content: bytes | None) -> int | None:
        """The line that a runway should be cut for in this content, if there is one to cut."""
        due = content is not None and self.line is not None and self.landed != (self.line, content)
        return self.line if due else None

    def land(self, line: int, content: bytes, runway: tuple[int, ...]) -> None:
        """A runway was cut. Too late if the cursor has moved on or a request has come; of no use if it is there."""
        if line != self.line:
            return
        self.landed = line, content
        dropped = any(one.less == 1 for one in self.nears.values())
        warmed = [
            one.chain.tokens[-one.chain.runway :] for one in self.nears.values() if one.chain and one.chain.runway
        ]
        there = warmed or [self.tail]
        if not dropped and all(_alike(tail, runway) >= len(runway) - _NEARLY for tail in there):
            return
        self.tail = runway
        for one in self.nears.values():
            one.moved, one.less = True, 0 if one.less == 1 else one.less

    def _behind(self, one: Near) -> bool:
        """It has no runway yet, or one of another text, and some engine does not serve it yet."""
        chain = one.chain
        if chain is None or one.less or not self.tail:
            return False
        served = [hold.choice for hold in self.holds.values() if hold.choice is not None]
        if all(choice.chain.upto(choice.cut.end) is chain.head for choice in served):
            return False
        start = len(chain.tokens) - chain.runway
        alike = max(0, min(chain.runway, len(self.tail)) - _ANEW)
        return not chain.runway or chain.tokens[start : start + alike] != self.tail[:alike]

    def renew(self, serial: int, under: Chain, given_up: bool, similar: tuple[int, ...] = ()) -> None:
        """Set the neighbourhood behind the journal as it is now. `given_up`: some engine will not have the last one."""
        one = self.nears[serial]
        before, chain = one.less, one.chain
        if given_up and chain is not None and not one.moved:
            one.less = 1 if chain.runway else 2 if one.similar else one.less
        runway, similar = () if one.less else self.tail, () if one.less > 1 else similar
        if one.base is None or chain is None or one.under is not under:
            one.base, one.under = near_chain(under, one.near.tokens), under
            chain = similar_chain(one.base, similar)
        elif one.similar is not similar:
            chain = similar_chain(one.base, similar)
        elif one.less == before and not one.moved and not self._behind(one):
            return
        one.chain, one.similar, one.moved = with_runway(chain, runway), similar, False

    def folded(self, epoch: Epoch) -> None:
        """The journal of an epoch was folded into the same pack: what is held of it tells nothing that is to come."""
        one = self.nears.get(epoch.serial)
        if one is not None and one.chain is not None:
            one.chain = renumbered(one.chain)
        for hold in self.holds.values():
            held = hold.choice
            if held is not None and held.epoch.serial == epoch.serial:
                chain = renumbered(held.chain, held.cut)
                hold.choice = Choice(epoch, chain, chain.cuts[-1], held.resident)

    def view(self, serial: int) -> View | None:
        """What stands behind an epoch now."""
        one = self.nears.get(serial)
        return View(replace(one), self.lookout.found) if one else None

    def recall(self, serial: int, view: View) -> None:
        """It stands there again, behind the same epoch under its new serial."""
        self.nears[serial], self.lookout.found = replace(view.near), view.found

    def forget(self, serials: set[int], engines: set[str]) -> None:
        """Only these epochs and engines are left. What is held of another epoch serves on."""
        self.nears = {serial: one for serial, one in self.nears.items() if serial in serials}
        self.holds = {engine: hold for engine, hold in self.holds.items() if engine in engines}


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
