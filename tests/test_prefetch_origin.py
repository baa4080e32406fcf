"""Where the tokens of a warm head came from: computed, in the engine's own memory before, or out of its KV tier."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from aicockpit.workspace.steps import Origin
from prefetch_rig import (
    BLOCK,
    LIMITS,
    SLOW,
    Bench,
    asked,
    complete,
    event_flags,
    running,
    source,
    target,
    until,
)

TIER = ("--fake-outside", "7")
QUICK = replace(LIMITS, event_wait=0.05)


def resident(made: Bench, count: int) -> bool:
    found = made.warmth.resident("fake-0", target(400).tokens)
    return found.exact and found.tokens == count


async def test_what_events_tell_to_be_in_memory_is_not_the_tiers(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *TIER, *event_flags(tmp_path), events=source(tmp_path)) as (_, made):
        await until(lambda: made.warmth.exact("fake-0"))
        await complete(made, one.tokens[:208])
        await until(lambda: resident(made, 208))
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(computed=192, memory=208)
        assert made.prefetcher.counters.tokens_found == 0, "that was known"


async def test_what_is_found_though_it_is_not_in_memory_came_from_the_tier(tmp_path: Path) -> None:
    one = target(400)
    flags = (*TIER, *event_flags(tmp_path))
    async with running(tmp_path, *flags, events=source(tmp_path), limits=QUICK) as (_, made):
        await until(lambda: made.warmth.exact("fake-0"))
        await complete(made, one.tokens[:208])
        await until(lambda: resident(made, 208))
        assert made.prefetcher.index is not None
        made.prefetcher.index.clear()  # as if its memory had let go of it, and the tier not
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(computed=192, tier=208)
        assert made.prefetcher.counters.tokens_found == 208


async def test_without_events_what_nobody_told_us_of_counts_as_the_tiers_where_there_is_one(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *TIER) as (_, made):
        await until(lambda: made.warmth.info("fake-0") is not None)
        for _ in range(2):  # the second shows that the first was kept
            made.warmth.learn("fake-0", one.tokens[:64], await complete(made, one.tokens[:64]))
        await complete(made, one.tokens[:208])
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(computed=192, memory=64, tier=144)


async def test_what_somebody_else_computed_between_two_steps_is_memory(tmp_path: Path) -> None:
    one = target(800)
    flags = (*SLOW, *TIER, *event_flags(tmp_path))
    async with running(tmp_path, *flags, events=source(tmp_path), limits=replace(LIMITS, step_s=0.05)) as (_, made):
        await until(lambda: made.warmth.exact("fake-0"))
        made.want(one)
        await until(lambda: made.prefetcher.counters.steps >= 2)
        made.engine.load.interactive += 1
        await complete(made, one.tokens[:640])
        await until(lambda: made.warmth.resident("fake-0", one.tokens).tokens >= 640)
        made.engine.load.interactive -= 1
        progress = await made.until(one, "warm")
        assert progress.origin.total == 800
        assert progress.origin.tier == 0
        assert progress.origin.memory >= 160


async def test_an_eviction_is_repaired_from_what_is_left_in_memory(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *event_flags(tmp_path), events=source(tmp_path)) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        await until(lambda: resident(made, 400))
        await asyncio.to_thread(fake.forget, 5)
        await until(lambda: made.prefetcher.counters.evictions == 1)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(computed=5 * BLOCK, memory=400 - 5 * BLOCK)


async def test_a_head_that_grows_once_warm_counts_what_was_warm_as_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, made):
        made.want(target(400))
        assert (await made.until(target(400), "warm")).origin == Origin(computed=400)
        made.want(grown := target(440))
        assert (await made.until(grown, "warm")).origin == Origin(computed=32, memory=400)


async def test_a_head_that_grows_while_it_is_warmed_counts_from_its_first_step(tmp_path: Path) -> None:
    limits = replace(LIMITS, step_s=0.1)
    async with running(tmp_path, *SLOW, limits=limits) as (fake, made):
        made.want(target(800))
        await until(lambda: made.prefetcher.counters.steps >= 4)
        began = made.prefetcher.counters.tokens_prefilled
        made.want(grown := target(880))
        progress = await made.until(grown, "warm")
        longest = max(after - before for before, after in zip([0, *asked(fake)], asked(fake), strict=False))
        assert progress.origin.total == 880
        assert progress.origin.memory <= longest, "at most the step in flight when it grew"
        assert progress.origin.computed >= began
        assert progress.seconds is not None
        assert progress.seconds >= 0.8, "880 tokens at 1,000 a second, the first step's among them"


async def test_the_time_is_that_of_the_last_warming(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *SLOW, *event_flags(tmp_path), events=source(tmp_path)) as (fake, made):
        made.want(one)
        first = (await made.until(one, "warm")).seconds
        await until(lambda: resident(made, 400))
        await asyncio.to_thread(fake.forget, 5)
        await until(lambda: made.prefetcher.counters.evictions == 1)
        second = (await made.until(one, "warm")).seconds
        assert first is not None
        assert second is not None
        assert first >= 0.4
        assert 0.08 <= second < first
