"""How a request joins a workspace, and the prompt that comes of it: `header | pack | journal | neighbourhood | tail`.

A request names its workspace by header, by body fields, or by the model name `model@workspace`. Without one, and
without a `suffix`, nothing here runs. Context never makes a request fail: where there is none, the answer says why.
Completions are made here, the routes that are conversations in `chats.py`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aicockpit.engines.engine import Engine
from aicockpit.errors import BadRequest, NotFound
from aicockpit.gateway.ask import Ask
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.chats import Chat, Messages, Responses
from aicockpit.gateway.composition import LONGEST, Composition, Contexts, Finder, Parity, raw_of, value_of
from aicockpit.gateway.exchange import Residents
from aicockpit.gateway.layouts import Layouts
from aicockpit.gateway.lengths import Lengths
from aicockpit.gateway.trails import Trails
from aicockpit.gateway.voices import Voice, Voices
from aicockpit.gateway.waking import Waker
from aicockpit.gateway.windows import Window, Windows
from aicockpit.prompts.tokens import TextTooLong

__all__ = ["COMPLETIONS", "JOINABLE", "Contexts", "Joiner"]

COMPLETIONS = "/v1/completions"
_OURS = ("workspace", "path", "context")
_DEFAULT_ANSWER = 16
# Characters that are tokenised in well under a millisecond.
_SHORT = 2000


class Joiner:
    """Turns an ask into the composer that writes the request for the chosen engine."""

    def __init__(
        self,
        contexts: Contexts,
        residents: Residents,
        find: Finder,
        voices: Voices,
        parity: Parity,
        layouts: Layouts | None = None,
    ) -> None:
        self.contexts, self.residents, self.find, self.voices, self.parity = contexts, residents, find, voices, parity
        self.layouts, self.lengths, self.windows, self.trails = layouts or Layouts(), Lengths(), Windows(), Trails()
        self.waker: Waker | None = None

    async def join(
        self,
        ask: Ask,
        path: str,
        body: bytes,
        edits: Mapping[str, object],
        model: str,
        caller: Caller,
        engines: Sequence[Engine],
        why_not: str = "",
    ) -> Composition:
        """`engines` serve the model; `why_not`: a reason against context for it.

        Raises BadRequest, NotFound (no such workspace).
        """
        found = None
        if ask.workspace:
            found = self.find(caller, ask.workspace)
            if found is None:
                raise NotFound(
                    f"there is no workspace {ask.workspace[:64]!r} here. `aicockpit watch PATH --name NAME` makes one.",
                    code="workspace_not_found",
                    param="workspace",
                )
        parts = _split(body)
        for name in _OURS if ask.workspace else ():
            parts.pop(name, None)
        parts.update({name: raw_of(value) for name, value in edits.items()})
        voice = await self.voices.get(model)
        # Without a path the next request may be of another file: nothing of this one may be held for it.
        window = self.windows.of((caller.id, ask.workspace, ask.path)) if ask.path else Window()
        try:
            made = _KINDS[path](self, ask, found, voice, model, parts, why_not)
            if found is not None:  # else nothing says that two requests are of one file
                made.trail = (caller.id, ask.workspace, model, ask.path)
            await made.prepare(window, engines)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
        except TextTooLong as error:
            raise BadRequest(str(error), code="prompt_too_long", param="prompt") from error
        return made


@dataclass(frozen=True, slots=True)
class Cut:
    """Lines of the client's prompt that were not sent, whole or in part: `before` and `behind` the cursor."""

    before: int = 0
    behind: int = 0

    @classmethod
    def of(cls, prefix: str, sent_prefix: str, suffix: str, sent_suffix: str) -> Cut:
        """`sent_prefix` is an end of `prefix`; `sent_suffix` a beginning of `suffix`, or of one that was held."""
        before = _lines(prefix[: len(prefix) - len(sent_prefix)])
        if suffix.startswith(sent_suffix):
            return cls(before, _lines(suffix[len(sent_suffix) :]))
        return cls(before, max(0, _lines(suffix) - _lines(sent_suffix)))


