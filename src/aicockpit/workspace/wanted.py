"""The targets of one engine: how far each is, and which is next. Sends nothing; that is `prefetch.py`.

cold      not there, or not known to be; the next step begins at what `Warmth` believes resident
warming   steps are being sent
warm      all whole blocks are there; proven by a request with one token more, since a hit is capped at n - 1 tokens
stuck     given up after `tries` mismatches, or refused; tried again after `stuck_retry_s` or with a new engine
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.engines.kv import KvInfo
from aicockpit.workspace.steps import (
    Key,
    Mismatch,
    Origin,
    PrefetchCounters,
    PrefetchLimits,
    Progress,
    Speed,
    Target,
    WarmState,
    explain,
    refusals,
)
from aicockpit.workspace.warmth import Warmth

log = logging.getLogger(__name__)

COLD, WARMING, WARM, STUCK = WarmState.COLD, WarmState.WARMING, WarmState.WARM, WarmState.STUCK
Report = Callable[[Target, Progress], None]
_NEVER = float("inf")
_ENGINES = (Mismatch.COLD, Mismatch.UNREPORTED)  # not of the tokens


@dataclass(slots=True, eq=False)
class Work:
    """One target on its way. Times are of the monotonic clock, but for `verified_at`. `retry_at` infinite: refused.

    `wanted_at`: None once it was warm. `due`: warm, and to be verified again. `proven`: some of it was hit. `kind`: of
    the last mismatch since it was warm. `began`: the first step of a warming under way; `seconds`: of the last one.
    """

    target: Target
    wanted_at: float | None
    state: WarmState = COLD
    reason: str = ""
    total: int = 0
    done: int = 0
    last_step: int = 0
    tries: int = 0
    proven: bool = False
    due: bool = False
    warm_at: float = 0.0
    check_at: float = 0.0
    retry_at: float = 0.0
    verified_at: float | None = None
    origin: Origin = field(default_factory=Origin)
    began: float | None = None
    seconds: float | None = None
    noted: set[Mismatch] = field(default_factory=set)
    kind: Mismatch | None = None

    @property
    def open(self) -> bool:
        """Would a request bring it on?"""
        return self.due if self.state is WARM else self.state is not STUCK and not self.retry_at


class Wanted:
    """The wish list of one engine. Its owner is the prefetcher."""

    def __init__(
        self,
        engine: str,
        warmth: Warmth,
        limits: PrefetchLimits,
        counters: PrefetchCounters,
        speed: Speed,
        report: Report,
        adapter: Callable[[Target], str],
    ) -> None:
        self.info: KvInfo | None = None
        self._engine, self._warmth, self._limits = engine, warmth, limits
        self._counters, self._speed, self._report, self._adapter = counters, speed, report, adapter
        self._works: dict[Key, Work] = {}
        self._seen_version = -1

    def replace(self, targets: Sequence[Target]) -> None:
        """A target with the same key and tokens goes on where it is.

        With other tokens it begins anew, unless what it is stuck at is the engine's: that no save changes. What was
        warmed of it until now, by a warming under way, still counts.
        """
        works: dict[Key, Work] = {}
        for target in sorted(targets, key=lambda one: -one.priority):
            old = self._works.get(target.key)
            if old is not None and (old.target.tokens is target.tokens or old.target.tokens == target.tokens):
                # The tuple that was hashed stays: hashes are found by identity.
                old.target = replace(target, tokens=old.target.tokens)
                works[target.key] = old
            else:
                work = works[target.key] = Work(target, time.monotonic())
                done = old.origin.total if old is not None else 0
                if old is not None and old.state is WARMING and target.tokens[:done] == old.target.tokens[:done]:
                    work.origin, work.began = old.origin, old.began
                if old is not None and old.state is STUCK and old.retry_at != _NEVER and old.kind in _ENGINES:
                    work.state, work.reason, work.kind, work.noted = STUCK, old.reason, old.kind, old.noted
                    work.tries, work.retry_at = old.tries, old.retry_at
        gone = [work for key, work in self._works.items() if works.get(key) is not work]
        self._counters.superseded += sum(work.state in (COLD, WARMING) for work in gone)
        self._works = works
        self._admit()

    def begin(self, info: KvInfo) -> None:
        """A new engine, with nothing in its cache that we know of."""
        self.info = info
        for work in self._works.values():
            work.tries, work.retry_at, work.kind = 0, 0.0, None
            work.noted.clear()
            self.set(work, COLD, "")
        self.cool("")
        self._admit()

    def end(self, reason: str) -> None:
        """The engine is gone."""
        self.info = None
        self.cool(reason)

    def cool(self, reason: str) -> None:
        """Nothing is known to be warm."""
        for work in self._works.values():
            self._cool(work, reason)

    def holds(self, work: Work) -> bool:
        """Is it still wanted?"""
        return self._works.get(work.target.key) is work

    def status(self, key: Key) -> Progress:
        work = self._works.get(key)
        return self._progress(work) if work else Progress(reason="not asked for")

    def statuses(self) -> dict[Key, Progress]:
        return {key: self._progress(work) for key, work in self._works.items()}

    def next(self) -> Work | None:
        """The first target, in order of priority, that a request would bring on."""
        now, version = time.monotonic(), self._warmth.version(self._engine)
        changed, self._seen_version = version != self._seen_version, version
        found = None
        for work in list(self._works.values()):
            if work.state is WARM and (changed or now >= work.check_at):
                self._look_again(work, now)
            elif work.state is STUCK and 0 < work.retry_at <= now:
                work.tries, work.retry_at = 0, 0.0
                self.set(work, COLD, f"tried again; before: {work.reason}")
            if found is None and work.open:
                found = work
        return found

    def set(self, work: Work, state: WarmState, reason: str) -> None:
        if (work.state, work.reason) != (state, reason):
            work.state, work.reason = state, reason
            if self.holds(work):
                self._report(work.target, self._progress(work))

    def warmed(self, work: Work, *, proven: bool) -> None:
        """All of it is there."""
        now = time.monotonic()
        if work.wanted_at is not None and self.holds(work):
            self._counters.last_save_to_warm_s = now - work.wanted_at
        if proven:
            work.verified_at = time.time()
        if work.state is not WARM:
            work.warm_at, work.seconds = now, None if work.began is None else now - work.began
        work.began = None
        work.wanted_at, work.due, work.done, work.kind = None, False, work.total, None
        work.check_at = now + self._limits.verify_s
        self.set(work, WARM, "")

    def mismatch(self, work: Work, kind: Mismatch, expected: int, cached: int | None) -> None:
        """A step or verification found less than it should: count, tell, and give up after some."""
        self._counters.mismatches[kind] += 1
        reason = explain(kind, expected, cached)
        if kind not in work.noted:
            work.noted.add(kind)
            log.warning("engine %s: prefetch of %s: %s (%s)", self._engine, work.target.key, kind, reason)
        if work.state is WARM:
            self._counters.evictions += 1
            self._settle(work)
        work.due, work.proven, work.verified_at = False, False, None
        work.kind = kind
        work.tries += 1
        if kind is Mismatch.UNREPORTED:  # asking again would not make it speak
            work.tries = self._limits.tries
        self.set(work, WARMING, reason)
        self._give_up_after_tries(work)
        if kind is not Mismatch.UNREPORTED and not cached:
            # The whole cache may be gone: one cheap request each will tell.
            for other in self._works.values():
                other.due |= other.state is WARM

    def give_up(self, work: Work, reason: str) -> None:
        work.retry_at, work.began = time.monotonic() + self._limits.stuck_retry_s, None
        log.warning("engine %s: prefetch of %s given up: %s", self._engine, work.target.key, reason)
        self.set(work, STUCK, reason)

    def _give_up_after_tries(self, work: Work) -> None:
        if work.tries >= self._limits.tries:
            self.give_up(work, work.reason)

    def _settle(self, work: Work) -> None:
        """It was warm for long enough: what went wrong before no longer counts."""
        if time.monotonic() - work.warm_at >= self._limits.settle_s:
            work.tries = 0

    def _look_again(self, work: Work, now: float) -> None:
        """Is a warm target still there? Asks nobody; a verification by the clock only where no events tell."""
        resident = self._warmth.resident(self._engine, work.target.tokens, self._adapter(work.target))
        if resident.tokens < work.total:
            self._counters.evictions += 1
            self._settle(work)
            work.tries += 1
            self._cool(work, f"{work.total - resident.tokens} of its {work.total} tokens were evicted")
            self._give_up_after_tries(work)
        elif now >= work.check_at:
            work.due |= not resident.exact and resident.age_s >= self._limits.verify_s
            work.check_at = now + max(self._limits.verify_s - resident.age_s, self._limits.poll_s)

    def _cool(self, work: Work, reason: str) -> None:
        if work.retry_at == _NEVER:
            return
        work.done = work.last_step = 0
        work.origin, work.began, work.seconds = Origin(), None, None
        work.proven = work.due = False
        work.verified_at = None
        if work.state is not STUCK:
            self.set(work, COLD, reason)

    def _admit(self) -> None:
        """What fits into the KV cache, in order of priority; the others are told why they do not."""
        if self.info is None:
            return
        out = refusals(
            [work.target for work in self._works.values()],
            lambda target: self._warmth.chain(self._engine, target.tokens, self._adapter(target)),
            self.info,
            self._limits,
        )
        for key, work in list(self._works.items()):
            work.total = len(work.target.tokens) // self.info.block_size * self.info.block_size
            if refused := out.get(key):
                work.retry_at = 0.0
                self._cool(work, "")
                work.retry_at = _NEVER
                self.set(work, *refused)
            elif work.retry_at == _NEVER:
                work.retry_at = 0.0
                self.set(work, COLD, "")
        self._seen_version = -1

    def _progress(self, work: Work) -> Progress:
        speed, refused = self._speed.tokens_s, work.retry_at == _NEVER
        return Progress(
            work.state, work.done, work.total, work.verified_at, speed, work.reason, refused, work.origin, work.seconds
        )
