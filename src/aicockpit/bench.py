"""`aicockpit bench`: a bounded load on the running server, through its control socket. Counts what users feel."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from aicockpit.control import Control

_MAX_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to ask: requests in all, at once, tokens per answer, and of which model (None: the first)."""

    requests: int
    concurrency: int
    tokens: int
    model: str | None = None


@dataclass(slots=True)
class Result:
    """Seconds per request: to the first token, between tokens, in all; tokens per second over the whole run."""

    title: str = ""
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0
    spent: float = 0.0


async def measure(control: Control, plan: Plan) -> Result:
    """Run the plan. Prompts differ, so that the prefix cache does not answer for the engine."""
    model = plan.model or control.models()[0]
    requests = max(1, min(plan.requests, _MAX_REQUESTS))
    result = Result(f"{requests} requests, {plan.concurrency} at once, {plan.tokens} tokens each, {model}")
    turn = asyncio.Semaphore(max(1, plan.concurrency))
    async with control.client() as client:
        began = time.monotonic()

        async def one(number: int) -> None:
            async with turn:
                await _one(client, model, plan.tokens, number, result)

        await asyncio.gather(*(one(number) for number in range(requests)))
        result.spent = time.monotonic() - began
    return result


async def _one(client: httpx.AsyncClient, model: str, tokens: int, number: int, result: Result) -> None:
    prompt = f"# file {number}\n" + "".join(f"def function_{number}_{line}(value):\n" for line in range(8))
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    began = last = time.monotonic()
    seen = 0
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if answer.is_error or "error" in json.loads(line[6:]):
                    result.failed += 1
                    return
                now = time.monotonic()
                (result.between if seen else result.first).append(now - last)
                last, seen = now, seen + 1
    except httpx.HTTPError:
        result.failed += 1
        return
    if not seen:
        result.failed += 1
        return
    result.tokens += seen
    result.whole.append(time.monotonic() - began)


def rows(result: Result) -> list[Sequence[str]]:
    """The result as table rows."""
    made: list[Sequence[str]] = [
        ("time to first token", *_pair(result.first)),
        ("between two tokens", *_pair(result.between)),
        ("whole answer", *_pair(result.whole)),
    ]
    made.append(("tokens per second, all together", f"{result.tokens / result.spent:.1f}" if result.spent else "-", ""))
    made.append(("failed requests", str(result.failed), ""))
    return made


def _pair(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "-", "-"
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return f"{statistics.median(ordered) * 1000:.1f} ms", f"{worst * 1000:.1f} ms"
