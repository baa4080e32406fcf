"""The routes of vLLM that clients may use, and how each becomes an exchange.

Everything that is not listed is not reachable from outside: vLLM's management routes (sleep, LoRA loading, cache
reset, shutdown, weights, profiling, `/invocations`, which dispatches to any of them) stay on the engine's socket.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice

import msgspec

from aicockpit.engines.client import Headers
from aicockpit.engines.engine import Engine
from aicockpit.errors import NotFound
from aicockpit.gateway.arrivals import Arrivals
from aicockpit.gateway.ask import ask_of
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.body import Skim, edit_json, multipart_model, refuse_encoded, skim_json
from aicockpit.gateway.directory import Directory, model_card
from aicockpit.gateway.exchange import Composer, Exchange
from aicockpit.gateway.headers import up_headers
from aicockpit.gateway.join import COMPLETIONS, JOINABLE, Joiner
from aicockpit.gateway.lanes import parse_lane
from aicockpit.gateway.waking import awake
from aicockpit.types import Lane


class Form(Enum):
    """Where the model's name stands, and whether a `priority` field exists."""

    SCHEDULED = auto()  # JSON with `model`; vLLM schedules it and reads `priority`
    JSON = auto()  # JSON with `model`
    MULTIPART = auto()  # a form with a field `model`


@dataclass(frozen=True, slots=True)
class Route:
    form: Form
    lane: Lane


_INTERACTIVE = Route(Form.SCHEDULED, Lane.INTERACTIVE)
_AGENT = Route(Form.SCHEDULED, Lane.AGENT)
_HELPER = Route(Form.JSON, Lane.INTERACTIVE)
_AUDIO = Route(Form.MULTIPART, Lane.AGENT)

RESPONSES = "/v1/responses"
ROUTES: dict[str, Route] = {
    "/v1/chat/completions": _INTERACTIVE,
    "/v1/completions": _INTERACTIVE,
    RESPONSES: _AGENT,
    "/v1/messages": Route(Form.JSON, Lane.AGENT),
    "/v1/messages/count_tokens": _HELPER,
    "/v1/embeddings": _AGENT,
    "/v2/embed": _AGENT,
    "/pooling": _AGENT,
    "/classify": _AGENT,
    "/score": _AGENT,
    "/v1/score": _AGENT,
    "/rerank": _AGENT,
    "/v1/rerank": _AGENT,
    "/v2/rerank": _AGENT,
    "/tokenize": _HELPER,
    "/detokenize": _HELPER,
    "/v1/audio/transcriptions": _AUDIO,
    "/v1/audio/translations": _AUDIO,
}
_NO_CONTEXT = (b"x-aicockpit-context", b"none; this route takes no context")
_NO_JOINER = (b"x-aicockpit-context", b"none; this server keeps no workspaces")
# OpenAI clients only know paths below their base URL; vLLM serves these without the prefix.
PREFIXED = {f"/v1{path}": path for path in ("/pooling", "/classify", "/tokenize", "/detokenize")}
OTHER = "other"
# Names of models in workspaces that the list of models has at most.
_LISTED = 32
_STORED_ROUTE = "/v1/responses/{id}"
ID = re.compile(r"[A-Za-z0-9_\-]{1,128}")
STORED = re.compile(rf"/v1/responses/(?P<id>{ID.pattern})(?:/cancel)?")


class Call(msgspec.Struct, frozen=True, eq=False):
    """A client's request: `path` without prefix or query, headers by name and as they came, the whole body."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    raw_headers: Headers
    body: bytes
    request_id: str

    @property
    def target(self) -> bytes:
        path = self.path.encode("ascii")
        return path + b"?" + self.query if self.query else path


def route_of(path: str) -> str:
    """The route's name, for counting: one of a bounded set."""
    if path in ROUTES:
        return path
    return _STORED_ROUTE if STORED.fullmatch(path) else OTHER


def methods(path: str) -> tuple[str, ...]:
    """What an engine's route takes."""
    return ("POST",) if path in ROUTES or path.endswith("/cancel") else ("GET",)


def model_list(directory: Directory, created: int, workspaces: Sequence[str] = ()) -> bytes:
    """`GET /v1/models` in OpenAI's shape: one entry for each served name and alias, and behind them `model@workspace`.

    These are for clients that can only pick from the list, and few: one name for each model, no aliases and no LoRA
    modules. `workspaces` are those of the caller, the one used last first.
    """
    models = dict.fromkeys(engine.served_names[0] for engine in directory.engines if engine.served_names)
    pairs = islice(((model, workspace) for workspace in workspaces for model in models), _LISTED)
    cards = [model_card(directory, name, created) for name in directory.names()]
    cards += [workspace_card(directory, created, *pair) for pair in pairs]
    return msgspec.json.encode({"object": "list", "data": cards})


