"""A running indexer in front of the fake gateway, for the tests of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aicockpit.indexer.agent import Options, Progress, run
from fake_workspace import FakeWorkspaces


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content(root: Path) -> dict[str, bytes]:
    """What a workspace of `root` must hold when nothing is ignored."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and b"/.git/" not in path:
                with open(path, "rb") as file:
                    relative = os.path.relpath(path, os.fsencode(root))
                    found[relative.decode("utf-8", "backslashreplace")] = file.read()
    return found


class Watch:
    """A running indexer and what it reported."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.said: list[Progress] = []
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(run(options, self.said.append, self.stop))

    def phase(self, name: str) -> bool:
        if self.task.done():
            self.task.result()
        return any(progress.phase == name for progress in self.said)

    def message(self, part: str) -> bool:
        return any(part in progress.message for progress in self.said)


@contextlib.asynccontextmanager
async def watching(fake: FakeWorkspaces, root: Path, **changes: object) -> AsyncIterator[Watch]:
    """The indexer at work; left when it has ended of itself or the block has."""
    chosen: dict[str, object] = {"gateway": fake.address, "key": fake.key, "name": "w", "state": root.parent / "state"}
    watch = Watch(Options(root, **{**chosen, **changes}))  # type: ignore[arg-type]
    try:
        yield watch
    finally:
        watch.stop.set()
        await watch.task


async def equal(fake: FakeWorkspaces, root: Path) -> None:
    wanted = content(root)
    await fake.until(lambda: fake.tree() == wanted)


def nothing_twice(fake: FakeWorkspaces) -> None:
    assert [digest for digest, times in fake.received.items() if times > 1] == []
