"""Runs a store in a process of its own: one that is killed while it syncs, and one whose disk is full."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from aicockpit.errors import StorageFull
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import Applied, Change, File, Store, StoreLimits

OWNER, NAME = "key", "tree"


def fingerprint(files: Iterable[File]) -> str:
    """Of a tree: the same for the same paths with the same contents."""
    return digest("\n".join(sorted(f"{file.path}\0{file.hash.hex()}" for file in files)).encode()).hex()


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def sync_for_ever(folder: Path, seed: int) -> None:
    """Save files, push and post; say what is tried before, and what was acknowledged after. Old blobs go meanwhile."""
    ahead = [0.0]
    store = Store(folder, StoreLimits(), lambda: time.time() + ahead[0])
    chance = random.Random(seed)

    def collect() -> None:
        while True:
            ahead[0] += 2000
            store.collect()

    info = store.create(OWNER, NAME)
    revision, tree = info.revision, {file.path: file for file in store.files(info.id)}
    threading.Thread(target=collect, daemon=True).start()
    while True:
        wanted, contents = dict(tree), {}
        for _ in range(chance.randint(1, 12)):
            path = f"folder{chance.randrange(6)}/file{chance.randrange(30)}.py"
            if path in wanted and chance.random() < 0.3:
                del wanted[path]
                continue
            number = chance.randrange(200)  # few enough that what a killed process was about to keep comes again
            data = random.Random(number).randbytes((0, 10, 3000, 60000)[number % 4])
            contents[digest(data)] = data
            wanted[path] = File(path, digest(data), len(data), time.time_ns())
        say("try", revision + 1, fingerprint(wanted.values()))
        changed = [file for path, file in wanted.items() if tree.get(path) != file]
        gone = [path for path in tree if path not in wanted]
        while True:
            store.put_blobs(contents.items(), info.id)
            if chance.random() < 0.2:
                result = store.propose(info.id, None, list(wanted.values()))
            else:
                result = store.propose(info.id, revision, changed, gone)
            if isinstance(result, Applied):
                break
        revision, tree = result.revision, wanted
        say("ack", revision, fingerprint(wanted.values()))
        store.put_state(info.id, "epoch", f"{revision}".encode())


def fill_the_disk(folder: Path) -> None:
    """Push until the disk is full; all that was kept before is there, and goes on when there is room again."""
    store = Store(folder, StoreLimits(), lambda: time.time() + ahead)
    ahead = 0
    keep, other = store.create(OWNER, NAME), store.create(OWNER, "other")
    kept = os.urandom(1000)
    files = [File("kept", digest(kept), len(kept), 1)]
    store.put_blobs([(digest(kept), kept)])
    assert store.propose(keep.id, None, files) == Applied(1, (Change("kept", None, digest(kept)),))
    stored = []
    refused = ""
    while not refused:
        batch = [os.urandom(50_000) for _ in range(4)]
        try:
            store.put_blobs([(digest(data), data) for data in batch], other.id)
            stored += batch
        except StorageFull as error:
            refused = error.message
    say(refused)
    assert not list((store.blob_folder / "incoming").iterdir())
    assert stored
    assert [store.blob(digest(data)) for data in [kept, *stored]] == [kept, *stored]
    assert store.files(keep.id) == files
    ahead = 4000
    assert store.collect() == len(stored)
    data = os.urandom(50_000)
    assert store.put_blobs([(digest(data), data)]) == (1, 0)
    assert store.propose(keep.id, 1, [File("new", digest(data), len(data), 1)])
    store.close()
    say("fine")


if __name__ == "__main__":
    if sys.argv[1] == "sync":
        sync_for_ever(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fill_the_disk(Path(sys.argv[2]))
