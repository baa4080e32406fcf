"""A stream's errors are recognised however its bytes are cut; ordinary text never looks like one."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.gateway.sse import StreamWatch

ERROR = b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"hi"}}],"error":null}\n\n'


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


def watch(pieces: list[bytes]) -> StreamWatch:
    made = StreamWatch()
    for piece in pieces:
        made.feed(piece)
    return made


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_an_error_is_found_wherever_the_pieces_are_cut(places: list[int]) -> None:
    made = watch(cut(TEXT * 3 + ERROR + b"data: [DONE]\n\n", places))
    assert made.error == "EngineCore died"
    assert made.between_events


@given(st.lists(st.integers(0, 10_000), max_size=12), st.text())
def test_text_that_speaks_of_errors_is_none(places: list[int], text: str) -> None:
    said = json.dumps({"choices": [{"delta": {"content": '{"error": "x"} ' + text, "error": "no"}}]}).encode()
    made = watch(cut(TEXT + b"data: " + said + b"\n\ndata: [DONE]\n\n", places))
    assert made.error is None
    assert made.between_events


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_are_taken(pieces: list[bytes]) -> None:
    watch(pieces)


def test_anthropic_s_error_event() -> None:
    made = watch([b'event: error\r\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\r\n\r\n'])
    assert made.error == "boom"
    assert made.between_events


def test_an_event_cut_short_is_seen() -> None:
    assert not watch([TEXT, TEXT[:20]]).between_events


def test_an_endless_event_is_not_held() -> None:
    made = watch([b"data: " + b"x" * 40_000] * 30)
    assert len(made._partial) < 200_000