def workspace_card(directory: Directory, created: int, model: str, workspace: str) -> dict[str, object]:
    """A model's own entry under the name that joins the workspace. Raises NotFound, NotReady."""
    card = model_card(directory, model, created)
    return {**card, "id": f"{model}@{workspace}", "root": model, "workspace": workspace}


async def exchange(
    call: Call, directory: Directory, caller: Caller, joiner: Joiner | None, arrivals: Arrivals | None = None
) -> Exchange:
    """A request as an exchange. `arrivals` count it, but not while it waits for a model to come into memory.

    Raises BadRequest, NotFound, NotReady, UnsupportedEncoding.
    """
    route = ROUTES.get(call.path)
    if route is None:
        return await _stored_exchange(call, directory)
    headers, body = call.headers, call.body
    refuse_encoded(headers.get(b"content-encoding", b""))
    lane = parse_lane(headers.get(b"x-aicockpit-lane", b""), route.lane)
    previous: object = None
    composer: Composer | None = None
    notes: tuple[tuple[bytes, bytes], ...] = ()
    if route.form is Form.MULTIPART:
        asked, start, end = multipart_model(body, headers.get(b"content-type", b"").decode("latin-1"))
        model, engines = directory.find(asked)
        if model != asked:
            body = body[:start] + model.encode() + body[end:]
    else:
        skim = skim_json(body)
        model, engines, workspace = directory.find_in_workspace(skim.model)
        edits = _edits(skim, model, lane if route.form is Form.SCHEDULED else Lane.INTERACTIVE)
        joins = call.path in JOINABLE and joiner is not None
        ask = ask_of(headers, skim, workspace, call.path == COMPLETIONS) if joins else None
        if ask is not None and joiner is not None:
            first = engines[0].served_names[0]
            engines = [engine for engine in engines if engine.served_names[0] == first]
            if joiner.waker is not None:  # how its prompts are made is known once it has been ready
                there = any(engine.ready for engine in engines)
                with contextlib.nullcontext() if arrivals is None or there else arrivals.away():
                    await awake(joiner.waker, engines)
            why_not = "a LoRA module has no warm context" if engines[0].cards.get(model, {}).get("parent") else ""
            composer = await joiner.join(ask, call.path, body, edits, first, caller, engines, why_not)
        else:
            body = edit_json(body, edits) if edits else body
            if not joins and (workspace or b"x-aicockpit-workspace" in headers):
                notes = (_NO_JOINER if call.path in JOINABLE else _NO_CONTEXT,)
        previous = skim.previous_response_id if call.path == RESPONSES else None
    if isinstance(previous, str) and previous and len(engines) > 1:
        engines = [await _holder(previous, engines, directory)]
    return _exchange(call, call.path, body, model, lane, engines, composer, notes)


async def _stored_exchange(call: Call, directory: Directory) -> Exchange:
    """GET or cancel of a stored response: it goes to the engine that made it. Raises NotFound."""
    match = STORED.fullmatch(call.path)
    if match is None:
        raise NotFound(f"there is no route {call.path[:200]}")
    holder = await _holder(match["id"], directory.engines, directory)
    return _exchange(call, _STORED_ROUTE, b"", holder.served_names[0], Lane.INTERACTIVE, [holder])


async def _holder(response_id: str, engines: Sequence[Engine], directory: Directory) -> Engine:
    holder = await directory.holder(response_id, engines) if ID.fullmatch(response_id) else None
    if holder is None:
        raise NotFound(
            f"response {response_id[:128]!r} is not stored on any engine. vLLM keeps responses only when it was "
            "started with VLLM_ENABLE_RESPONSES_API_STORE=1, and forgets them when it restarts.",
            code="response_not_found",
        )
    return holder


def _exchange(
    call: Call,
    route: str,
    body: bytes,
    model: str,
    lane: Lane,
    engines: list[Engine],
    composer: Composer | None = None,
    notes: Sequence[tuple[bytes, bytes]] = (),
) -> Exchange:
    return Exchange(
        method=call.method.encode("ascii"),
        target=call.target,
        path=call.path,
        route=route,
        headers=up_headers(call.headers, call.raw_headers, call.request_id),
        body=body,
        model=model,
        lane=lane,
        request_id=call.request_id,
        engines=engines,
        composer=composer,
        notes=notes,
    )


def _edits(skim: Skim, model: str, lane: Lane) -> dict[str, object]:
    """What we change in the body: an alias becomes the served name, the lane sets vLLM's priority."""
    fields: dict[str, object] = {}
    if model != skim.model:
        fields["model"] = model
    if lane.priority and skim.priority is None:
        fields["priority"] = lane.priority
    return fields
