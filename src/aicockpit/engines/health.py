"""Does an engine work? Ready: it generated a token. Hung: it stopped working, which `/health` does not tell.

`judge` is pure: samples in, verdict out. `Sampler` takes the samples; `process.py` and `external.py`
act on the verdict.

Progress is any of: bytes of users' answers arrived; the token counters in the engine's /metrics moved; a request of
ours for one token (the canary) was answered. A slow engine makes progress, however late its steps and its /health are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

import psutil

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.errors import ConnectFailed, UpstreamLost, UpstreamTimeout

log = logging.getLogger(__name__)

Cards = Mapping[str, Mapping[str, object]]

# Counted by the API server when the engine core reports a step. Finished requests are not among them: those that
# clients abort are counted even while the core is stopped.
_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:iteration_tokens_total_sum")
# Every kind of engine answers one of these; the first that does is the canary.
_KINDS: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("/v1/completions", {"prompt": [1], "max_tokens": 1}),  # started with --skip-tokenizer-init
    ("/v1/embeddings", {"input": "a"}),
    ("/pooling", {"input": "a"}),
    ("/v1/score", {"text_1": "a", "text_2": "a"}),
    ("/classify", {"input": "a"}),
)
_NOT_THIS_KIND = (400, 404, 405, 422, 501)


class Health(StrEnum):
    OK = "ok"
    SUSPECT = "suspect"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """`period_s` between samples; `strikes` periods without progress are a hang if the engine does not compute.

    An engine that computes (a long prefill on a CPU) gets `stuck_wait_s`. Below `busy_share` of one core it does not
    compute: an idle vLLM uses 2 %, and its workers spin for one second after each step.
    `canary_period_s` is the least time between two canaries.
    """

    period_s: float = 10.0
    strikes: int = 2
    busy_share: float = 0.1
    stuck_wait_s: float = 300.0
    canary_period_s: float = 0.0

    @property
    def probe_s(self) -> float:
        """Limit of one probe: less than a period, so that samples stay a period apart."""
        return 0.9 * self.period_s


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one time. `tokens`: the last counters known; `cpu_s`: processor time since the sample before."""

    at: float
    users: int = 0
    tokens: float | None = None
    canary: bool = False
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    state: Health
    reason: str = ""


def judge(previous: Sequence[Sample], now: Sample, limits: HealthLimits) -> Verdict:
    """`previous`: the samples since the last progress, oldest first."""
    samples = [*previous, now]
    still, since = 0, samples[0].at
    for before, after in pairwise(samples):
        if _moved(before, after):
            still, since = 0, after.at
        else:
            still += 1
    if still == 0:
        return Verdict(Health.OK)
    quiet = now.at - since
    if quiet >= limits.stuck_wait_s:
        return Verdict(Health.HUNG, f"it has made no progress for {quiet:.0f} s")
    if now.cpu_s is None or still < limits.strikes:
        return Verdict(Health.SUSPECT, f"no progress for {quiet:.0f} s")
    if now.cpu_s >= limits.busy_share * (now.at - samples[-2].at):
        return Verdict(Health.SUSPECT, f"no progress for {quiet:.0f} s, but it computes")
    return Verdict(Health.HUNG, f"it has made no progress for {quiet:.1f} s and does not compute")


def _moved(before: Sample, after: Sample) -> bool:
    return after.canary or before.users != after.users or before.tokens != after.tokens


def token_count(metrics: bytes) -> float | None:
    """The sum of the token counters in a Prometheus text, over all engines; None when it has none."""
    found = None
    for line in metrics.decode("utf-8", "replace").splitlines():
        if line.startswith(_COUNTERS):
            try:
                found = (found or 0.0) + float(line.rpartition(" ")[2])
            except ValueError:
                continue
    return found


async def served_models(upstream: Upstream, limit_s: float) -> tuple[int, Cards]:
    """Status of /v1/models and what it lists. Raises as `Upstream.fetch` does."""
    status, body = await upstream.fetch("GET", "/v1/models", limit_s=limit_s)
    if status != 200:
        return status, {}
    try:
        return status, {str(card["id"]): dict(card) for card in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError):
        return status, {}


@dataclass(slots=True)
class Canary:
    """A request for one token. `path` is empty when the engine knows none of the kinds: then there is no canary."""

    upstream: Upstream
    path: str = ""
    body: bytes = b""

    async def sings(self, limit_s: float) -> bool:
        """Did the engine work? Any error is a no: the API server alone can produce one."""
        if not self.path:
            return False
        try:
            status, _ = await self.upstream.fetch("POST", self.path, self.body, limit_s=limit_s)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return False
        return 200 <= status < 300


