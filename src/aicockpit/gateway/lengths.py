"""How many tokens the parts of a conversation have. Of a conversation that grows, only what is new is tokenised."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from aicockpit.prompts.tokens import Encoder

_KEPT = 20_000
# Characters that are tokenised in well under a millisecond.
_SHORT = 2000
Key = tuple[str, int, int]


class Lengths:
    """Token counts of texts by tokenizer and hash; of too many the one used longest ago is forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._known: OrderedDict[Key, int] = OrderedDict()
        self._kept = kept

    async def total(self, encoder: Encoder, texts: Sequence[bytes]) -> int:
        """Tokens of all `texts` (UTF-8), each tokenised by itself; off the event loop when it is much.

        Raises TextTooLong.
        """
        keys = [(encoder.fingerprint, len(text), hash(text)) for text in texts]
        counts = {key: count for key in keys if (count := self._known.get(key)) is not None}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in counts}
        if new:
            lines = [text.decode("utf-8", "replace") for text in new.values()]
            short = sum(map(len, lines)) < _SHORT
            found = _count(encoder, lines) if short else await asyncio.to_thread(_count, encoder, lines)
            counts.update(zip(new, found, strict=True))
        for key in keys:
            self._known[key] = counts[key]
            self._known.move_to_end(key)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return sum(counts[key] for key in keys)


def _count(encoder: Encoder, lines: Sequence[str]) -> list[int]:
    return [len(encoder.encode(line)) for line in lines]
