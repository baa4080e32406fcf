"""The two processes that `benchmarks/index.py` measures: an indexer, and a gateway of the real routes and store.

Each is this file run by itself; what happens in it comes as lines of JSON, with times of the machine's one clock. Both
end when their input does, so that nothing stays behind whatever becomes of the benchmark.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from aicockpit.errors import ApiError
from aicockpit.gateway import envelope, workspaces
from aicockpit.gateway.auth import CONTROL
from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.workspace.store import Change, Store

NAME = "w"
TICK_S = 0.004


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of the workspace. `at`: when the store had it; `stall_s`: how long the gateway's event loop stood
    still at most since the one before; `requests`: answered since then.
    """

    changes: int
    at: float
    stall_s: float
    requests: int


def say(**what: object) -> None:
    """One line to the benchmark."""
    print(json.dumps(what), flush=True)


class Told(workspaces.Cold):
    """Hears of each revision as what keeps workspaces warm does."""

    def __init__(self) -> None:
        self.stall_s, self.requests = 0.0, 0

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        say(changes=len(changes), at=time.monotonic(), stall_s=self.stall_s, requests=self.requests)
        self.stall_s, self.requests = 0.0, 0

    async def tick(self) -> None:
        """What a request to a model would have to wait because of the event loop."""
        while True:
            start = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.stall_s = max(self.stall_s, time.monotonic() - start - TICK_S)


async def gateway(folder: Path, socket: str) -> None:
    """Serve the workspaces in `folder` until the input ends."""
    store, told = Store(folder), Told()
    app = FastAPI()

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return Response(envelope.body(error, "bench"), error.status, media_type="application/json")

    workspaces.add(app, store, told)

    async def outer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        told.requests += 1
        await app({**scope, "aicockpit.caller": CONTROL, "aicockpit.request_id": "bench"}, receive, send)

    config = uvicorn.Config(outer, uds=socket, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    ticking, serving = asyncio.create_task(told.tick()), asyncio.create_task(server.serve())
    await _input_ends()
    server.should_exit = server.force_exit = True
    ticking.cancel()
    await serving
    store.close()


async def indexer(root: Path, state: Path, socket: str) -> None:
    """Watch `root` until the input ends."""
    stop = asyncio.Event()

    def report(progress: Progress) -> None:
        say(phase=progress.phase, done=progress.done, total=progress.total, files=progress.files, at=time.monotonic())

    async def end() -> None:
        await _input_ends()
        stop.set()

    ending = asyncio.create_task(end())
    await run(Options(root, state, f"unix:{socket}", name=NAME), report, stop)
    ending.cancel()


async def _input_ends() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


class Process:
    """One of the two, from the benchmark's side. Its lines are in `told`, in the order in which they came."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.told: list[dict[str, Any]] = []
        self.peak = 0

    async def __aenter__(self) -> Process:
        self.start = time.monotonic()
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *self._words, stdin=pipe, stdout=pipe
        )
        self._seen = psutil.Process(self._process.pid)
        self._reader = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.told.append(json.loads(line))

    @property
    def cpu_s(self) -> float:
        """CPU time so far, with that of the git commands it ran."""
        times = self._seen.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    def look(self) -> None:
        """Note its memory. Raises AssertionError when it has ended."""
        assert self._process.returncode is None, f"{self._words[0]} has ended: {self.told[-3:]}"
        self.peak = max(self.peak, self._seen.memory_info().rss)

    def when(self, true: Callable[[dict[str, Any]], bool], start: int = 0) -> float | None:
        """Seconds from its start to the first of its lines, from the given one on, of which this is true."""
        found = next((line for line in self.told[start:] if true(line)), None)
        return None if found is None else float(found["at"]) - self.start

    async def __aexit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.wait_closed()
        await self._reader


class Site:
    """Both processes over one folder. The gateway stays; the indexer may start again and again."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.socket = str(folder / "g.sock")
        self.gateway = Process("gateway", str(folder / "store"), self.socket)

    async def __aenter__(self) -> Site:
        await self.gateway.__aenter__()
        try:
            await self.until(lambda: Path(self.socket).exists(), self.gateway)
        except BaseException:
            await self.gateway.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.gateway.__aexit__(*error)

    def indexer(self) -> Process:
        return Process("indexer", str(self.root), str(self.folder / "state"), self.socket)

    async def more_than(self, known: int, watching: Process) -> None:
        """Until there are more revisions than were known."""
        await self.until(lambda: len(self.gateway.told) > known, watching)

    @property
    def revisions(self) -> list[Revision]:
        return [Revision(**line) for line in self.gateway.told]

    async def until(self, true: Callable[[], bool], watching: Process) -> None:
        """Wait, with an eye on both processes."""
        while not true():
            self.gateway.look()
            watching.look()
            await asyncio.sleep(0.005)


def main(words: list[str]) -> None:
    kind, *rest = words
    if kind == "gateway":
        asyncio.run(gateway(Path(rest[0]), rest[1]))
    else:
        asyncio.run(indexer(Path(rest[0]), Path(rest[1]), rest[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
