"""The routes that are not per token: health, readiness, metrics, the model list, the engines. FastAPI."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from aicockpit import __version__
from aicockpit.engines.engine import Engine
from aicockpit.errors import (
    ApiError,
    BadRequest,
    ConnectFailed,
    EngineStartError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    NotFound,
    UpstreamLost,
    UpstreamTimeout,
)
from aicockpit.gateway import engine_page, envelope
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.directory import Directory, model_card
from aicockpit.gateway.metrics import EngineCollector, Metrics, engine_counts
from aicockpit.gateway.openai import model_list, workspace_card
from aicockpit.gateway.pressure import advice
from aicockpit.gateway.records import Records
from aicockpit.gateway.routing import describe

logger = logging.getLogger(__name__)

_TAIL = 200
_SCRAPE_WAIT_S = 1.0
_FRESH_S = 15.0  # what was read of an engine's metrics since then is shown again
_WATCH_S = 60.0
_MEMORY_LIMIT = 0.95


class Controls(Protocol):
    """What the supervisor lets an operator do; starting raises EngineStartError when it fails."""

    @property
    def engines(self) -> Sequence[Engine]: ...
    @property
    def preparing(self) -> str: ...
    def restart(self, name: str) -> Coroutine[None, None, None]: ...
    def stop(self, name: str) -> Coroutine[None, None, None]: ...
    def start_engine(self, name: str) -> Coroutine[None, None, None]: ...
    def log_tail(self, name: str, lines: int) -> list[str]: ...


def build(
    controls: Controls,
    directory: Directory,
    metrics: Metrics,
    collector: EngineCollector,
    records: Records,
    used_memory: Callable[[], float | None],
    refresh: Callable[[], None] = lambda: None,
    workspaces: Callable[[Caller], Sequence[str]] = lambda _: (),
) -> FastAPI:
    """`used_memory` is the share of the machine's memory in use, 0 to 1, or None when unknown.

    `refresh` reads, before a page of metrics is written in a thread, what belongs to the event loop. `workspaces` names
    those that a caller may use.
    """
    app = FastAPI(title="AiCockpit", version=__version__, docs_url=None, redoc_url=None)
    metrics.registry.register(collector)
    created = int(time.time())
    _add_health(app, directory, used_memory)
    _add_models(app, directory, created, workspaces)
    _add_engines(app, controls, collector)
    _add_requests(app, records)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        await _look(controls.engines, collector)
        refresh()
        page = await asyncio.to_thread(generate_latest, metrics.registry)  # NVML may take its time
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _error(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        if error.status_code == 405:
            return _error(request, MethodNotAllowed(f"{path} does not take {request.method}"))
        return _error(request, NotFound(f"there is no route {path}", code="no_route"))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        return _error(request, InternalError("the gateway failed on this request; its log says where"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _error(request, BadRequest(f"{place}: {first['msg']}", code="invalid_parameter", param=place))

    return app


def readiness(directory: Directory, used_memory: float | None) -> tuple[bool, str]:
    """Can a request be answered now, and if not, why."""
    if used_memory is not None and used_memory > _MEMORY_LIMIT:
        return False, f"the machine's memory is {used_memory:.0%} used"
    if stage := directory.preparing():
        return False, stage
    if not directory.engines:
        return False, "no model is served: set MODEL_NAME or AICOCKPIT_ENGINE_URLS"
    if any(engine.ready and not engine.breaker.open for engine in directory.engines):
        return True, "ready"
    if any(one.wakeable or (one.coming_back and not one.restarting) for one in directory.engines):
        return True, "no model is in memory; a request brings it back"
    return False, "; ".join(describe(engine) for engine in directory.engines)


def _add_health(app: FastAPI, directory: Directory, used_memory: Callable[[], float | None]) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        good, reason = readiness(directory, used_memory())
        headers = {} if good else {"retry-after": "5"}
        return JSONResponse({"ready": good, "reason": reason}, 200 if good else 503, headers)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__, "name": "aicockpit"}


def _add_models(
    app: FastAPI, directory: Directory, created: int, workspaces: Callable[[Caller], Sequence[str]]
) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        mine = workspaces(request.scope["aicockpit.caller"])
        return Response(model_list(directory, created, mine), media_type="application/json")

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, object]:
        base, _, workspace = name.rpartition("@")
        if name not in directory.names() and workspace in workspaces(request.scope["aicockpit.caller"]):
            return workspace_card(directory, created, base, workspace)
        return model_card(directory, name, created)


def _add_engines(app: FastAPI, controls: Controls, collector: EngineCollector) -> None:
    running: set[asyncio.Task[None]] = set()

    def find(name: str) -> Engine:
        for engine in controls.engines:
            if engine.name == name:
                return engine
        known = ", ".join(engine.name for engine in controls.engines) or "none"
        raise NotFound(f"there is no engine {name[:100]!r}; engines: {known}", code="engine_not_found")

    def admin(request: Request, what: str) -> None:
        if not request.scope["aicockpit.caller"].admin:
            raise Forbidden(f"this key may not {what}; make one with `aicockpit keys create NAME --admin`")

    def supervised(request: Request, name: str) -> str:
        admin(request, "control engines")
        if not find(name).supervised:
            raise Forbidden(f"engine {name!r} was not started by this server, so it cannot be started or stopped here")
        return name

    @app.get("/api/engines")
    async def engines() -> dict[str, Any]:
        await _look(controls.engines, collector, _FRESH_S)
        return {"engines": [_status(engine, collector) for engine in controls.engines]}

    @app.get("/api/engines/{name}")
    async def engine(name: str, lines: int = 50) -> dict[str, Any]:
        tail = controls.log_tail(find(name).name, max(0, min(lines, _TAIL)))
        await _look([find(name)], collector, _FRESH_S)
        return {**_status(find(name), collector), "log_tail": tail}

    @app.get("/api/engines/{name}/metrics")
    async def engine_metrics(request: Request, name: str) -> Response:
        admin(request, "read an engine's metrics")
        page, kind = await engine_page.page(find(name))
        return Response(page, headers={"content-type": kind})

    async def begin(
        request: Request, name: str, action: Callable[[str], Coroutine[None, None, None]]
    ) -> dict[str, Any]:
        """Loading takes minutes: the answer is the state now, and `GET` tells how it goes on."""
        task = asyncio.create_task(_reported(action(supervised(request, name)), name))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(0)
        return _status(find(name), collector)

    @app.post("/api/engines/{name}/restart", status_code=202)
    async def restart(request: Request, name: str) -> dict[str, Any]:
        return await begin(request, name, controls.restart)

    @app.post("/api/engines/{name}/stop", status_code=202)
    async def stop(request: Request, name: str) -> dict[str, Any]:
        return await begin(request, name, controls.stop)

    @app.post("/api/engines/{name}/start", status_code=202)
    async def start(request: Request, name: str) -> dict[str, Any]:
        return await begin(request, name, controls.start_engine)


def _add_requests(app: FastAPI, records: Records) -> None:
    @app.get("/api/requests")
    async def requests(request: Request, limit: int = 50) -> dict[str, Any]:
        caller = request.scope["aicockpit.caller"]
        found = records.newest(caller.id, caller.admin, max(0, min(limit, 500)))
        return {"requests": [record.shown() for record in found]}

    @app.get("/api/requests/{request_id}")
    async def one_request(request: Request, request_id: str) -> dict[str, Any]:
        caller = request.scope["aicockpit.caller"]
        record = records.find(request_id, caller.id, caller.admin)
        if record is None:
            raise NotFound(
                f"no request {request_id[:64]!r} is known: only the newest are kept, and each key sees its own",
                code="request_not_found",
            )
        return record.shown()


async def _reported(action: Coroutine[None, None, None], name: str) -> None:
    try:
        await action
    except EngineStartError as error:
        logger.warning("engine %s: %s", name, error)


async def watch(controls: Controls, collector: EngineCollector, period_s: float = _WATCH_S) -> None:
    """Read the engines' counters now and then, so that what is recent is known whoever asks."""
    while True:
        await asyncio.sleep(period_s)
        await _look(controls.engines, collector, min(_FRESH_S, period_s))


