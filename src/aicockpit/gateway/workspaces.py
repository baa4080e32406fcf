"""`/api/workspaces`: what an indexer sends (manifest, blobs), what an editor tells (focus), and what both ask (status).

The event loop only reads and answers: inflating, decoding, comparing and SQLite run in threads, one manifest and two
pushes at a time, so that the requests to models that pass beside them keep their threads and their memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from aicockpit.errors import ApiError, BadRequest, Forbidden, NotFound, RevisionConflict, TooLarge
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.gateway.intake import Intake, gzipped, inflate
from aicockpit.workspace.blobs import HASH_BYTES, frames
from aicockpit.workspace.manifest import check_path
from aicockpit.workspace.store import Applied, Change, Conflict, File, Info, Missing, Store, StoreLimits

logger = logging.getLogger(__name__)

SERVER = "server"
_FOCUS_BODY = 64 * 1024
_PUSHES = 2
_BUDGET = 256 * 1024 * 1024
_BODY_WAIT_S = 300.0
_PIECE = 1024 * 1024
_OTHER_QUOTES = 10_000

_Found = TypeVar("_Found")
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Time = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Warm(Protocol):
    """What keeps workspaces warm. The coroutines only note what there is to do, and return at once."""

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        """Called once for each new revision, in order."""

    async def focus(self, id: int, path: str, line: int | None, model: str | None) -> None: ...

    async def deleted(self, id: int) -> None: ...

    def status(self, id: int) -> dict[str, Any]: ...


class Cold:
    """Keeps nothing warm."""

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        pass

    async def focus(self, id: int, path: str, line: int | None, model: str | None) -> None:
        pass

    async def deleted(self, id: int) -> None:
        pass

    def status(self, id: int) -> dict[str, Any]:
        return {}


class Folders(Protocol):
    """The server's own indexers of folders, by the names of the server's workspaces (`folders.py`)."""

    def told(self, name: str) -> dict[str, Any] | None: ...

    async def end(self, name: str) -> bool: ...


class _Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    path: str
    hash: str
    size: _Size
    mtime_ns: _Time


class _Manifest(msgspec.Struct, frozen=True):
    base: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None
    files: list[msgspec.Raw]  # of `_Entry`: decoded one by one, so that other threads get their turn
    removed: list[str] = []


_ROW = msgspec.json.Decoder(_Entry)


class _Focus(msgspec.Struct, frozen=True):
    path: str
    line: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    model: str | None = None


def owner_of(caller: Caller) -> str:
    """Whom a workspace belongs to that this caller makes."""
    return SERVER if caller.id == CONTROL.id else caller.id


def visible(store: Store, caller: Caller, name: str) -> Info | None:
    """The workspace that a name means to a caller: its own, else the server's, else, to an admin, the only one."""
    for owner in (owner_of(caller), SERVER):
        if (found := store.find(owner, name)) is not None:
            return found
    others = [info for info in store.list() if info.name == name] if caller.admin else []
    return others[0] if len(others) == 1 else None


def names(store: Store, caller: Caller) -> list[str]:
    """Names of the caller's own workspaces and of the server's, the one used last first."""
    mine = (owner_of(caller), SERVER)
    used = sorted((info for info in store.list() if info.owner in mine), key=lambda info: -info.used)
    return list(dict.fromkeys(info.name for info in used))


