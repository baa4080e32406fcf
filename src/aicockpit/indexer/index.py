"""Tree and ledger together: what the gateway lacks, and what to tell it. Used by one thread, not by the event loop."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import msgspec

from aicockpit.indexer import inside
from aicockpit.indexer.ledger import Entry, Ledger
from aicockpit.indexer.reading import Read, content_hash, read
from aicockpit.indexer.scan import Delta, Report, Tree
from aicockpit.workspace.manifest import MAX_PARTS, MAX_PATH

# One body of blobs: it is closed when the files that belong to it pass this many bytes or this many files.
BATCH_BYTES, BATCH_FILES = 4 << 20, 1024
GZIP = 16 + zlib.MAX_WBITS


def wire(path: bytes) -> str:
    """A path as the gateway knows it; what is not UTF-8 is shown with backslashes."""
    return path.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Batch:
    """One manifest. `base` None: the complete tree. `sent`: the hash told for each path, None for a removed one."""

    base: int | None
    files: Sequence[tuple[bytes, Entry]]
    removed: Sequence[str]
    sent: dict[bytes, bytes | None] = field(repr=False)

    def body(self) -> bytes:
        """The JSON, gzip'd."""
        pack = zlib.compressobj(1, zlib.DEFLATED, GZIP)
        encode = msgspec.json.Encoder().encode
        parts = [pack.compress(b'{"base":%s,"files":[' % encode(self.base))]
        for number, (path, entry) in enumerate(self.files):
            row = encode((wire(path), entry.hash.hex(), entry.size, entry.mtime_ns))
            parts.append(pack.compress(b"," + row if number else row))
        parts += [pack.compress(b'],"removed":%s}' % encode(self.removed)), pack.flush()]
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Blobs:
    """One body of blobs, gzip'd. `moved`: files that are not what the manifest said; what they are is in the body."""

    body: bytes
    count: int
    size: int
    moved: Sequence[tuple[bytes, Read]]
    left: Sequence[bytes]


def blobs(root: bytes, limit: int, hashes: Sequence[bytes], where: dict[bytes, tuple[bytes, Entry]]) -> Blobs:
    """Read the contents of these hashes again and frame them. The hash always is that of the bytes that go with it.

    When the root is away, nothing is framed and nothing concluded.
    """
    try:
        top = inside.open_root(root)
    except OSError:
        return Blobs(b"", 0, 0, (), ())
    try:
        return _blobs(top, limit, hashes, where)
    finally:
        os.close(top)


def _blobs(root: int, limit: int, hashes: Sequence[bytes], where: dict[bytes, tuple[bytes, Entry]]) -> Blobs:
    pack = zlib.compressobj(1, zlib.DEFLATED, GZIP)
    parts, moved, size, count, done = [], [], 0, 0, 0
    for wanted in hashes:
        if size >= BATCH_BYTES or count >= BATCH_FILES:
            break
        done += 1
        path, known = where[wanted]
        found = read(root, path, limit, allowed=known.secret)
        if found.entry is None or found.entry.hash != wanted:
            moved.append((path, found))
        if found.entry is None or found.entry.why:
            continue
        data = found.data
        parts.append(pack.compress(found.entry.hash + len(data).to_bytes(4, "big") + data))
        size, count = size + len(data), count + 1
    parts.append(pack.flush())
    return Blobs(b"".join(parts), count, size, moved, hashes[done:])


