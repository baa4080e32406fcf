"""How each served model speaks: its tokenizer and its fill-in-the-middle form, loaded once, when first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aicockpit.prompts.fim import Style
from aicockpit.prompts.tail import TailLimits
from aicockpit.prompts.tokens import Encoder

# Characters, and characters per token of the model's length: code has about three in a token.
_PREFIX_CHARS, _SUFFIX_CHARS = 24_000, 8_000
_PREFIX_SHARE, _SUFFIX_SHARE = 1.1, 0.35


@dataclass(frozen=True, slots=True)
class Voice:
    """A model's tokenizer and style; `max_len` is the engine's context length in tokens."""

    encoder: Encoder
    style: Style
    reason: str
    max_len: int

    def tail(self, path: str, prefix: str, suffix: str, repo_level: bool) -> tuple[int, ...]:
        """The request's own part of the prompt; `repo_level`: a header stands in front of it."""
        return self.style.tail(self.encoder, path, prefix, suffix, repo_level=repo_level)

    @property
    def limits(self) -> TailLimits:
        """Windows around the cursor that leave half of the model's length to context and answer."""
        return TailLimits(
            prefix_chars=max(1, min(_PREFIX_CHARS, int(self.max_len * _PREFIX_SHARE))),
            suffix_chars=min(_SUFFIX_CHARS, int(self.max_len * _SUFFIX_SHARE)),
        )


class Voices:
    """`load` reads a model's voice in a thread, or says why there is none; its answer is kept while the model runs."""

    def __init__(self, load: Callable[[str], Voice | str]) -> None:
        self._load = load
        self._known: dict[str, Voice] = {}
        self._turn = asyncio.Lock()

    async def get(self, model: str) -> Voice | str:
        """The voice of a served model, or the reason why its prompts cannot be built here."""
        async with self._turn:
            known = self._known.get(model)
            if known is not None:
                return known
            found = await asyncio.to_thread(self._load, model)
            if isinstance(found, Voice):
                self._known[model] = found
            return found

    def forget(self, model: str) -> None:
        """Its files or its length changed."""
        self._known.pop(model, None)
