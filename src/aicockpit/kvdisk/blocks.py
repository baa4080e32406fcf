"""An engine's KV cache as plain memory: one view per layer, from which a block is copied out and into which one is
put."""

from __future__ import annotations

from collections.abc import Sequence


class Blocks:
    """`layers`: (all the bytes of one layer, bytes from one block to the next, bytes of one block).

    In a file the layers of a block follow each other in this order.
    """

    def __init__(self, layers: Sequence[tuple[memoryview, int, int]]) -> None:
        if not layers:
            raise ValueError("a KV cache without layers")
        self._layers = tuple((view.cast("B"), step, size) for view, step, size in layers)
        self.count = min((len(view) - size) // step + 1 for view, step, size in self._layers)
        self.payload = sum(size for _, _, size in self._layers)

    def copy_out(self, block: int, into: memoryview) -> None:
        at = 0
        for view, step, size in self._layers:
            into[at : at + size] = view[block * step : block * step + size]
            at += size

    def put(self, block: int, payload: memoryview) -> None:
        at = 0
        for view, step, size in self._layers:
            view[block * step : block * step + size] = payload[at : at + size]
            at += size
