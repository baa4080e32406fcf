"""How each served model speaks: its tokenizer and its fill-in-the-middle form, loaded once, when first needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from aicockpit.prompts.fim import Style
from aicockpit.prompts.tail import TailLimits, limits_of
from aicockpit.prompts.tokens import Encoder

_REFUSED_S = 5.0


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
        return limits_of(self.max_len)


class Voices:
    """`load` reads a voice in a thread, or says why there is none. `mark` tells when a model is another one.

    A voice is kept for as long as its mark stays; a refusal for some seconds.
    """

    def __init__(self, load: Callable[[str], Voice | str], mark: Callable[[str], Hashable] = hash) -> None:
        self._load, self._mark = load, mark
        self._known: dict[str, tuple[Hashable, float, Voice | str]] = {}
        self._turn = asyncio.Lock()

    async def get(self, model: str) -> Voice | str:
        """The voice of a served model, or the reason why its prompts cannot be built here."""
        mark, now = self._mark(model), time.monotonic()
        if (found := self._kept(model, mark, now)) is not None:
            return found
        async with self._turn:
            if (found := self._kept(model, mark, now)) is not None:
                return found
            found = await asyncio.to_thread(self._load, model)
            self._known[model] = mark, time.monotonic(), found
            return found

    def _kept(self, model: str, mark: Hashable, now: float) -> Voice | str | None:
        known = self._known.get(model)
        if known is None or known[0] != mark or (isinstance(known[2], str) and now - known[1] > _REFUSED_S):
            return None
        return known[2]
