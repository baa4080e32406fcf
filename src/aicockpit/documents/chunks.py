"""A page's blocks cut into pieces for the index: by headings, code whole where it fits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from aicockpit.documents.values import Block, Chunk, Limits

# A heading begins a new piece when the one before has at least this share of a usual piece.
_ENOUGH = 0.25
_WAY = 200
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")


def cut(blocks: Sequence[Block], title: str, limits: Limits | None = None) -> list[Chunk]:
    """Pieces of about `limits.chunk` characters, none longer than `limits.longest_chunk` with its fences."""
    limits = limits or Limits()
    cutter = _Cutter(limits, title)
    for block in blocks:
        if block.kind == "heading":
            cutter.heading(block)
        else:
            cutter.add(block)
    cutter.end()
    return cutter.made


@dataclass(slots=True)
class _Cutter:
    limits: Limits
    title: str
    made: list[Chunk] = field(default_factory=list)
    way: list[Block] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    size: int = 0
    began: tuple[str, str] = ("", "")

    def heading(self, block: Block) -> None:
        while self.way and self.way[-1].level >= block.level:
            self.way.pop()
        top = not self.way and block.level == 1
        if self.size >= _ENOUGH * self.limits.chunk or top:
            self.end()
        self.way.append(block)
        if self.parts:
            self._put("#" * block.level + " " + block.text)

    def add(self, block: Block) -> None:
        most = self.limits.longest_chunk
        text = _fenced(block.text) if block.kind == "code" else block.text
        if self.size and self.size + len(text) > (most if block.kind == "code" else self.limits.chunk):
            self.end()
        if len(text) <= most:
            self._put(text)
            return
        for piece in _split_code(block.text, most) if block.kind == "code" else _split_text(text, self.limits.chunk):
            self.end()
            self._put(piece)

    def end(self) -> None:
        """The piece is complete."""
        body = "\n\n".join(self.parts)
        if body.strip():
            heading, anchor = self.began
            self.made.append(Chunk(heading, body, anchor))
        self.parts, self.size = [], 0

    def _put(self, text: str) -> None:
        if not self.parts:
            names = [one.text for one in self.way if one.text != self.title]
            anchor = next((one.anchor for one in reversed(self.way) if one.anchor), "")
            self.began = " > ".join(names)[:_WAY], anchor
        self.parts.append(text)
        self.size += len(text) + 2


def _fenced(text: str) -> str:
    """`language\\nbody` as a fenced block; the fence is longer than any in the body."""
    language, _, body = text.partition("\n")
    longest = max((len(run) for run in re.findall(r"`{3,}", body)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def _split_code(text: str, most: int) -> Iterator[str]:
    """Pieces of a long code block, between lines; each is a block of its own."""
    language, _, body = text.partition("\n")
    room = max(1, most - len(language) - 24)
    for piece in _packed((line + "\n" for line in body.split("\n")), room):
        if piece.strip():
            yield _fenced(f"{language}\n{piece.rstrip()}")


def _split_text(text: str, most: int) -> Iterator[str]:
    """Pieces of a long paragraph, between sentences or lines where there are any."""
    places = [0, *(match.end() for match in _SENTENCE.finditer(text)), len(text)]
    parts = (text[start:end] for start, end in pairwise(places))
    return (piece.strip() for piece in _packed(parts, most) if piece.strip())


def _packed(parts: Iterator[str], most: int) -> Iterator[str]:
    """Neighbours joined up to `most` characters; a longer part is cut."""
    held = ""
    for part in parts:
        for start in range(0, len(part), most) or (0,):
            piece = part[start : start + most]
            if held and len(held) + len(piece) > most:
                yield held
                held = ""
            held += piece
    if held:
        yield held
