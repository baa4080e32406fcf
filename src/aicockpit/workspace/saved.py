"""The persisted form of an epoch: what a restarted server needs to serve the very same token ids.

Two values per lane: the epoch (written when it changes) and its journal (written after each save, small). A journal
names the epoch it belongs to; one that belongs to another is not used, and the files it told of are told again.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence

import msgspec
import xxhash

from aicockpit.errors import AicockpitError
from aicockpit.prompts.pack import Item, Pack
from aicockpit.workspace.epoch import Entry, Epoch

VERSION = 1
_TAG = 16


class StateUnusable(AicockpitError):
    """A persisted state is broken or belongs to something else; it is dropped and built anew."""


class Made(msgspec.Struct, frozen=True, array_like=True):
    """What decides the ids of a pack, but the files: a state with another one is outdated."""

    fingerprint: str
    style: str
    repo: str
    wanted: tuple[int, int, int]


class _Item(msgspec.Struct, array_like=True):
    path: str
    kind: str
    why: str
    hash: bytes
    text: str


class _Epoch(msgspec.Struct, array_like=True):
    version: int
    made: Made
    pack: str
    header: int
    tokens: bytes
    cuts: list[int]
    items: list[_Item]
    base: dict[str, bytes]


class _Entry(msgspec.Struct, array_like=True):
    path: str
    hash: bytes | None
    text: str
    tokens: bytes


class _Journal(msgspec.Struct, array_like=True):
    version: int
    tag: bytes
    entries: list[_Entry]
    said: dict[str, bytes | None]


def _pack(tokens: Sequence[int]) -> bytes:
    return array("I", tokens).tobytes()


def _unpack(data: bytes) -> tuple[int, ...]:
    found = array("I")
    found.frombytes(data)
    return tuple(found)


def _seal(body: bytes) -> bytes:
    """Compressed, with a checksum of everything in front, which is the tag of an epoch too."""
    packed = zlib.compress(body, 1)
    return xxhash.xxh3_128(packed).digest() + packed


def _open(data: bytes) -> bytes:
    tag, packed = data[:_TAG], data[_TAG:]
    if xxhash.xxh3_128(packed).digest() != tag:
        raise StateUnusable("its checksum is wrong")
    try:
        return zlib.decompress(packed)
    except zlib.error as error:
        raise StateUnusable(f"it cannot be unpacked: {error}") from error


def dump_epoch(epoch: Epoch, made: Made) -> bytes:
    """The first 16 bytes are the epoch's tag."""
    pack = epoch.pack
    items = [_Item(item.path, item.kind, item.why, item.hash, item.text) for item in pack.items]
    body = _Epoch(VERSION, made, pack.id, pack.header, _pack(pack.tokens), list(pack.cuts), items, dict(epoch.base))
    return _seal(msgspec.msgpack.encode(body))


def tag_of(data: bytes) -> bytes:
    """The tag of a dumped epoch."""
    return data[:_TAG]


def dump_journal(epoch: Epoch) -> bytes:
    """The journal of an epoch that was dumped before (its `tag` is set)."""
    entries = [_Entry(entry.path, entry.hash, entry.text, _pack(entry.tokens)) for entry in epoch.entries]
    return _seal(msgspec.msgpack.encode(_Journal(VERSION, epoch.tag, entries, dict(epoch.said))))


def load_epoch(data: bytes, journal: bytes | None, made: Made, serial: int) -> Epoch:
    """The epoch, without chains. Raises StateUnusable with the reason; a journal that does not fit is left out."""
    try:
        found = msgspec.msgpack.decode(_open(data), type=_Epoch)
        tokens = _unpack(found.tokens)
    except (msgspec.DecodeError, ValueError) as error:
        raise StateUnusable(f"it does not decode: {error}") from error
    if found.version != VERSION:
        raise StateUnusable(f"it was written in form {found.version}, this release reads {VERSION}")
    if found.made != made:
        raise StateUnusable(f"it was made with {found.made}, now {made} holds")
    starts = (found.header, *found.cuts)
    if len(found.cuts) != len(found.items) or list(starts) != sorted(starts) or starts[-1] > len(tokens):
        raise StateUnusable("its cuts do not fit its tokens")
    items = tuple(
        Item(one.path, one.kind, one.text, tokens[start:end], one.why, one.hash)
        for one, start, end in zip(found.items, starts, found.cuts, strict=False)
    )
    pack = Pack(found.pack, tokens, items, found.header, tuple(found.cuts))
    epoch = Epoch(serial, pack, found.base, tag=tag_of(data))
    return epoch if journal is None else _journal(epoch, journal)


def _journal(epoch: Epoch, data: bytes) -> Epoch:
    try:
        found = msgspec.msgpack.decode(_open(data), type=_Journal)
        if found.version != VERSION or found.tag != epoch.tag:
            return epoch
        entries = [Entry(one.path, one.hash, one.text, _unpack(one.tokens)) for one in found.entries]
    except (StateUnusable, msgspec.DecodeError, ValueError):
        return epoch
    return epoch.with_entries(entries, found.said)