async def _look(engines: Sequence[Engine], collector: EngineCollector, fresh_s: float = 0.0) -> None:
    """Read the counters of those that are ready, unless that was done within `fresh_s`."""
    now = time.monotonic()
    due = [one for one in engines if one.ready and not collector.pressure(one.name).fresh(now, fresh_s)]
    # One reading at a time for each: an older page that is counted after a newer one would look like a restart.
    await asyncio.gather(
        *(asyncio.shield(collector.reading(one, partial(_read_counts, one, collector))) for one in due)
    )


async def _read_counts(engine: Engine, collector: EngineCollector) -> None:
    try:
        status, page = await engine.upstream.fetch("GET", "/metrics", limit_s=_SCRAPE_WAIT_S)
    except (ConnectFailed, UpstreamLost, UpstreamTimeout):
        return
    if status == 200 and (counts := engine_counts(page.decode("utf-8", "replace"))) is not None:
        collector.count(engine, counts)


def _status(engine: Engine, collector: EngineCollector) -> dict[str, Any]:
    pressure = collector.pressure(engine.name).told(time.monotonic())
    counts = collector.counts(engine.name)
    share = counts.share if counts else None
    return {
        "name": engine.name,
        "models": list(engine.served_names),
        "state": engine.state.value,
        "stage": engine.stage,
        "reason": engine.reason,
        "waits": engine.waits,
        "waiting": engine.waiting,
        "supervised": engine.supervised,
        "pid": engine.pid,
        "url": engine.address.url,
        "restarts": engine.restarts,
        "pinned": engine.residence.pinned,
        "kv_cache": {"tokens": engine.kv_tokens, "predicted_tokens": engine.predicted_kv_tokens},
        "prompt_tokens": {
            "total": int(counts.prompt) if counts else None,
            "cached": int(counts.cached) if counts else None,
            "cached_share": None if share is None else round(share, 4),
        },
        "preemptions": {
            "total": pressure.total,
            "recent": pressure.recent,
            "over_seconds": None if pressure.recent is None else round(pressure.over_s),
        },
        "advice": advice(pressure) if engine.ready else "",
        "circuit_open": engine.breaker.open,
        "in_flight": {
            "interactive": engine.load.interactive,
            "agent": engine.load.agent,
            "background": engine.load.background,
        },
    }


def _error(request: Request, error: ApiError) -> Response:
    body = envelope.body(error, request.scope.get("aicockpit.request_id", "-"))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error.headers}
    return Response(body, error.status, {**headers, "x-aicockpit-origin": "gateway"}, "application/json")