def add(
    app: FastAPI,
    store: Store,
    warm: Warm,
    first_name: Callable[[str], str] = str,
    folders: Folders | None = None,
) -> None:
    """Mount the routes. Who calls stands in the scope, as `admin.py` has it; errors are left to its handlers.

    `first_name` gives a model's own name for any of its names. Raises NotFound, NotReady.
    """
    intake = Intake(max(_BUDGET, store.limits.manifest_body), _BODY_WAIT_S)
    # One writer at a time is SQLite's rule; it also keeps the revisions in order for `warm`.
    one_manifest, pushes = asyncio.Lock(), asyncio.Semaphore(_PUSHES)
    _add_reading(app, store, warm, folders)

    @app.put("/api/workspaces/{name}")
    async def create(request: Request, name: str) -> Response:
        caller: Caller = request.scope["aicockpit.caller"]
        owner = owner_of(caller)
        if (known := store.find(owner, name)) is not None:
            return JSONResponse(_status(known, warm))
        return JSONResponse(_status(await asyncio.to_thread(store.create, owner, name), warm), 201)

    @app.delete("/api/workspaces/{name}", status_code=204)
    async def delete(request: Request, name: str) -> None:
        info = _changeable(store, request, name)
        if folders is not None and info.owner == SERVER:
            await folders.end(name)  # it would make the workspace anew

        async def drop() -> None:
            async with one_manifest:
                await asyncio.to_thread(store.delete, info.id)
                await _told(warm.deleted(info.id))

        await _to_its_end(drop())

    @app.post("/api/workspaces/{name}/manifest")
    async def sync(request: Request, name: str) -> Response:
        info = _changeable(store, request, name)

        async def apply(raw: memoryview) -> Applied | Missing | Conflict:
            async with one_manifest:
                result = await asyncio.to_thread(_propose, store, info.id, raw, gzipped(request))
                if isinstance(result, Applied) and result.changed:
                    await _told(warm.changed(info.id, result.changed))
                return result

        async with intake.body(request, store.limits.manifest_body) as raw:
            result = await _to_its_end(apply(raw))
        if isinstance(result, Conflict):
            raise RevisionConflict(
                f"the workspace is at revision {result.revision}: send the complete manifest (`base` null)",
                result.revision,
            )
        missing = result if isinstance(result, Missing) else Missing(result.revision, (), 0)
        answer = {
            "applied": isinstance(result, Applied),
            "revision": result.revision,
            "missing": [hash.hex() for hash in missing.hashes],
            "missing_count": missing.count,
        }
        return JSONResponse(answer)

    @app.post("/api/workspaces/{name}/blobs")
    async def push(request: Request, name: str) -> dict[str, int]:
        info = _changeable(store, request, name)
        async with intake.body(request, store.limits.push) as raw, pushes:
            stored, known = await asyncio.to_thread(_put, store, info.id, raw, gzipped(request))
        return {"stored": stored, "known": known}

    @app.post("/api/workspaces/{name}/focus", status_code=202)
    async def focus(request: Request, name: str) -> dict[str, Any]:
        info = _found(store, request, name)
        async with intake.body(request, _FOCUS_BODY) as raw:
            asked = _decode(inflate(raw, _FOCUS_BODY) if gzipped(request) else raw, _Focus)
        check_path(asked.path)
        model = first_name(asked.model) if asked.model else None
        store.touch(info.id)
        await _told(warm.focus(info.id, asked.path, asked.line, model))
        return {}


def _add_reading(app: FastAPI, store: Store, warm: Warm, folders: Folders | None) -> None:
    @app.get("/api/workspaces")
    async def workspaces(request: Request) -> dict[str, Any]:
        caller: Caller = request.scope["aicockpit.caller"]
        mine = (owner_of(caller), SERVER)
        shown = [info for info in store.list() if caller.admin or info.owner in mine]
        return {"workspaces": [_status(info, warm) for info in shown]}

    @app.get("/api/workspaces/{name}")
    async def workspace(request: Request, name: str) -> dict[str, Any]:
        info, admin = _found(store, request, name), request.scope["aicockpit.caller"].admin
        kept = folders.told(info.name) if folders is not None and admin and info.owner == SERVER else None
        return _status(info, warm) | ({"folder": kept} if kept is not None else {})


def _found(store: Store, request: Request, name: str) -> Info:
    info = visible(store, request.scope["aicockpit.caller"], name)
    if info is None:
        raise _not_found(name)
    return info


