"""Folders of this machine that the server itself keeps as workspaces, each by an indexer, a process beside us.

`warm.py` owns `Folders` and gives it the server's own tree; an admin's editor on this machine asks for others by route.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from aicockpit.errors import BadRequest, Conflict, Forbidden, Overloaded
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.gateway.intake import Intake, gzipped, inflate
from aicockpit.gateway.workspaces import SERVER, owner_of
from aicockpit.settings import keyless
from aicockpit.workspace.store import Store

logger = logging.getLogger(__name__)

# How an indexer's lines begin, and what that means.
STATES = {
    "looking for files": "indexing",
    "reading files": "indexing",
    "sending what the gateway lacks": "indexing",
    "in sync": "synced",
    "waiting for the gateway": "waiting",
    "waiting for the folder": "paused",
}
# With one of these a proxy has passed the request on: the connection says nothing of where its client is.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_BODY, _BUDGET, _BODY_WAIT_S = 64 * 1024, 1024 * 1024, 30.0


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """`folders` at once. An indexer that ended begins again after `again_s` seconds, then after twice as long each
    time, `longest_s` at most; one that ran for `steady_s` counts as sound. `end_s`: from its stdin's end to its kill.
    """

    folders: int = 16
    again_s: float = 5.0
    longest_s: float = 60.0
    steady_s: float = 60.0
    end_s: float = 3.0


@dataclass(slots=True)
class _Kept:
    """One folder. Its task alone changes `state` (starting, those of STATES, failed) and `told`, the last line."""

    path: Path
    fixed: bool
    state: str = "starting"
    told: str = ""
    task: asyncio.Task[None] | None = None

    def hear(self, line: str) -> None:
        self.told = line
        self.state = next((state for words, state in STATES.items() if line.startswith(words)), self.state)


class Folders:
    """The indexers of one server; they end with it."""

    def __init__(
        self,
        state_dir: Path,
        limits: FolderLimits | None = None,
        command: Sequence[str] = (sys.executable, "-m", "aicockpit.cli"),
    ) -> None:
        self._state_dir, self._limits, self._command = state_dir, limits or FolderLimits(), tuple(command)
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those that are being ended too

    def begin(self, path: Path, name: str, *, fixed: bool = False) -> bool:
        """Keep a folder, by its absolute path, as the server's workspace `name`; "": as the indexer calls it.

        False when it is kept so already. `fixed`: until the server ends. Raises Conflict when another folder has that
        name, and Overloaded.
        """
        known = self._kept.get(name)
        if known is not None and known.path == path:
            known.fixed |= fixed
            return False
        if known is not None:
            raise Conflict(
                f"workspace {name!r} is kept from another folder, {known.path}: choose another name, or end that one "
                f"with `DELETE /api/workspaces/{name}/folder`",
                code="folder_taken",
            )
        if len(self._kept) >= self._limits.folders and not fixed:
            raise Overloaded(
                f"{len(self._kept)} folders are indexed by this server, and no more are allowed: end one with "
                "`DELETE /api/workspaces/NAME/folder`, or run `aicockpit watch` for this one",
                code="too_many_folders",
            )
        kept = self._kept[name] = _Kept(path, fixed)
        kept.task = task = asyncio.create_task(self._keep(kept, name), name=f"indexer of {path}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def end(self, name: str) -> bool:
        """False when no folder has that name, or a fixed one: the server's own tree ends with the server."""
        kept = self._kept.get(name)
        if kept is None or kept.fixed or kept.task is None:
            return False
        del self._kept[name]
        kept.task.cancel()
        await asyncio.gather(kept.task, return_exceptions=True)
        return True

    def told(self, name: str) -> dict[str, Any] | None:
        """How a folder stands, as JSON; None: no folder is kept under that name."""
        kept = self._kept.get(name)
        return None if kept is None else {"path": str(kept.path), "state": kept.state, "told": kept.told}

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()

    async def _keep(self, kept: _Kept, name: str) -> None:
        limits, wait_s = self._limits, self._limits.again_s
        while True:
            began = time.monotonic()
            why = await self._once(kept, name)
            kept.state = "failed"
            if time.monotonic() - began >= limits.steady_s:
                wait_s = limits.again_s
            logger.warning("the indexer of %s ended (%s); again in %g s", kept.path, why, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(limits.longest_s, 2 * wait_s)

    async def _once(self, kept: _Kept, name: str) -> str:
        """From its start to its end; why it ended. Cancelled, it is ended."""
        words = ("watch", str(kept.path), "--until-eof", *(("--name", name) if name else ()))
        environ = {**keyless(os.environ), "AICOCKPIT_STATE_DIR": str(self._state_dir)}
        pipe = asyncio.subprocess.PIPE
        try:  # in a session of its own: Ctrl-C is for us, the end of its stdin for it
            child = await asyncio.create_subprocess_exec(
                *self._command,
                *words,
                stdin=pipe,
                stdout=pipe,
                stderr=asyncio.subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
            return f"exit code {await self._follow(child, kept)}"
        except (OSError, ValueError) as error:
            kept.told = str(error)
            return str(error)

    async def _follow(self, child: asyncio.subprocess.Process, kept: _Kept) -> int:
        """Its lines into our log; its exit code."""
        try:
            assert child.stdout is not None
            async for raw in child.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                logger.info("indexer: %s", line)
                kept.hear(line)
            return await child.wait()
        finally:
            await self._end(child)

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        """Its stdin ends, which asks it to stop; then it is killed."""
        if child.returncode is not None:
            return
        if child.stdin is not None:
            child.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), self._limits.end_s)
        if child.returncode is None:
            child.kill()
            await child.wait()


