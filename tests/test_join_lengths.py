"""gateway/lengths.py: a conversation that grows is not tokenised again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.gateway.lengths import Lengths
from aicockpit.prompts.tokens import Encoder
from tiny_tokenizers import of_family


@dataclass
class Counting:
    """An encoder that notes what it was given: a token for each character."""

    fingerprint: str
    given: list[str] = field(default_factory=list)

    def encode(self, text: str) -> list[int]:
        self.given.append(text)
        return [0] * len(text)


def counting(fingerprint: str = "a tokenizer") -> tuple[Counting, Encoder]:
    made = Counting(fingerprint)
    return made, cast(Any, made)


async def test_only_what_is_new_is_tokenised() -> None:
    known, encoder = counting()
    lengths = Lengths()
    assert await lengths.total(encoder, [b"one", b"three"]) == 8
    assert await lengths.total(encoder, [b"one", b"three", b"x" * 5000, b"one"]) == 5011
    assert known.given == ["one", "three", "x" * 5000]
    other, another = counting("another tokenizer")
    assert await lengths.total(another, [b"one"]) == 3
    assert other.given == ["one"]


async def test_what_is_remembered_is_bounded_and_the_newest_stay() -> None:
    known, encoder = counting()
    lengths = Lengths(kept=3)
    assert await lengths.total(encoder, [b"%d" % number for number in range(10)]) == 10
    known.given.clear()
    assert await lengths.total(encoder, [b"9", b"8", b"7", b"0"]) == 4
    assert known.given == ["0"]


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=6))
async def test_the_total_is_the_sum(texts: list[str]) -> None:
    encoder = of_family("qwen")
    raw = [text.encode() for text in texts]
    lengths = Lengths()
    expected = sum(len(encoder.encode(text)) for text in texts)
    assert [await lengths.total(encoder, raw) for _ in range(2)] == [expected] * 2


async def test_bytes_that_are_no_text_are_counted_all_the_same() -> None:
    assert await Lengths().total(of_family("qwen"), [b"\xff\xfe"]) > 0
