"""The real indexer against the real routes and store: what is stored is what git lists, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from aicockpit.errors import ApiError
from aicockpit.gateway import envelope, workspaces
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import Change, Info, Store, StoreLimits

FILES = 600


class Noted(workspaces.Cold):
    """Builds the tree once more, from nothing but what the warm side is told."""

    def __init__(self) -> None:
        self.tree: dict[str, bytes | None] = {}
        self.wrong: list[Change] = []

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        for change in changes:
            if self.tree.get(change.path) != change.old:
                self.wrong.append(change)
            self.tree[change.path] = change.new


@dataclass
class Site:
    """A gateway of one store, which can be stopped and started, and the indexer of `root`."""

    folder: Path
    root: Path
    limits: StoreLimits = field(default_factory=StoreLimits)
    caller: Caller = CONTROL
    store: Store | None = None
    warm: Noted = field(default_factory=Noted)
    said: list[Progress] = field(default_factory=list)
    bodies: int = 0
    # What becomes of the next requests: "" passes, "lost" never arrives, "deaf" is done and its answer is lost.
    breaks: list[str] = field(default_factory=list)
    _server: uvicorn.Server | None = None
    _serving: asyncio.Task[None] | None = None
    _watching: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/g.sock"

    async def open(self) -> None:
        """Start the gateway."""
        self.store = Store(self.folder / "store", self.limits)
        app = FastAPI()

        @app.exception_handler(ApiError)
        async def api_error(request: Request, error: ApiError) -> Response:
            return Response(envelope.body(error, "test"), error.status, media_type="application/json")

        workspaces.add(app, self.store, self.warm)

        async def outer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            self.bodies += scope["path"].endswith("/blobs")
            kind = self.breaks.pop(0) if self.breaks else ""
            if kind == "lost":
                raise ConnectionResetError
            sink = send if not kind else nobody
            await app({**scope, "aicockpit.caller": self.caller, "aicockpit.request_id": "test"}, receive, sink)

        config = uvicorn.Config(outer, uds=f"{self.folder}/g.sock", lifespan="off", log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        self._serving = asyncio.create_task(self._server.serve())
        await self.until(lambda: self._server is not None and self._server.started)

    async def close(self) -> None:
        """Stop the gateway."""
        if self._server is not None and self._serving is not None and self.store is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving
            self.store.close()
            self._server = self._serving = self.store = None

    def watch(self, **changes: Any) -> None:
        """Start the indexer."""
        self._stop = asyncio.Event()
        options = Options(self.root, self.folder / "state", self.address, name="w", **changes)
        self._watching = asyncio.create_task(run(options, self.said.append, self._stop))

    async def unwatch(self) -> None:
        """Stop the indexer; raises what it has ended of."""
        self._stop.set()
        if self._watching is not None:
            task, self._watching = self._watching, None
            await task

    @property
    def info(self) -> Info:
        assert self.store is not None
        found = next((info for info in self.store.list() if info.name == "w"), None)
        assert found is not None
        return found

    def stored(self) -> dict[str, bytes]:
        """path -> content as the store has it; the hash of a row, its size and its blob must agree."""
        assert self.store is not None
        found = {}
        for file in self.store.files(self.info.id):
            data = self.store.blob(file.hash)
            assert data is not None, f"no blob of {file.path}"
            assert (digest(data), len(data)) == (file.hash, file.size), file.path
            found[file.path] = data
        return found

    def on_disk(self) -> dict[str, bytes]:
        """path -> content of what git lists and is a plain file."""
        listed = git(self.root, "ls-files", "-z", "-co", "--exclude-standard").split(b"\0")
        found = {}
        for path in {path for path in listed if path}:
            place = os.path.join(os.fsencode(self.root), path)
            if os.path.isfile(place) and not os.path.islink(place):
                with open(place, "rb") as file:
                    found[path.decode("utf-8", "backslashreplace")] = file.read()
        return found

    async def equal(self, limit_s: float = 30.0) -> None:
        """The store comes to hold what git lists now, and the warm side was told of exactly that."""
        wanted = self.on_disk()
        hashes = {path: digest(data) for path, data in wanted.items()}

        def same() -> bool:
            if self._watching is not None and self._watching.done():
                self._watching.result()
            if self.store is None or not self.store.list():
                return False
            return {file.path: file.hash for file in self.store.files(self.info.id)} == hashes

        await self.until(same, limit_s)
        assert self.stored() == wanted
        assert (self.info.files, self.info.bytes) == (len(wanted), sum(map(len, wanted.values())))
        await self.until(lambda: {path: hash for path, hash in self.warm.tree.items() if hash} == hashes)
        assert not self.warm.wrong

    async def until(self, true: Callable[[], bool], limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not true():
            assert time.monotonic() < end, self.said[-3:]
            await asyncio.sleep(0.02)


async def nobody(message: MutableMapping[str, Any]) -> None:
    """Takes an answer to nowhere."""


def git(root: Path, *words: str) -> bytes:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.excludesFile=/dev/null", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True).stdout


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def many(branch: str, count: int = FILES) -> dict[str, str]:
    return {f"pkg{n % 40}/sub{n % 7}/mod{n}.py": f"# {branch}\ndef f{n}():\n    return {n}\n" for n in range(count)}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    root = tmp_path / "tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    made = Site(tmp_path, root)
    await made.open()
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            await made.unwatch()
        await made.close()


async def test_a_day_of_a_repository(site: Site) -> None:
    root = site.root
    put(root, {**many("main"), ".gitignore": "*.log\nbuild/\n", "noise.log": "x", "build/out.txt": "x"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "main")
    git(root, "checkout", "-qb", "other")
    put(root, {name: text for n, (name, text) in enumerate(many("other").items()) if n % 3})
    shutil.rmtree(root / "pkg3")
    (root / "pkg4").rename(root / "moved")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "other")
    git(root, "checkout", "-q", "main")

    site.watch()
    await site.equal()
    for branch in ("other", "main", "other"):
        git(root, "checkout", "-q", branch)
        await site.equal()
    git(root, "checkout", "-q", "main")
    await site.equal()
    sent = site.bodies
    git(root, "checkout", "-q", "other")
    await site.equal()
    assert site.bodies == sent, "a branch that was seen before is nothing but a manifest"

    # Folders renamed, nested, swapped, deleted and made again; a file becomes a folder, a folder a file.
    (root / "pkg5").rename(root / "aaa")
    (root / "pkg6").rename(root / "aaa/inner")
    shutil.rmtree(root / "pkg7")
    put(root, {"pkg7/again.py": "again"})
    for old, new in (("pkg8", "swap"), ("pkg9", "pkg8"), ("swap", "pkg9")):
        (root / old).rename(root / new)
    shutil.rmtree(root / "pkg10")
    put(root, {"pkg10": "now a file", "plain": "a file"})
    await site.equal()
    (root / "plain").unlink()
    put(root, {"plain/now/a/folder.py": "x = 1\n", "aaa/inner/late.py": "late"})
    await site.equal()

    # Editors that write beside and rename, only the case changes, another .gitignore.
    for n in range(20):
        put(root, {f"aaa/save{n}.py~": f"saved {n}"})
        (root / f"aaa/save{n}.py~").replace(root / f"aaa/save{n}.py")
    (root / "plain").rename(root / "PLAIN")
    put(root, {".gitignore": "*.py\n!save*.py\n"})
    await site.equal()
    put(root, {".gitignore": "*.log\n"})
    await site.equal()
    await site.unwatch()


async def test_the_gateway_restarts_while_files_change(site: Site) -> None:
    root = site.root
    put(root, many("main"))
    site.watch()
    await site.equal()
    for turn in range(2):
        await site.close()
        put(root, {f"pkg{turn}/while_away.py": f"{turn}", "pkg1/sub1/mod1.py": f"away {turn}"})
        (root / f"pkg{10 + turn}").rename(root / f"renamed{turn}")
        shutil.rmtree(root / f"pkg{20 + turn}")
        await asyncio.sleep(0.3)
        await site.open()
        await site.equal()
    await site.unwatch()


async def test_the_indexer_restarts_and_finds_what_changed_meanwhile(site: Site) -> None:
    root = site.root
    put(root, many("main"))
    for turn in range(2):
        site.watch()
        await site.equal()
        revision, sent = site.info.revision, site.bodies
        await site.unwatch()
        site.watch()
        await site.until(lambda: site.said[-1].phase == "watching")
        assert (site.info.revision, site.bodies) == (revision, sent), "nothing changed, nothing moves"
        await site.unwatch()
        put(root, {f"new{turn}.py": "new", f"pkg{turn}/sub1/x.py": "x"})
        (root / f"pkg{10 + turn}").rename(root / f"renamed{turn}")
        shutil.rmtree(root / f"pkg{20 + turn}")
    site.watch()
    await site.equal()
    await site.unwatch()


async def test_the_workspace_is_deleted_and_the_store_lost(site: Site) -> None:
    put(site.root, many("main", 300))
    site.watch()
    await site.equal()
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=f"{site.folder}/g.sock")) as client:
        answer = await client.delete("http://gateway/api/workspaces/w")
        assert answer.status_code == 204
    site.warm.tree.clear()
    put(site.root, {"after.py": "after"})
    await site.equal()
    await site.close()
    shutil.rmtree(site.folder / "store")
    site.warm.tree.clear()
    await site.open()
    put(site.root, {"later.py": "later"})
    await site.equal()
    await site.unwatch()


async def test_requests_and_answers_get_lost(site: Site) -> None:
    site.breaks = ["", "deaf", "", "", "lost", "", "", "deaf"]  # PUT, manifest, blobs, manifest; from PUT on again
    put(site.root, many("main", 600))
    site.watch()
    await site.equal()
    site.breaks = ["deaf"]
    put(site.root, many("next", 600))
    await site.equal()
    assert not site.breaks
    await site.unwatch()


@pytest.mark.parametrize("seed", range(2))
async def test_a_random_walk_under_full_load(site: Site, seed: int) -> None:
    """Nobody waits for anything: files and folders come, go, move and change while they are read and pushed."""
    chance, root = random.Random(seed), site.root
    put(root, many("main", 400))
    site.watch()
    for _ in range(90):
        await asyncio.sleep(chance.choice((0, 0, 0, 0.001, 0.01, 0.06)))
        walk_one_step(chance, root)
    await site.equal(60)
    await site.unwatch()


def walk_one_step(chance: random.Random, root: Path) -> None:
    places = [Path(folder) for folder, names, _ in os.walk(root) if ".git" not in Path(folder).parts]
    folder = chance.choice(places)
    files = [path for path in folder.iterdir() if path.is_file()]
    kind = chance.randrange(8)
    name = f"n{chance.randrange(40)}"
    with contextlib.suppress(OSError, shutil.Error):  # into itself, onto a folder, already there: never mind
        if kind <= 1:
            (folder / f"{name}.py").write_text("x" * chance.randrange(3000) + str(chance.random()))
        elif kind == 2 and files:
            chance.choice(files).rename(chance.choice(places) / f"{name}.py")
        elif kind == 3 and files:
            chance.choice(files).unlink()
        elif kind == 4 and folder != root:
            folder.rename(chance.choice(places) / name)
        elif kind == 5:
            (folder / name).mkdir()
            (folder / name / "deep.py").write_text(str(chance.random()))
        elif kind == 6 and folder != root and chance.random() < 0.2:
            shutil.rmtree(folder)
        elif kind == 7 and files:
            with chance.choice(files).open("a") as file:
                file.write(f"more {chance.random()}")


async def test_a_growing_and_a_flickering_file_end_at_what_they_are(site: Site) -> None:
    put(site.root, many("main", 50))
    site.watch()
    await site.equal()
    with (site.root / "grows.txt").open("w") as file:
        for number in range(200):
            file.write(f"line {number}\n")
            file.flush()
            (site.root / "flickers.py").write_text(str(number))
            if number % 3:
                (site.root / "flickers.py").unlink()
            await asyncio.sleep(0.005)
    await site.equal()
    await site.unwatch()


async def test_folders_from_outside_and_links_in_their_place(site: Site) -> None:
    root, outside = site.root, site.folder
    put(root, {"a.py": "1"})
    put(outside, {f"out/d{n}/f.py": f"{n}" for n in range(50)})
    site.watch()
    await site.equal()
    (outside / "out").rename(root / "in")
    await site.equal()
    put(root, {"in/d3/f.py": "later"})
    await site.equal()
    (root / "in").rename(outside / "away")
    (root / "in").symlink_to(outside / "away")
    put(outside, {"away/d3/f.py": "outside now"})
    await site.equal()
    (root / "in").unlink()
    (outside / "away").rename(root / "in")
    await site.equal()
    shutil.rmtree(root)
    await asyncio.sleep(0.3)
    root.mkdir()
    git(root, "init", "-q")
    put(root, {"n/new.py": "2"})
    await site.equal()
    put(root, {"n/watched.py": "2"})
    await site.equal()
    await site.unwatch()


async def test_an_indexer_that_ends_leaves_nothing_open(site: Site) -> None:
    put(site.root, {f"d{n}/a.py": "1" for n in range(20)})
    left = []
    for _ in range(5):
        site.watch()
        await site.equal()
        await site.unwatch()
        left.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert left[-1] <= (left[2][0] + 1, left[2][1] + 1)
