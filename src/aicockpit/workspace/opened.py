"""A file that is open in an editor: its neighbourhoods, the tail its requests had last, and the head it keeps.

The runway is that tail, put behind the neighbourhood when a chain is made and left alone until the next one is made:
a keystroke changes no wish. No I/O; `track.py` owns these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aicockpit.workspace.builds import NearBy
from aicockpit.workspace.epoch import Chain, Epoch, near_chain, renumbered, with_runway
from aicockpit.workspace.head import Choice, Hold


@dataclass(slots=True)
class Near:
    """The neighbourhood of one open file for one epoch, and `under | neighbourhood | runway` as a chain.

    `cramped`: with a runway it did not get warm (no room in a cache, too long for the model).
    """

    content: bytes | None
    near: NearBy
    chain: Chain | None = None
    under: Chain | None = None
    cramped: bool = False


@dataclass(slots=True)
class Opened:
    """See the module. `nears` by the serial of the epoch, `holds` by engine."""

    nears: dict[int, Near] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    tail: tuple[int, ...] = ()

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

    def seen(self, tail: tuple[int, ...]) -> bool:
        """A request had this tail. True when a chain was made before anything was known to put behind it."""
        self.tail = tail
        return any(self._bare(one) for one in self.nears.values())

    def _bare(self, one: Near) -> bool:
        """It has no runway yet, and some engine does not serve it yet."""
        chain = one.chain
        if chain is None or chain.runway or one.cramped or not self.tail:
            return False
        served = [hold.choice for hold in self.holds.values() if hold.choice is not None]
        return any(choice.chain.upto(choice.cut.end) is not chain.head for choice in served)

    def renew(self, serial: int, under: Chain, given_up: bool) -> None:
        """Set the neighbourhood behind the journal as it is now. `given_up`: some engine will not have the last one."""
        one = self.nears[serial]
        if one.chain is not None and one.chain.runway and not one.cramped:
            one.cramped = given_up
        runway = () if one.cramped else self.tail
        if one.chain is None or one.under is not under:
            chain = near_chain(under, one.near.tokens) if one.near.tokens else under
            one.chain, one.under = with_runway(chain, runway), under
        elif self._bare(one) or (one.cramped and one.chain.runway):
            one.chain = with_runway(one.chain, runway)

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

    def forget(self, serials: set[int], engines: set[str]) -> None:
        """Only these epochs and engines are left. What is held of another epoch serves on."""
        self.nears = {serial: one for serial, one in self.nears.items() if serial in serials}
        self.holds = {engine: hold for engine, hold in self.holds.items() if engine in engines}
