"""gateway/taps.py and the usage of every route as values."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.gateway.exchange import Usage, usage_from, usage_of
from aicockpit.gateway.taps import EventTap, with_instructions

OWN = msgspec.Raw(b'"mine"')


def event(kind: str, end: str = "\n\n", **fields: Any) -> bytes:
    line = end[: len(end) // 2]
    return f"event: {kind}{line}data: {json.dumps({'type': kind, **fields})}{end}".encode()


def answer(instructions: str, **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "instructions": instructions, "temperature": 1.0, "usage": None, **more}


START = {"usage": {"input_tokens": 40, "output_tokens": 0}}
END = {"input_tokens": 8, "output_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 32}
MESSAGES = [
    event("message_start", message=START),
    event("content_block_delta", delta={"text": 'say "usage" and \n\n "instructions"'}),
    event("message_delta", usage=END),
    event("message_stop"),
]
COUNTED = {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 32}, "output_tokens": 3}


def responses(instructions: str, end: str = "\n\n") -> list[bytes]:
    return [
        event("response.created", end, response=answer(instructions)),
        event("response.output_text.delta", end, delta='"instructions": "x", "usage"'),
        event("response.completed", end, response=answer(instructions, usage=COUNTED)),
    ]


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(whole) for place in places), len(whole)]
    return [whole[a:b] for a, b in pairwise(edges) if b > a]


places = st.lists(st.integers(0, 10_000), max_size=12)


@settings(deadline=None)
@given(places)
def test_anthropics_usage_is_read_however_the_stream_is_cut_and_nothing_waits(where: list[int]) -> None:
    tap, whole = EventTap(), b"".join(MESSAGES)
    for piece in cut(whole, where):
        assert tap.feed(piece) == piece
    assert tap.rest() == b""
    assert usage_from(tap.usage) == Usage(40, 32)


@settings(deadline=None)
@given(places, st.sampled_from(["\n\n", "\r\n\r\n"]), st.booleans())
def test_the_clients_instructions_are_shown_however_the_stream_is_cut(
    where: list[int], end: str, cut_off: bool
) -> None:
    sent, shown = b"".join(responses("the pack " * 20, end)), b"".join(responses("mine", end))
    if cut_off:  # no empty line after the last event
        sent, shown = sent[: -len(end)], shown[: -len(end)]
    tap = EventTap(OWN)
    out = b"".join(tap.feed(piece) for piece in cut(sent, where)) + tap.rest()
    assert out.replace(b" ", b"") == shown.replace(b" ", b"")
    assert responses("mine", end)[1] in out, "other events keep their bytes"
    assert usage_from(tap.usage) == Usage(40, 32)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans(), places)
def test_nothing_is_lost_of_what_is_no_event(raw: bytes, shows: bool, where: list[int]) -> None:
    tap = EventTap(OWN if shows else None)
    assert b"".join(tap.feed(piece) for piece in cut(raw or b"x", where)) + tap.rest() == (raw or b"x")


@pytest.mark.parametrize(
    "data",
    [
        b'{"usage": 5}',
        b'{"usage": {"a": [}',
        b'{"response": ["instructions"], "usage": {}}',
        b'["usage"]',
        b'"usage"',
        b'{"response": {"instructions": "a"}, "usage": "\xff"}',
        b'{"usage":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_an_event_that_cannot_be_read_passes(data: bytes) -> None:
    tap, whole = EventTap(OWN), b"data: " + data + b"\n\n"
    assert tap.feed(whole) == whole
    assert usage_from(tap.usage) is None


def test_an_event_without_an_end_does_not_fill_the_memory() -> None:
    tap = EventTap(OWN)
    piece = b'data: "usage"' + b"x" * 3_000_000
    assert tap.feed(piece) == b""
    assert tap.feed(piece) == piece * 2
    assert tap.feed(b"y\n\n") == b"y\n\n"


def test_a_client_that_leaves_early_tells_nothing_false() -> None:
    tap = EventTap()
    tap.feed(MESSAGES[0] + MESSAGES[1])
    assert usage_from(tap.usage) is None, "the first figures do not know the cache"
    tap = EventTap()
    tap.feed(event("message_start", message={"usage": {**END, "output_tokens": 0}}))
    assert usage_from(tap.usage) == Usage(40, 32)


def test_usage_has_three_shapes() -> None:
    assert usage_from(END) == Usage(40, 32)
    assert usage_from({**END, "cache_creation_input_tokens": 10}) == Usage(50, 32)
    assert usage_from({"input_tokens": 8, "output_tokens": 1}) == Usage(8, None)
    assert usage_from(COUNTED) == Usage(40, 32)
    assert usage_from({"input_tokens": 40, "input_tokens_details": None}) == Usage(40, None)
    assert usage_from({"input_tokens": "40"}) is None
    assert usage_of(json.dumps(answer("x", usage=COUNTED)).encode()) == Usage(40, 32)


def test_a_whole_answer_keeps_every_other_value() -> None:
    raw = b'{"id":"a", "temperature":1.50,"instructions":"the pack","output":[ {"n":1e3} ],"usage":null}'
    assert with_instructions(raw, OWN) == (
        b'{"id":"a","temperature":1.50,"instructions":"mine","output":[ {"n":1e3} ],"usage":null}'
    )
    for other in (b'{"id":1}', b"not json", b"[1]"):
        assert with_instructions(other, OWN) == other
