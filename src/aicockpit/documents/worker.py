"""The child process that reads one source into the database: `python -m aicockpit.documents.worker DATABASE ID`.

A process of its own, so that a page that is hard to read costs no request to a model anything, and cannot end the
server. Its standard input is a leash: when the server is gone, so is it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicockpit.documents import net
from aicockpit.documents.archive import ArchiveError, pages
from aicockpit.documents.chunks import cut
from aicockpit.documents.crawl import Crawl, digest, read
from aicockpit.documents.net import Resolve
from aicockpit.documents.store import Store, upload_of
from aicockpit.documents.text import kind_of
from aicockpit.documents.values import MIB, Limits, Source

_MEMORY = 2048 * MIB
_NICE = 10


async def read_source(store: Store, source: Source, limits: Limits, look_up: Resolve = net.resolve) -> None:
    """Read a source; what came of it stands in its row: `error`, `notes`, pages and pieces."""
    if source.kind == "upload":
        error, notes = await asyncio.to_thread(_read_upload, store, source, limits)
    else:
        async with net.opened(limits, source.private, look_up) as reader:
            error, notes = await Crawl(store, source, limits, reader).run()
    store.change(source.number, error=error, notes=notes, current="")


def _read_upload(store: Store, source: Source, limits: Limits) -> tuple[str, tuple[str, ...]]:
    at = (source.number, source.generation)
    store.unread(*at)
    settled, done, text, chunks = store.read_before(*at)
    room, why = store.room(source.owner), ""
    try:
        for member in pages(upload_of(store.db.path, source.id), source.origin, limits):
            if member.path in settled:
                continue
            if member.reason:
                store.leave(*at, member.path, member.path, member.reason, "left")
                continue
            store.reading(*at, member.path)
            store.change(source.number, current=member.path)
            document = read(member.raw, kind_of(member.path), member.path, "", limits)
            pieces = cut(document.blocks, document.title, limits)
            size = sum(len(one.body.encode("utf-8", "replace")) for one in pieces)
            if not pieces:
                store.leave(*at, member.path, member.path, "it has no text", "left")
            elif chunks + len(pieces) > limits.chunks or text + size > room:
                store.leave(*at, member.path, member.path, "there is no room for it", "left")
                why = "reading ended: the index of this source, or of this key, is full"
                break
            elif not store.put_page(*at, member.path, member.path, document.title, digest(pieces), pieces):
                done, chunks, text = done + 1, chunks + len(pieces), text + size
    except ArchiveError as error:
        why = str(error)
    except FileNotFoundError:
        why = "the uploaded file is gone; upload it again"
    if done:
        return "", (why,) if why else ()
    return why or f"no document was found in {source.origin}: .html, .md, .rst and .txt files are read", ()


def _leash() -> None:
    """Ends the process when the server's end of the pipe is closed."""
    while os.read(0, 64):  # not by way of sys.stdin, whose lock this thread would hold when the interpreter ends
        pass
    os._exit(3)


def main(arguments: list[str]) -> int:
    """Exit code 0: the row tells what came of it; 4: there is no such source."""
    given: dict[str, Any] = json.loads(arguments[2]) if len(arguments) > 2 else {}
    threading.Thread(target=_leash, daemon=True).start()
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    limits = replace(Limits(), **given)
    store = Store(Path(arguments[0]), limits)
    try:
        source = store.find(arguments[1])
        if source is None:
            return 4
        asyncio.run(read_source(store, source, limits))
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
