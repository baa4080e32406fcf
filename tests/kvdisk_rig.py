"""Blocks whose bytes follow from their name, a shelf, and a rank's memory: what the tests of the KV disk tier share."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from aicockpit.kvdisk import files
from aicockpit.kvdisk.blocks import Blocks
from aicockpit.kvdisk.shelf import Shelf, age_ns
from aicockpit.kvdisk.stats import Counts, Data, keyed, merged

KEY = b"0123456789abcdef"
FOLDER = "model-" + KEY.hex()
PAYLOAD = 3000


def name_of(number: int) -> bytes:
    return hashlib.sha256(f"block {number}".encode()).digest()


def block(name: bytes, size: int = PAYLOAD) -> bytes:
    return (name * (size // len(name) + 1))[:size]


def filler(number: int) -> Callable[[memoryview], None]:
    """What a writer is given to copy a block by."""

    def copy(into: memoryview) -> None:
        into[:] = block(name_of(number), len(into))

    return copy


def shelf_in(root: Path, rank: int = 0) -> Shelf:
    folder = root / FOLDER / f"r{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    return Shelf(str(folder), KEY)


def store(shelf: Shelf, name: bytes, *, depth: int = 0, now: float | None = None, size: int = PAYLOAD) -> str:
    buffer = bytearray(files.HEADER.size) + block(name, size)
    files.seal(buffer, shelf.key, name)
    shelf.make_room_for(name)
    files.write(shelf.path(name), buffer, age_ns(depth, now))
    return shelf.path(name)


def load(shelf: Shelf, name: bytes, size: int = PAYLOAD) -> bytes:
    return bytes(files.read(shelf.path(name), shelf.key, name, bytearray(files.room(size))))


class Counted:
    """A rig that remembers what its counters have told."""

    def __init__(self) -> None:
        self.counts, self.seen = Counts(), Data()

    def told(self, name: str, label: str | None = None) -> float:
        self.seen = merged(self.seen, self.counts.take())
        return self.seen.get(keyed(name, label), 0)


class Memory:
    """Two layers of `count` blocks, the second with a gap between them."""

    def __init__(self, count: int = 64) -> None:
        self.one, self.two = bytearray(count * 1000), bytearray(count * 2048)
        self.blocks = Blocks([(memoryview(self.one), 1000, 1000), (memoryview(self.two), 2048, 2000)])

    def read(self, number: int) -> bytes:
        into = bytearray(self.blocks.payload)
        self.blocks.copy_out(number, memoryview(into))
        return bytes(into)

    def write(self, number: int, payload: bytes) -> None:
        self.blocks.put(number, memoryview(payload))


def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def left_behind(root: Path) -> list[str]:
    return [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(".tmp")]