def _changeable(store: Store, request: Request, name: str) -> Info:
    """The caller's own, else, to an admin, the server's. Never another key's: who writes to a name means its own."""
    caller: Caller = request.scope["aicockpit.caller"]
    if (own := store.find(owner_of(caller), name)) is not None:
        return own
    info = store.find(SERVER, name)
    if info is None:
        raise _not_found(name)
    if not caller.admin:
        raise Forbidden(
            f"workspace {name!r} is the server's own: every key may use it, admin keys may change it. "
            "Make one of this key with PUT.",
            code="workspace_read_only",
        )
    return info


def _not_found(name: str) -> NotFound:
    return NotFound(
        f"there is no workspace {name[:100]!r} of this key; `PUT /api/workspaces/{{name}}` makes one",
        code="workspace_not_found",
    )


def _propose(store: Store, id: int, raw: memoryview, packed: bool | None) -> Applied | Missing | Conflict:
    limits = store.limits
    body = memoryview(inflate(raw, limits.manifest_body)) if packed else raw
    _refuse_many(body, limits)
    asked = _decode(body, _Manifest)
    files = [_file(number, row) for number, row in enumerate(asked.files)]
    return store.propose(id, asked.base, files, asked.removed)


def _refuse_many(body: memoryview, limits: StoreLimits) -> None:
    """Raises TooLarge for more strings than a manifest may hold, before objects are made of them.

    A file has two strings and a removed path one: six quotes for each file that may be, and some for escaped ones.
    In pieces, so that other threads get their turn.
    """
    quotes = 0
    for start in range(0, len(body), _PIECE):
        quotes += bytes(body[start : start + _PIECE]).count(b'"')
        if quotes > 6 * limits.files + _OTHER_QUOTES:
            raise TooLarge(
                f"the manifest names far more than the {limits.files} files that are allowed: exclude folders with "
                ".gitignore or .aicockpitignore",
                code="too_many_files",
            )


def _put(store: Store, id: int, raw: memoryview, packed: bool | None) -> tuple[int, int]:
    return store.put_blobs(frames(inflate(raw, store.limits.push) if packed else raw), id)


def _file(number: int, row: msgspec.Raw) -> File:
    try:
        entry = _ROW.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"file {number} of the manifest is not [path, hash, size, mtime_ns]: {error}"
        raise BadRequest(why, code="invalid_json") from error
    return File(entry.path, _hash(entry), entry.size, entry.mtime_ns)


def _hash(entry: _Entry) -> bytes:
    try:
        hash = bytes.fromhex(entry.hash)
    except ValueError:
        hash = b""
    if len(hash) != HASH_BYTES or len(entry.hash) != 2 * HASH_BYTES:
        raise BadRequest(
            f"the hash of {entry.path[:200]!a} is not {2 * HASH_BYTES} hexadecimal digits", code="bad_hash"
        )
    return hash


def _decode(raw: bytes | memoryview, kind: type[_Found]) -> _Found:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not what this route takes: {error}", code="invalid_json") from error


def _status(info: Info, warm: Warm) -> dict[str, Any]:
    return {
        "name": info.name,
        "owner": info.owner,
        "revision": info.revision,
        "files": info.files,
        "bytes": info.bytes,
        "created": info.created,
        "used": info.used,
        "context": warm.status(info.id),
    }


async def _told(telling: Coroutine[Any, Any, None]) -> None:
    """What is on disk is done: a defect of those who are told of it goes to the log, not to the client."""
    task = asyncio.create_task(telling)
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("keeping workspaces warm failed", exc_info=error)


async def _to_its_end(work: Coroutine[Any, Any, _Found]) -> _Found:
    """Cancelled or not, what reaches the disk is also told: a thread cannot be called back."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def tidy(store: Store, period_s: float = 600.0) -> None:
    """Collect blobs that nobody needs, now and then, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        try:
            if removed := await asyncio.to_thread(store.collect):
                logger.info("%d blobs that no workspace needs were removed", removed)
        except (ApiError, OSError) as error:
            logger.warning("old blobs could not be removed: %s", error)
