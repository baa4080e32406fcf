"""What an operator may change while the server runs: the fleet, and a model's adapters. Admin keys only."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from aicockpit.errors import AicockpitError, ApiError, BadRequest, Forbidden
from aicockpit.gateway.waking import Waker

T = TypeVar("T")


class Operations(Waker, Protocol):
    """What the server can do; raises AicockpitError with what is wrong, and then nothing has changed."""

    def reload(self) -> Coroutine[None, None, Mapping[str, Any]]: ...
    def adapters(self, model: str) -> list[dict[str, Any]]: ...
    def add_adapter(self, model: str, name: str, path: str) -> Coroutine[None, None, None]: ...
    def remove_adapter(self, model: str, name: str) -> Coroutine[None, None, None]: ...


class Adapter(BaseModel):
    """`path`: a folder on the server with adapter_config.json."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/\-]*$")
    path: str = Field(min_length=1, max_length=4096)


def add(app: FastAPI, operations: Operations) -> None:
    """The routes below /api."""

    def admin(request: Request) -> None:
        if not request.scope["aicockpit.caller"].admin:
            raise Forbidden("this key may not change the fleet; make one with `aicockpit keys create NAME --admin`")

    @app.post("/api/reload")
    async def reload(request: Request) -> Mapping[str, Any]:
        admin(request)
        return await _told(operations.reload(), "fleet_invalid")

    @app.get("/api/models/{model:path}/adapters")
    async def adapters(model: str) -> dict[str, Any]:
        return {"adapters": operations.adapters(model)}

    @app.post("/api/models/{model:path}/adapters", status_code=201)
    async def add_adapter(request: Request, model: str, adapter: Adapter) -> dict[str, Any]:
        admin(request)
        await _told(operations.add_adapter(model, adapter.name, adapter.path), "adapter_refused")
        return {"adapters": operations.adapters(model)}

    @app.delete("/api/models/{model:path}/adapters/{name:path}", status_code=204)
    async def remove_adapter(request: Request, model: str, name: str) -> Response:
        admin(request)
        await _told(operations.remove_adapter(model, name), "adapter_refused")
        return Response(status_code=204)


async def _told(work: Coroutine[None, None, T], code: str) -> T:
    """A mistake of the operator's is a 400 with the server's own words."""
    try:
        return await work
    except ApiError:
        raise
    except AicockpitError as error:
        raise BadRequest(str(error), code=code) from error