async def find_canary(upstream: Upstream, model: str, limit_s: float) -> Canary | None:
    """The kind of request this engine answers; None when it answers none yet. Raises as `Upstream.fetch` does."""
    for path, question in _KINDS:
        body = json.dumps({"model": model, **question}).encode()
        status, _ = await upstream.fetch("POST", path, body, limit_s=limit_s)
        if 200 <= status < 300:
            return Canary(upstream, path, body)
        if status not in _NOT_THIS_KIND:
            return None
    log.warning("%s answers no kind of one-token request; only its API is checked", model)
    return Canary(upstream)


class Locked(Exception):
    """The engine asks for a key that we do not have: waiting will not help."""


async def until_ready(
    upstream: Upstream, *, poll_s: float, models_wait: float, generation_wait: float
) -> tuple[Canary, Cards]:
    """Poll until the API answers and a first generation succeeds. The caller bounds it. Raises Locked."""
    while True:
        canary: Canary | None = None
        cards: Cards = {}
        try:
            status, cards = await served_models(upstream, models_wait)
            if status in (401, 403):
                raise Locked
            canary = await find_canary(upstream, next(iter(cards)), generation_wait) if cards else None
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            pass
        if canary is not None:
            return canary, cards
        await asyncio.sleep(poll_s)


def tree_cpu(root: int) -> dict[int, float]:
    """Processor seconds of every living descendant of `root`, by pid."""
    used = {}
    try:
        processes = psutil.Process(root).children(recursive=True)
    except psutil.Error:
        return {}
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used[process.pid] = times.user + times.system
    return used


@dataclass(slots=True)
class Sampler:
    """Watches one engine. `root`: the guard's pid, or None for an engine without a process of ours."""

    engine: Engine
    canary: Canary
    limits: HealthLimits
    root: int | None = None
    _tokens: float | None = None
    _cpu: Mapping[int, float] = field(default_factory=dict)
    _canary_at: float = float("-inf")

    async def until_hung(self) -> Verdict:
        """Sample every period; returns the first verdict that is a hang."""
        clock = asyncio.get_running_loop().time
        due = clock()
        samples = [await self.sample(ask=False)]
        suspect = False
        while True:
            due = max(due + self.limits.period_s, clock())
            await asyncio.sleep(due - clock())
            now = await self.sample(suspect=suspect)
            verdict = judge(samples, now, self.limits)
            if verdict.state is Health.HUNG:
                return verdict
            suspect = verdict.state is Health.SUSPECT
            if suspect and verdict.reason:
                log.info("engine %s: %s", self.engine.name, verdict.reason)
            samples = [*samples, now] if suspect else [now]

    async def sample(self, *, suspect: bool = False, ask: bool = True) -> Sample:
        """Ask /metrics and, unless users keep the engine busy, the canary.

        A suspect engine is asked in any case: a client that does not read its answer also looks like no progress.
        """
        clock = asyncio.get_running_loop().time
        canary_due = clock() - self._canary_at >= self.limits.canary_period_s
        asked = ask and canary_due and (suspect or self.engine.load.total == 0)
        if asked:
            self._canary_at = clock()
        answers, works = await asyncio.gather(self._read_tokens(), self._ask(asked))
        if not self.canary.path and self.engine.load.total == 0:
            works = answers  # no way to ask for more
        elif works:
            # Its own tokens must be in this count: in the next one they would look like progress.
            await self._read_tokens()
        cpu_s = await self._processor_time()
        return Sample(clock(), self.engine.progress, self._tokens, works, cpu_s)

    async def _ask(self, asked: bool) -> bool:
        return asked and await self.canary.sings(self.limits.probe_s)

    async def _read_tokens(self) -> bool:
        """False when the API does not answer."""
        try:
            status, body = await self.engine.upstream.fetch("GET", "/metrics", limit_s=self.limits.probe_s)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return False
        if status == 200 and (count := token_count(body)) is not None:
            self._tokens = count
        return True

    async def _processor_time(self) -> float | None:
        if self.root is None:
            return None
        # In a thread: walking /proc takes milliseconds that answers under way would wait for.
        before, self._cpu = self._cpu, await asyncio.to_thread(tree_cpu, self.root)
        return sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in self._cpu.items())
