"""The scheduler's side with a clock in the test's hands: what the tests of plan.py share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aicockpit.kvdisk.loader import Piece
from aicockpit.kvdisk.plan import Planner
from kvdisk_rig import name_of, shelf_in, store

BLOCK = 32


class Rig:
    """A planner over `ranks` shelves, and a clock."""

    def __init__(self, root: Path, ranks: int = 1) -> None:
        self.now = 1000.0
        self.shelves = [shelf_in(root, rank) for rank in range(ranks)]
        self.planner = Planner(self.shelves, BLOCK, clock=lambda: self.now)

    def stored(self, count: int, rank: int = 0, first: int = 0) -> None:
        for number in range(first, first + count):
            store(self.shelves[rank], name_of(number))

    def admit(self, request: str, tokens: int, first: int = 0, **wishes: object) -> None:
        names = [name_of(first + number) for number in range(tokens // BLOCK)]
        self.planner.admit(request, lambda: names, tokens, **wishes)  # type: ignore[arg-type]

    def keeps(self, request: str, computed: int, blocks: Sequence[int] = range(100, 200)) -> list[Piece]:
        return self.planner.step([(request, computed, lambda: blocks)]).keeps
