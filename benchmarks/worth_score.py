"""Log-probabilities of given tokens from a running vLLM, over `/v1/completions` with token ids.

`prompt_logprobs` looks made for it, but such a request never reads the prefix cache (vLLM 0.32, sampling_params.py:
`skip_reading_prefix_cache`), so every variant of every line would prefill its whole context, and the vocabulary's
logits are computed for each token of it. Instead one request per line carries a prompt for each of its tokens:
`P`, `P t1`, `P t1 t2`, ... with `max_tokens` 1 and `logprob_token_ids` set to the line's tokens: the log-probability
of the next real token is in each answer, before temperature and masks. The first prompt prefills `P` behind what is
cached, the others find its blocks (those of the same step included) and compute less than a block and the line.
vLLM takes at most 128 such ids; a server that knows no `logprob_token_ids` is asked for `prompt_logprobs` (mode
"prompt"). Both give the same figures but for the rounding of another batch shape.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

Mode = Literal["tokens", "prompt"]
MOST_IDS = 128
READ_S = 600.0
PROBE_TOKENS = 512


class ScoreError(Exception):
    """The server cannot score; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found out about a server: the mode, prefill speed in tokens/s, the two modes' largest difference."""

    mode: Mode
    speed: float
    difference: float | None


class Scorer:
    """A client of one server. Close it."""

    def __init__(self, base: str, model: str, key: str = "", client: httpx.Client | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client or httpx.Client(timeout=httpx.Timeout(READ_S, connect=5.0))
        self._base, self._model, self._headers = base.rstrip("/"), model, headers
        self._url = f"{self._base}/v1/completions"
        self.mode: Mode = "tokens"

    def close(self) -> None:
        self._client.close()

    def score(self, prompt: Sequence[int], line: Sequence[int]) -> list[float]:
        """The log-probability (natural) of each token of `line` behind `prompt`. Raises ScoreError."""
        return self._by_tokens(prompt, line) if self.mode == "tokens" else self._by_prompt(prompt, line)

    def greedy(self, prompt: Sequence[int], tokens: int, stops: Sequence[int] = ()) -> str:
        """What the model writes itself, without sampling."""
        body: dict[str, Any] = {"prompt": list(prompt), "max_tokens": tokens, "stop_token_ids": list(stops)}
        return str(self._post(body)["choices"][0]["text"])

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """A chat as the server's own template writes it, up to where the answer begins. Raises ScoreError."""
        found = self._send(f"{self._base}/tokenize", {"messages": list(messages), "add_generation_prompt": True})
        if not found.get("tokens"):
            raise ScoreError(f"{self._base}/tokenize gave no tokens for a chat: {str(found)[:300]}")
        return tuple(found["tokens"])

    def probe(self, prompt: Sequence[int], line: Sequence[int]) -> Probe:
        """Choose the mode with a short request, and measure the speed of prefill. Raises ScoreError."""
        short = list(prompt)[:64]
        by_prompt = by_tokens = None
        try:
            by_tokens = self._by_tokens(short, line)
        except ScoreError as error:
            refused = error
        try:
            by_prompt = self._by_prompt(short, line)
        except ScoreError as error:
            if by_tokens is None:
                raise ScoreError(f"{self._url} can score in neither way: {refused}; {error}") from error
        self.mode = "prompt" if by_tokens is None else "tokens"
        difference = None
        if by_prompt is not None and by_tokens is not None:
            difference = max(abs(a - b) for a, b in zip(by_prompt, by_tokens, strict=True))
        began = time.perf_counter()
        cold = list(prompt)[-PROBE_TOKENS:]
        random.shuffle(cold)  # so that nothing of it is cached, not even by the probe of an earlier run
        self._post({"prompt": cold, "max_tokens": 1})
        return Probe(self.mode, len(cold) / max(1e-3, time.perf_counter() - began), difference)

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send(self._url, {"temperature": 0, "add_special_tokens": False, **body})

    def _send(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self._client.post(url, json={"model": self._model, **body}, headers=self._headers)
        except httpx.HTTPError as error:
            raise ScoreError(f"{url} does not answer ({type(error).__name__}: {error})") from error
        if answer.status_code != 200:
            raise ScoreError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found

    def _by_tokens(self, prompt: Sequence[int], line: Sequence[int]) -> list[float]:
        ids = sorted(set(line))[:MOST_IDS]
        body = {
            "prompt": [[*prompt, *line[:place]] for place in range(len(line))],
            "max_tokens": 1,
            "logprobs": len(ids),
            "logprob_token_ids": ids,
            "return_tokens_as_token_ids": True,
        }
        choices = sorted(self._post(body)["choices"], key=lambda choice: int(choice["index"]))
        if len(choices) != len(line):
            raise ScoreError(f"{len(choices)} answers to {len(line)} prompts")
        found = []
        for token, choice in zip(line, choices, strict=True):
            tops = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
            value = (tops[0] or {}).get(f"token_id:{token}")
            if value is None:
                raise ScoreError("the answer lacks the log-probability of a token asked for with logprob_token_ids")
            found.append(float(value))
        return found

    def _by_prompt(self, prompt: Sequence[int], line: Sequence[int]) -> list[float]:
        body = {"prompt": [*prompt, *line], "max_tokens": 1, "prompt_logprobs": 0}
        rows = self._post(body)["choices"][0].get("prompt_logprobs") or []
        if len(rows) < len(line):
            raise ScoreError("the answer has no prompt_logprobs")
        return [float(row[str(token)]["logprob"]) for token, row in zip(line, rows[-len(line) :], strict=True)]
