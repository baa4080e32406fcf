"""gateway/sse.py: UsageTap"""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.gateway.exchange import Usage, usage_from, usage_of
from aicockpit.gateway.sse import UsageTap

USAGE = {"prompt_tokens": 40, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 32}}
TEXT = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
LAST = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(whole) for place in places), len(whole)]
    return [whole[a:b] for a, b in pairwise(edges) if b > a]


@given(st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_the_usage_is_read_however_the_stream_is_cut(places: list[int], hide: bool) -> None:
    tap = UsageTap(hide)
    out = b"".join(tap.feed(piece) for piece in cut(TEXT * 3 + LAST + DONE, places)) + tap.rest()
    assert out == TEXT * 3 + (b"" if hide else LAST) + DONE
    assert usage_from(tap.usage) == Usage(40, 32)


def test_an_event_with_text_and_usage_stays() -> None:
    event = b'data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":3}}\n\n'
    tap = UsageTap(True)
    assert tap.feed(event) == event
    assert usage_from(tap.usage) == Usage(3, None)


@given(st.binary(max_size=300))
def test_nothing_is_lost_of_what_is_no_event(raw: bytes) -> None:
    tap = UsageTap(False)
    assert tap.feed(raw) + tap.rest() == raw


def test_the_usage_of_a_whole_answer() -> None:
    assert usage_of(json.dumps({"id": "x", "usage": USAGE}).encode()) == Usage(40, 32)
    assert usage_of(b'{"usage":null}') is None
    assert usage_of(b"not json") is None
    assert usage_of(b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":null}}') == Usage(1, None)
