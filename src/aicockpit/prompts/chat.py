"""Repository context in a chat: one system message in front, whose first bytes are the same in every request.

Chat prompts are rendered by the engine's own template, so the context goes in as text and not as token ids.
Called by the gateway for requests that join a workspace, and by the prefetcher, which warms the rendered head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from aicockpit.prompts.fim import one_line

_SYSTEM_ROLES = ("system", "developer")
_BETWEEN = "\n\n"


def system_text(items: Sequence[tuple[str, str]], repo: str, specials: Collection[str] = ()) -> str:
    """The context as text: (path, text) of each item in the order given, which is never changed here.

    More items at the end only add text at the end, so a journal that grows leaves what is warm as it was.
    `specials`: the tokenizer's special strings. The engine would take such a string inside a file for the real token
    (a file with "<|im_end|>" in it would end the message), so a space is put behind its first character.
    No items: no text.
    """
    if not items:
        return ""
    opening = (
        f"Files of the repository {one_line(repo)}. Some are shortened to their declarations; a later one is newer."
    )
    return _neutral("".join([opening, *(_block(path, text) for path, text in items)]), specials)


def with_context(messages: Sequence[Any], text: str) -> list[Any]:
    """The messages with `text` in front, as the first system message. Nothing that was given is changed in place.

    Many chat templates allow one system message and only at the start, so a client's own first system (or
    developer) message is merged: the context first, then the client's text, in one message of the role `system`.
    Its other fields stay. What is not the first message stays where it is. No text: the messages as they were.
    """
    if not text:
        return list(messages)
    first = messages[0] if messages else None
    if not is_system(first):
        return [{"role": "system", "content": text}, *messages]
    return [merged(first, text), *messages[1:]]


def is_system(message: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a client's first message is one that the context goes into."""
    return isinstance(message, Mapping) and message.get("role") in _SYSTEM_ROLES


def merged(message: Mapping[str, Any], text: str, part: str = "text") -> dict[str, Any]:
    """A system message with `text` in front of its own; `part` is what the route calls a part that is text."""
    return {**message, "role": "system", "content": in_front(text, message.get("content"), part)}


def in_front(text: str, own: object, part: str = "text") -> object:
    """`text` in front of what a client says there itself: a string, a list of parts, or nothing that is text.

    All prompts with this `text` begin with the same tokens. It goes into the client's first part, if that is text:
    engines join parts with bytes of their own.
    """
    if isinstance(own, list):
        first = own[0] if own else None
        if isinstance(first, Mapping) and first.get("type") == part and isinstance(first.get("text"), str):
            return [{**first, "text": text + _BETWEEN + first["text"]}, *own[1:]]
        return apart(text, own, part)
    return f"{text}{_BETWEEN}{own}" if isinstance(own, str) and own else text


def apart(text: str, own: Sequence[Any], part: str = "text") -> list[Any]:
    """`text` as a part in front of the client's own parts."""
    return [{"type": part, "text": text + _BETWEEN}, *own]


def stable_head(rendered_a: Sequence[int], rendered_b: Sequence[int]) -> tuple[int, ...]:
    """The tokens that two renderings begin with.

    Rendered with two user texts that begin with different characters, this is the part that every conversation
    with the same system message shares: what the prefetcher warms.
    """
    same = 0
    for a, b in zip(rendered_a, rendered_b, strict=False):
        if a != b:
            break
        same += 1
    return tuple(rendered_a[:same])


def _block(path: str, text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n\n### {one_line(path)}\n{fence}\n{text.rstrip(chr(10))}\n{fence}"


def _neutral(text: str, specials: Collection[str]) -> str:
    named = sorted((s for s in specials if len(s) > 1), key=lambda s: (-len(s), s))
    if not named:
        return text
    return re.sub("|".join(map(re.escape, named)), lambda match: f"{match[0][0]} {match[0][1:]}", text)