class Asked(msgspec.Struct, frozen=True):
    """What a client says of its folder. `device` and `inode` may come as strings: they pass 2^53."""

    path: str
    device: int
    inode: int


def add(app: FastAPI, store: Store, folders: Folders) -> None:
    """Mount the route. Raises Forbidden, Conflict, BadRequest, Overloaded."""
    intake = Intake(_BUDGET, _BODY_WAIT_S)

    @app.put("/api/workspaces/{name}/folder")
    async def keep(request: Request, name: str) -> Response:
        _refuse_others(request)
        async with intake.body(request, _BODY) as raw:
            asked = _decode(inflate(raw, _BODY) if gzipped(request) else raw)
        path = await asyncio.to_thread(place, asked)
        _refuse_hidden(store, request.scope["aicockpit.caller"], name)
        await asyncio.to_thread(store.create, SERVER, name)
        new = folders.begin(path, name)
        return JSONResponse({"folder": folders.told(name)}, 201 if new else 200)

    @app.delete("/api/workspaces/{name}/folder", status_code=204)
    async def leave(request: Request, name: str) -> None:
        _refuse_others(request)
        if not await folders.end(name) and folders.told(name) is not None:
            raise Forbidden(
                f"{name!r} is the server's own tree (AICOCKPIT_WORKSPACE), which it keeps until it ends",
                code="folder_not_allowed",
            )


def place(asked: Asked) -> Path:
    """The folder that was asked for, if it is the one that the client sees. Raises BadRequest, Conflict, Forbidden."""
    if not os.path.isabs(asked.path) or "\0" in asked.path:
        raise BadRequest("`path` is not an absolute path", code="bad_path", param="path")
    try:
        found = os.stat(asked.path)
        path = Path(asked.path).resolve(strict=True)
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        raise _not_here(asked, f"the server cannot see it ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISDIR(found.st_mode):
        raise _not_here(asked, "it is not a folder")
    if (found.st_dev, found.st_ino) != (asked.device, asked.inode):
        raise _not_here(asked, "the server has another folder at that path")
    if path.parent == path:
        raise Forbidden(f"{path} is the whole machine: name the folder of a project", code="folder_not_allowed")
    return path


def _not_here(asked: Asked, why: str) -> Conflict:
    return Conflict(
        f"{asked.path[:200]!a} is not on the server as it is at the client: {why}. Push its files instead "
        "(`aicockpit watch`, or an editor that does).",
        code="folder_not_here",
    )


def _refuse_others(request: Request) -> None:
    """Only an admin may have the server read its own disk, and only from this machine. Raises Forbidden."""
    caller: Caller = request.scope["aicockpit.caller"]
    if not caller.admin:
        raise Forbidden(
            "this key may not have the server index a folder; make one with `aicockpit keys create NAME --admin`, or "
            "push the files with `aicockpit watch`",
            code="folder_not_allowed",
        )
    if caller.id == CONTROL.id:
        return
    passed_on = [name for name in _FORWARDED if name in request.headers]
    if passed_on or not _is_loopback(request.scope.get("client")):
        how = f"came through a proxy (header {passed_on[0]})" if passed_on else "does not come from this machine"
        raise Forbidden(
            f"the server indexes folders for programs on its own machine only, and this request {how}: push the files "
            "with `aicockpit watch`",
            code="folder_not_allowed",
        )


def _is_loopback(client: object) -> bool:
    """`client`: ASGI's (host, port), or None."""
    if not isinstance(client, (tuple, list)) or not client:
        return False
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _refuse_hidden(store: Store, caller: Caller, name: str) -> None:
    """The folder's workspace belongs to the server: one of the caller's own of that name would be found before it."""
    if owner_of(caller) != SERVER and store.find(owner_of(caller), name) is not None:
        raise Conflict(
            f"this key has a workspace {name!r} of its own, which would hide the server's: go on pushing to it, delete "
            "it first, or choose another name",
            code="workspace_exists",
        )


def _decode(raw: bytes | memoryview) -> Asked:
    try:
        return msgspec.json.decode(raw, type=Asked, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not what this route takes: {error}", code="invalid_json") from error


__all__ = ["STATES", "Asked", "FolderLimits", "Folders", "add", "place"]
