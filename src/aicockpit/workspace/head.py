"""The rule: a head is the longest legal cut of `pack | journal | neighbourhood` that is resident on the engine.

A file that is being worked on keeps the head it has while a newer one is warmed, for a time: each change of the head
has the request's own part, which stands behind it, computed anew. See `steady`.

Pure, and on the request path: no I/O, no hashing, a few comparisons. Who knows what is resident is asked through
`Resident`. The open file itself may stand in the head in an older state: it stays there, since taking it out would
change every token behind it; the newest text of it is in the request's own part, which comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aicockpit.workspace.epoch import Chain, Cut, Epoch


class Lacks(StrEnum):
    """What an empty head lacks. A head with tokens lacks nothing, whatever stands here."""

    BUDGET = "budget"  # the table gives this kind of request no context
    EPOCH = "epoch"  # nothing is built yet, or cannot be
    WARMTH = "warmth"  # an epoch is built, and not (yet) in the engine's cache
    ROOM = "room"  # it is there, and no cut of it is as short as was asked for


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in front of a request's own part. Empty `tokens`: nothing, and `reason` says why.

    `predicted`: tokens of it that the engine should find in its cache. `text`: the chat lane's first message.
    `lacks`: what there is of its epoch where it is empty.
    """

    tokens: tuple[int, ...] = ()
    epoch: str = ""
    pack_tokens: int = 0
    journal_tokens: int = 0
    neighbourhood_tokens: int = 0
    predicted: int = 0
    text: str = ""
    reason: str = ""
    similar_tokens: int = 0
    lacks: Lacks = Lacks.EPOCH


@dataclass(frozen=True, slots=True)
class Choice:
    """A cut that may be served, of which chain and epoch, and how much of it is resident. `late`: newer text waits."""

    epoch: Epoch
    chain: Chain
    cut: Cut
    resident: int
    late: bool = False

    @property
    def whole(self) -> bool:
        """Nothing of the journal is missing in it."""
        return self.cut.entries >= len(self.epoch.entries)


@dataclass(slots=True)
class Hold:
    """What serves an open file on one engine. `since`: when the rule first had another head for it, if it has."""

    choice: Choice | None = None
    since: float | None = None


class Resident(Protocol):
    """Leading tokens of a chain that are verified resident on one engine."""

    def __call__(self, tokens: tuple[int, ...], /) -> int: ...


class Near(Protocol):
    """Chains with a neighbourhood for an epoch's serial, best first."""

    def __call__(self, serial: int, /) -> Sequence[Chain]: ...


def no_near(_: int) -> Sequence[Chain]:
    return ()


def covered(end: int, resident: int, block: int) -> bool:
    """True when all full blocks of the first `end` tokens are resident; the rest of a block is never cached."""
    return resident >= end - end % block


def longest(chain: Chain, resident: int, block: int) -> Cut | None:
    """The longest legal cut that is resident."""
    for cut in reversed(chain.cuts):
        if covered(cut.end, resident, block):
            return cut
    return None


def best_of(epoch: Epoch, near: Near, resident: Resident, block: int) -> Choice | None:
    """What of one epoch can be served: the newest journal first, then the longest."""
    best: Choice | None = None
    for chain in (*near(epoch.serial), *reversed(epoch.chains)):
        there = resident(chain.tokens)
        cut = longest(chain, there, block)
        if cut is None:
            continue
        if best is None or (cut.entries, cut.end) > (best.cut.entries, best.cut.end):
            best = Choice(epoch, chain, cut, there)
        if best.whole and best.cut is best.chain.cuts[-1]:
            break
    return best


def choose(epochs: Sequence[Epoch], adopted: int | None, near: Near, resident: Resident, block: int) -> Choice | None:
    """Which epoch serves on an engine; `epochs` newest first, `adopted` the serial of the one that serves there now.

    A newer epoch takes over when it is resident with its whole journal; the adopted one stays for as long as its
    pack is resident; else the newest of which the pack is.
    """
    spare: Choice | None = None
    for epoch in epochs:
        choice = best_of(epoch, near, resident, block)
        if choice is None:
            continue
        if choice.whole or epoch.serial == adopted:
            return choice
        spare = spare or choice
    return spare


def steady(
    hold: Hold,
    best: Choice | None,
    newest: Chain | None,
    resident: Resident,
    block: int,
    now: float,
    patience_s: float,
    hopeless: Callable[[Choice], bool],
) -> Choice | None:
    """What serves an open file: the head it has, until `best`, which is the rule's, costs its requests nothing.

    That is when all of `newest`, the newest chain of the file in the epoch of `best`, is resident, runway included.
    `best` serves sooner when what is held is no longer resident, when it has waited for `patience_s` seconds, or when
    it is `hopeless` to wait: no newer text is withheld for longer. Updates `hold`.
    """
    held = hold.choice
    there = resident(held.chain.upto(held.cut.end)) if held is not None else 0
    if held is None or not covered(held.cut.end, there, block):
        hold.choice, hold.since = best, None
        return best
    if best is None or _alike(best, held):
        hold.since = None
        return Choice(best.epoch if best else held.epoch, held.chain, held.cut, there)
    if hold.since is None:
        hold.since = now
    ready = best.chain is newest and best.whole and covered(len(newest.tokens), best.resident, block)
    if ready or now - hold.since >= patience_s or hopeless(best):
        hold.choice, hold.since = best, None
        return best
    # Other snippets for another place of the file are not newer text.
    newer = (best.epoch.serial, best.cut.entries) != (held.epoch.serial, held.cut.entries)
    return Choice(held.epoch, held.chain, held.cut, there, late=newer)


def _alike(one: Choice, other: Choice) -> bool:
    """The same tokens of the same epoch, as far as that can be told without comparing them."""
    if (one.epoch.serial, one.cut.entries, one.cut.end) != (other.epoch.serial, other.cut.entries, other.cut.end):
        return False
    if not any((one.cut.neighbourhood, one.cut.similar, other.cut.neighbourhood, other.cut.similar)):
        return True
    return one.chain is other.chain or one.chain.upto(one.cut.end) is other.chain.upto(other.cut.end)


def head_of(choice: Choice, asked: int | None) -> Head:
    """The head of a choice, within `asked` tokens (None: all there is)."""
    chain, cut, epoch = choice.chain, choice.cut, choice.epoch
    if asked is not None and cut.end > asked:
        fitting = [one for one in chain.cuts if one.end <= asked]
        if fitting:
            cut = fitting[-1]
        else:
            end = max((inner for inner in chain.inner if inner <= asked), default=0)
            if not end:
                why = f"no legal cut within the {asked} tokens asked for"
                return Head(epoch=epoch.pack.id, reason=why, lacks=Lacks.ROOM)
            cut = Cut(end, end)
    return Head(
        tokens=chain.upto(cut.end),
        epoch=epoch.pack.id,
        pack_tokens=cut.pack,
        journal_tokens=cut.journal,
        neighbourhood_tokens=cut.neighbourhood,
        predicted=min(choice.resident, cut.end),
        text=cut.text,
        reason="warm" if choice.whole and not choice.late else "warm; the newest saves are being warmed",
        similar_tokens=cut.similar,
    )
