"""Which headers pass, up to an engine and back to a client."""

from __future__ import annotations

from aicockpit.engines.client import Headers

# RFC 9110 section 7.6.1, and what the server in front of us writes itself.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_NOT_BACK = HOP_BY_HOP | {b"date", b"server", b"x-request-id"}
# Ours, or not for the engine: credentials, lengths and encodings that we set ourselves.
_NOT_UP = HOP_BY_HOP | frozenset(
    b"host content-length authorization x-api-key cookie expect accept-encoding x-request-id forwarded".split()
)
# Characters of a reason in a header.
_TOLD = 500


def told(text: str) -> bytes:
    """A reason as a header's value: one line, and not for ever."""
    return " ".join(text.split())[:_TOLD].encode("ascii", "replace")


def up_headers(headers: dict[bytes, bytes], raw: Headers, request_id: str) -> Headers:
    """The client's headers for the engine: no credentials, nothing hop-by-hop, nothing meant for us."""
    named: frozenset[bytes] = frozenset()
    connection = headers.get(b"connection", b"")
    if connection and connection.lower() not in (b"keep-alive", b"close"):
        named = frozenset(token.strip().lower() for token in connection.split(b","))
    out = [
        pair
        for pair in raw
        if pair[0] not in _NOT_UP and pair[0] not in named and not pair[0].startswith(b"x-aicockpit-")
    ]
    out.append((b"x-request-id", request_id.encode("latin-1")))
    return out


def back_headers(headers: Headers, request_id: str, engine: str) -> tuple[Headers, bool]:
    """The answer's headers for the client, and whether it is a stream of events."""
    named = _connection_tokens(headers)
    out: Headers = []
    streaming = False
    for pair in headers:
        name = pair[0]
        if name in _NOT_BACK or name in named:
            continue
        if name == b"content-type" and pair[1].startswith(b"text/event-stream"):
            streaming = True
        out.append(pair)
    out.append((b"x-request-id", request_id.encode("latin-1")))
    out.append((b"x-aicockpit-engine", engine.encode("latin-1", "replace")))
    if streaming:
        # An error event may have to follow what the engine promised.
        out = [pair for pair in out if pair[0] != b"content-length"]
        # Reverse proxies that buffer answers (nginx) must not hold tokens back.
        out.append((b"x-accel-buffering", b"no"))
    return out, streaming


def _connection_tokens(headers: Headers) -> frozenset[bytes]:
    for name, value in headers:
        if name == b"connection":
            return frozenset(token.strip().lower() for token in value.split(b","))
    return frozenset()
