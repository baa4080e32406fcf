"""Repository context in a chat: one system message in front, whose first bytes are the same in every request.

Chat prompts are rendered by the engine's own template, so the context goes in as text and not as token ids.
Called by the gateway for requests that join a workspace, and by the prefetcher, which warms the rendered head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

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
    if not isinstance(first, Mapping) or first.get("role") not in _SYSTEM_ROLES:
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "role": "system", "content": _merged(text, first.get("content"))}, *messages[1:]]


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


def _merged(text: str, content: object) -> object:
    if isinstance(content, list):  # parts: those of the client keep their fields
        return [{"type": "text", "text": text + _BETWEEN}, *content]
    return f"{text}{_BETWEEN}{content}" if isinstance(content, str) and content else text


def _block(path: str, text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n\n### {one_line(path)}\n{fence}\n{text.rstrip(chr(10))}\n{fence}"


def _neutral(text: str, specials: Collection[str]) -> str:
    named = sorted((s for s in specials if len(s) > 1), key=lambda s: (-len(s), s))
    if not named:
        return text
    return re.sub("|".join(map(re.escape, named)), lambda match: f"{match[0][0]} {match[0][1:]}", text)
