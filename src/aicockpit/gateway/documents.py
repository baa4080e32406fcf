"""`/api/docs`: documentation to search and to cite. A key sees its own sources and the server's."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from aicockpit.documents import address
from aicockpit.documents.library import Library
from aicockpit.documents.values import Source, Tally
from aicockpit.errors import BadRequest, Forbidden, NotFound
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.gateway.intake import Intake, gzipped, inflate

SERVER = "server"
_UPLOAD_WAIT_S = 600.0
_UPLOADS = 2
_HITS = 50

_Name = Annotated[str, Query(min_length=1, max_length=200)]


class Adding(BaseModel):
    """`name` is what the source is called; without one it is named after its address."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(min_length=1, max_length=address.LONGEST)
    name: str = Field(default="", max_length=200)


class Searching(BaseModel):
    """`sources`: ids or names; none means all that the key sees."""

    model_config = ConfigDict(extra="forbid")
    query: str
    sources: list[str] = Field(default=[], max_length=100)
    limit: int = Field(default=6, ge=1, le=_HITS)


def add(app: FastAPI, library: Library) -> None:
    """Mount the routes. Who calls stands in the scope, as `admin.py` has it; errors are left to its handlers."""
    intake = Intake(_UPLOADS * library.limits.upload, _UPLOAD_WAIT_S)
    _add_reading(app, library)

    @app.post("/api/docs", status_code=201)
    async def add_site(request: Request, asked: Adding) -> dict[str, Any]:
        caller = _caller(request)
        url = address.check(asked.url)
        name = asked.name.strip() or address.site_of(url).host
        return await _shown(library, await library.add(_owner(caller), name, url, caller.admin))

    @app.post("/api/docs/upload", status_code=201)
    async def upload(request: Request, name: _Name, file: _Name) -> dict[str, Any]:
        limit = library.limits.upload
        async with intake.body(request, limit) as raw:
            content = inflate(raw, limit) if gzipped(request) else raw
            if not content:
                raise BadRequest("the body is empty: send the archive or the document", code="empty_upload")
            shown = posixpath.basename(file.replace("\\", "/")) or "upload"
            return await _shown(library, await library.upload(_owner(_caller(request)), name, shown, content))

    @app.post("/api/docs/{id}/cancel", status_code=202)
    async def cancel(request: Request, id: str) -> dict[str, Any]:
        source = await _changeable(library, request, id)
        await library.cancel(source.id)
        return await _shown(library, await _found(library, request, id))

    @app.post("/api/docs/{id}/refresh", status_code=202)
    async def refresh(request: Request, id: str) -> dict[str, Any]:
        source = await _changeable(library, request, id)
        await library.refresh(source.id, _caller(request).admin)
        return await _shown(library, await _found(library, request, id))

    @app.delete("/api/docs/{id}", status_code=204)
    async def remove(request: Request, id: str) -> None:
        source = await _changeable(library, request, id)
        await library.remove(source.id)


def _add_reading(app: FastAPI, library: Library) -> None:
    @app.get("/api/docs")
    async def docs(request: Request) -> dict[str, Any]:
        sources = await library.sources(_owners(_caller(request)))
        return {"docs": [await _shown(library, source) for source in sources]}

    @app.post("/api/docs/search")
    async def search(request: Request, asked: Searching) -> dict[str, Any]:
        most = library.limits.query
        if not asked.query.strip() or len(asked.query) > most:
            raise BadRequest(f"`query` has 1 to {most} characters", code="bad_query", param="query")
        mine = await library.sources(_owners(_caller(request)))
        chosen = [_named(mine, one) for one in asked.sources] if asked.sources else mine
        if not chosen:
            return {
                "hits": [],
                "ranked_by": "nothing",
                "why": "there is no documentation yet: `POST /api/docs` adds some",
            }
        found = await library.search(list(dict.fromkeys(chosen)), asked.query, asked.limit)
        hits = [
            {"source": hit.source, "title": hit.title, "url": hit.url, "text": hit.text, "score": hit.score}
            for hit in found.hits
        ]
        return {"hits": hits, "ranked_by": found.ranked, "why": found.why}

    @app.get("/api/docs/{id}")
    async def one(request: Request, id: str) -> dict[str, Any]:
        return await _shown(library, await _found(library, request, id))


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["aicockpit.caller"]
    return caller


def _owner(caller: Caller) -> str:
    return SERVER if caller.id == CONTROL.id else caller.id


def _owners(caller: Caller) -> tuple[str, str]:
    return _owner(caller), SERVER


def _named(sources: Sequence[Source], name: str) -> Source:
    """By its id, else by its name, the caller's own before the server's. Raises NotFound."""
    own = sorted(sources, key=lambda source: source.owner == SERVER)
    wanted = name.strip().casefold()
    for source in own:
        if source.id == name:
            return source
    for source in own:
        if source.name.casefold() == wanted:
            return source
    known = ", ".join(source.name for source in own[:20]) or "none yet"
    raise NotFound(f"there is no documentation {name[:100]!r} of this key; known: {known}", code="documents_not_found")


async def _found(library: Library, request: Request, id: str) -> Source:
    return _named(await library.sources(_owners(_caller(request))), id)


async def _changeable(library: Library, request: Request, id: str) -> Source:
    """The caller's own, else, to an admin, the server's."""
    caller = _caller(request)
    source = await _found(library, request, id)
    if source.owner == SERVER and _owner(caller) != SERVER and not caller.admin:
        raise Forbidden(
            f"{source.name!r} is the server's own: every key may search it, admin keys may change it",
            code="documents_read_only",
        )
    return source


async def _shown(library: Library, source: Source) -> dict[str, Any]:
    tally = await library.tally(source)
    return {
        "id": source.id,
        "name": source.name,
        "owner": source.owner,
        "kind": source.kind,
        "from": source.origin,
        "state": source.state.value,
        "pages": tally.done,
        "chunks": tally.chunks,
        "bytes": tally.bytes,
        "problems": _problems(tally),
        "error": source.error or None,
        "embedded_by": source.embedder or None,
        "added": source.made,
        "changed": source.changed,
        "progress": {"done": tally.done, "known": tally.known, "bytes": source.bytes, "current": source.current},
    }


def _problems(tally: Tally) -> list[str]:
    return [*tally.problems, *([f"and {tally.more} more pages"] if tally.more else [])]