class Index:
    """The state of one watched tree."""

    def __init__(self, tree: Tree, ledger: Ledger) -> None:
        self.tree, self.ledger = tree, ledger
        self.pending = ledger.pending()
        self.base: int | None = None
        self._identity = ""
        # Shown form -> the files whose true name is another: not UTF-8.
        self._odd: dict[str, set[bytes]] = {}
        tree.place = ledger.place
        tree.remember(self._known(ledger.entries()))

    def scan(self, report: Report) -> Delta:
        return self._note(self.tree.scan(report))

    def refresh(self, paths: Iterable[bytes], report: Report) -> Delta:
        return self._note(self.tree.refresh(paths, report))

    def learn(self, moved: Iterable[tuple[bytes, Read]]) -> None:
        """What was found while blobs were read."""
        for path, found in moved:
            self._note(self.tree.learn(path, found))

    def _known(self, entries: Iterable[tuple[bytes, Entry]]) -> Iterator[tuple[bytes, Entry]]:
        for path, entry in entries:
            self._notice(path, entry)
            yield path, entry

    def _notice(self, path: bytes, entry: Entry | None) -> None:
        """Keep count of the names that are not UTF-8."""
        if path.isascii() or (shown := wire(path)).encode() == path:
            return
        twins = self._odd.setdefault(shown, set())
        twins.add(path) if entry is not None and not entry.why else twins.discard(path)
        if not twins:
            del self._odd[shown]

    def _note(self, delta: Delta) -> Delta:
        if self.tree.place != self.ledger.place:
            self.ledger.remember_place(self.tree.place)
        if delta.entries or delta.content:
            waiting = set(delta.content)
            for path in delta.content if self._odd else ():  # which of the twins is sent may be another now
                waiting |= self._odd.get(wire(path), set())
            for path, entry in delta.entries.items():
                self._notice(path, entry)
            self.ledger.note(delta.entries, waiting)
            self.pending |= waiting
        if self._odd:
            odd = (path for twins in self._odd.values() for path in twins)
            delta.left_out["twin"] += sum(not self._sendable(path) for path in odd)
        return delta

    def adopt(self, identity: str, revision: int) -> None:
        """A gateway has answered. `identity` tells one making of the workspace from the next, "" when it cannot."""
        self._identity = identity
        known = bool(identity) and self.ledger.base == f"{identity}@{revision}"
        self.base = revision if known else None

    def forget_base(self) -> None:
        """The gateway stands elsewhere: the next manifest is the complete one."""
        self.base = None
        self.ledger.forget_base()

    def batch(self) -> Batch | None:
        """The manifest to send; None when the gateway has everything."""
        if self.base is None:
            files = [(path, entry) for path, entry in self.tree.files() if self._sendable(path)]
            files.sort(key=itemgetter(0))  # whoever sorts them again, at the gateway, has it easy
            return Batch(None, files, (), {path: entry.hash for path, entry in files})
        if not self.pending:
            return None
        files, removed, sent = [], [], {}
        for path in sorted(self.pending):
            entry = self.tree.entry(path)
            if not self._sendable(path):
                sent[path] = entry.hash if entry else None
            elif entry is not None:
                files.append((path, entry))
                sent[path] = entry.hash
            else:
                removed.append(wire(path))
                sent[path] = None
        return Batch(self.base, files, removed, sent)

    def question(self) -> Batch | None:
        """A manifest that changes nothing: whether the gateway stands where we think. None when that is not known."""
        return None if self.base is None else Batch(self.base, (), (), {})

    def applied(self, batch: Batch, revision: int) -> bool:
        """The gateway has this batch. False when files have changed meanwhile and another one is due."""
        done = set()
        for path in self.pending:
            entry = self.tree.entry(path)
            told = path in batch.sent or batch.base is None
            if told and batch.sent.get(path) == (entry.hash if entry else None):
                done.add(path)
        self.pending -= done
        self.base = revision
        self.ledger.applied(f"{self._identity}@{revision}" if self._identity else "", done)
        return not self.pending

    def _sendable(self, path: bytes) -> bool:
        """Not a name too long or too deep for the wire, nor one shown as another file is: a true name goes first."""
        shown = wire(path)
        true = shown.encode()
        if len(true) > MAX_PATH or true.count(b"/") >= MAX_PARTS:
            return False
        twins = self._odd.get(shown)
        if path == true:
            return not twins or self.tree.entry(true) is not None
        return self.tree.entry(true) is None and (not twins or path == min(twins))


__all__ = ["BATCH_BYTES", "Batch", "Blobs", "Index", "blobs", "content_hash", "wire"]