class _Completion(Composition):
    """`/v1/completions`: sent as token ids, the tail in the model's own fill-in-the-middle form."""

    kind = "completion"
    tails: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    cut = Cut()
    # Whether the prompt is written anew, as token ids.
    ours = False

    def read(self) -> None:
        prompt, self.suffix = value_of(self.parts, "prompt"), value_of(self.parts, "suffix") or ""
        self.parts.pop("suffix", None)
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        self.prefix = prompt if isinstance(prompt, str) else ""
        self.ids = tuple(prompt) if _is_ids(prompt) else ()
        if self.suffix and not isinstance(prompt, str):
            raise BadRequest("`suffix` needs one `prompt`, a string", code="invalid_prompt", param="prompt")
        if self.suffix and self.voice is None:
            raise BadRequest(f"`suffix` cannot be used here: {self.reason}", code="no_tokenizer", param="suffix")
        if not isinstance(prompt, str) and not self.ids:
            self.reason = "the request has several prompts"
        self.stops = value_of(self.parts, "stop_token_ids") or []
        readable = isinstance(self.stops, list) and all(isinstance(one, int) for one in self.stops)
        self.may_stop = readable and not self.ids and value_of(self.parts, "ignore_eos") is not True

    async def prepare(self, window: Window, engines: Sequence[Engine]) -> None:
        """Tokenise the tail, with and without a header in front; off the event loop when it is long.

        A request that wants no context is as one without a workspace: never cut to a window, and its prompt passes as
        it came unless it has a `suffix`, which stock vLLM does not take. Raises TextTooLong.
        """
        if self.ids:
            self.ours, self.tails = not self.reason, (self.ids, self.ids)
            return
        prefix, suffix, voice = self.prefix, self.suffix, self.voice
        self.ours = bool(suffix) or ((self.wants or self.ask.suffix) and not self.reason)
        if voice is None or not self.ours:
            return
        if self.wants:
            prefix, suffix = window.move(prefix, suffix, voice.limits)
        elif (size := len(prefix) + len(suffix)) > LONGEST * voice.max_len:
            raise TextTooLong(f"prompt and suffix have {size} characters, too many for {voice.max_len} tokens")
        self.cut = Cut.of(self.prefix, prefix, self.suffix, suffix if voice.style.fim else "")
        self.prefix = prefix  # a workspace finds the window's beginning again by what it hears of
        call = functools.partial(_tails, voice, self.ask.path, prefix, suffix)
        self.tails = call() if len(prefix) + len(suffix) < _SHORT else await asyncio.to_thread(call)

    @property
    def wants(self) -> bool:
        """It names a workspace, and does not want none of it."""
        return self.found is not None and self.ask.tokens != 0

    def account(self) -> dict[str, Any]:
        return {**super().account(), "cut_lines": {"before": self.cut.before, "behind": self.cut.behind}}

    def room(self) -> int:
        if self.voice is None:
            return 0
        return self.voice.max_len - len(self.tails[True]) - self.answer

    def default_answer(self) -> int:
        return _DEFAULT_ANSWER

    def fill(self) -> None:
        if self.voice is None or not self.ours:
            return
        self.tokens = (*self.head.tokens, *self.tails[bool(self.head.tokens)])
        if self.found is not None and self.wants and self.ask.path and not self.reason:
            self.joiner.contexts.seen(self.found.id, self.model, self.ask.path, self.tails[True], self.prefix)
        self.parts["prompt"] = raw_of(self.tokens)
        if self.voice.style.stops and self.may_stop:
            self.parts["stop_token_ids"] = raw_of(list(dict.fromkeys((*self.stops, *self.voice.style.stops))))


def _tails(voice: Voice, path: str, prefix: str, suffix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The request's own tokens: as a whole prompt, and behind a header."""
    suffix = suffix if voice.style.fim else ""
    return voice.tail(path, prefix, suffix, False), voice.tail(path, prefix, suffix, True)


def _lines(text: str) -> int:
    """Lines of a text; the rest of one counts."""
    return text.count("\n") + (not text.endswith("\n") and text != "")


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(one, int) for one in prompt)


_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_KINDS: Mapping[str, type[Composition]] = {
    COMPLETIONS: _Completion,
    "/v1/chat/completions": Chat,
    "/v1/messages": Messages,
    "/v1/responses": Responses,
}
JOINABLE = frozenset(_KINDS)
