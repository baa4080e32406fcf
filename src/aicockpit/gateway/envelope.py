"""Errors as bytes: the one envelope that the OpenAI and the Anthropic SDK both parse, and its streamed forms."""

from __future__ import annotations

import msgspec

from aicockpit.errors import ApiError, BadGateway, RevisionConflict

_encode = msgspec.json.Encoder().encode


def body(error: ApiError, request_id: str, origin: str = "gateway") -> bytes:
    """`{"type":"error","error":{message,type,param,code,origin,request_id}}`; the outer type is Anthropic's."""
    return _encode({"type": "error", "error": _fields(error, request_id, origin)})


def event(error: ApiError, request_id: str, path: str) -> bytes:
    """The error as the last event of a stream, in the shape of the route's own protocol.

    No `[DONE]` follows: an answer that was cut short must not look finished.
    """
    fields = _fields(error, request_id, "gateway")
    if path.startswith("/v1/messages"):
        return b"event: error\ndata: " + _encode({"type": "error", "error": fields}) + b"\n\n"
    if path.startswith("/v1/responses"):
        return b"event: error\ndata: " + _encode({**fields, "type": "error", "sequence_number": 0}) + b"\n\n"
    return b"data: " + _encode({"error": fields}) + b"\n\n"


def rewrap(status: int, raw: bytes, request_id: str) -> bytes | None:
    """The engine's error body in the envelope, or None when it is one already (it then passes unchanged)."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict):
        inner = found.get("error")
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return None
        message = found.get("message") or found.get("detail") or inner
    else:
        message = raw[:500].decode("utf-8", "replace")
    text = message if isinstance(message, str) else _encode(message).decode() if message else ""
    error = BadGateway(text.strip() or f"the engine answered {status} without a message", code=f"engine_{status}")
    return body(error, request_id, "engine")


def _fields(error: ApiError, request_id: str, origin: str) -> dict[str, object]:
    fields: dict[str, object] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "origin": origin,
        "request_id": request_id,
    }
    if isinstance(error, RevisionConflict):
        fields["revision"] = error.revision
    return fields
