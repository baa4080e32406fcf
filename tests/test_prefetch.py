"""Prefetching into a real process: what is called warm is warm, and nobody who waits for an answer waits for it."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path

from aicockpit.types import EngineState
from aicockpit.workspace.steps import Mismatch, Origin
from prefetch_rig import BLOCK, LIMITS, SLOW, asked, complete, event_flags, running, source, target, tokens, until


async def test_a_target_is_sent_in_steps_and_proven(tmp_path: Path) -> None:
    one = target(405)
    async with running(tmp_path) as (fake, made):
        made.want(one)
        progress = await made.until(one, "warm")
        assert (progress.done, progress.total, progress.reason) == (400, 400, "")
        assert progress.verified_at is not None
        assert abs(progress.verified_at - time.time()) < 10
        assert progress.speed_tokens_s is not None
        assert progress.origin == Origin(computed=400)
        assert progress.seconds is not None
        assert 0 < progress.seconds < 10
        assert await complete(made, (*one.tokens, 7, 8)) == 400
        lengths = asked(fake)[:-1]
        assert lengths[0] == 64 + 1  # one token more: a hit is capped
        assert lengths[-1] == 401
        assert all(length % BLOCK == 1 for length in lengths)
        assert lengths == sorted(lengths)
        assert made.warmth.resident("fake-0", one.tokens).tokens == 400
        counters = made.prefetcher.counters
        assert (counters.steps, counters.verifications) == (len(lengths) - 1, 1)
        assert counters.tokens_prefilled == 400 + len(lengths)
        assert not counters.mismatches
        assert counters.last_save_to_warm_s is not None
        assert [str(progress.state) for _, progress in made.reports] == ["warming", "warm"]


async def test_the_step_is_what_the_engine_computes_in_the_time_given(tmp_path: Path) -> None:
    one = target(1200)
    limits = replace(LIMITS, step_s=0.2)
    async with running(tmp_path, *SLOW, limits=limits) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        lengths = [0, *asked(fake)[:-1]]
        sizes = [after - before for before, after in itertools.pairwise(lengths)]
        assert sizes[0] == 64 + 1
        assert all(size <= 208 for size in sizes[1:-1]), sizes
        assert statistics.median(sizes) >= 96, sizes
        took = [entry["end"] - entry["at"] for entry in fake.prompts()[1:-2]]
        assert 0.08 <= statistics.median(took) <= 0.4, took


async def test_no_step_starts_while_somebody_waits_for_an_answer(tmp_path: Path) -> None:
    one = target(800)
    async with running(tmp_path, *SLOW, limits=replace(LIMITS, step_s=0.1)) as (fake, made):
        made.want(one)
        await until(lambda: made.prefetcher.counters.steps >= 2)
        answers = []
        for number in range(4):  # somebody types, with hardly a pause
            answers.append(await complete(made, tokens(30, 50 + number)))
        prompts = fake.prompts()
        users = [entry for entry in prompts if entry["tokens"] == 30]
        steps = [entry for entry in prompts if entry["tokens"] != 30]
        assert len(users) == 4
        for user in users:
            started = [step for step in steps if user["at"] <= step["at"] < (user["end"] or time.monotonic())]
            assert not started
        await made.until(one, "warm")


async def test_an_answer_that_takes_long_holds_everything_back(tmp_path: Path) -> None:
    one = target(200)
    async with running(tmp_path, "--fake-token-delay", "0.5") as (fake, made):
        made.engine.load.agent += 1
        made.want(one)
        await asyncio.sleep(0.3)
        assert asked(fake) == []
        assert made.state(one).state == "cold"
        made.engine.load.agent -= 1
        await made.until(one, "warm")


async def test_steps_of_an_engine_never_overlap(tmp_path: Path) -> None:
    async with running(tmp_path, *SLOW, limits=replace(LIMITS, step_s=0.05)) as (fake, made):
        made.want(*(target(120, f"t{number}", number) for number in range(3)))
        for number in range(3):
            await made.until(target(120, f"t{number}", number), "warm")
        prompts = fake.prompts()
        assert all(before["end"] <= after["at"] for before, after in itertools.pairwise(prompts))
        assert (await asyncio.to_thread(fake.state))["max_active"] == 1


async def test_what_is_superseded_is_dropped_between_two_steps(tmp_path: Path) -> None:
    old, new = target(1600), target(100, first=9)
    assert old.key == new.key
    async with running(tmp_path, *SLOW, limits=replace(LIMITS, step_s=0.1)) as (fake, made):
        made.want(old)
        await until(lambda: made.prefetcher.counters.steps >= 2)
        before = len(asked(fake))
        made.want(new)
        assert made.state(new).state == "cold"
        await made.until(new, "warm")
        late = [entry for entry in fake.prompts()[before:] if entry["last"][0] < 9000]
        assert len(late) <= 1  # the one in flight
        assert made.prefetcher.counters.superseded == 1


async def test_what_is_superseded_while_it_waits_for_its_turn_is_never_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as (fake, made):
        made.engine.load.interactive += 1
        made.want(target(200))
        await asyncio.sleep(0.1)
        made.want(target(100, first=9))
        made.engine.load.interactive -= 1
        await made.until(target(100, first=9), "warm")
        assert all(entry["last"][0] > 9000 for entry in fake.prompts())


async def test_the_same_list_again_disturbs_nothing(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        before = asked(fake)
        made.want(target(400, priority=3.0))
        await asyncio.sleep(0.2)
        assert made.state(one).state == "warm"
        assert asked(fake) == before


async def test_a_higher_priority_comes_first_even_in_between(tmp_path: Path) -> None:
    low, high = target(800, "low", 1), target(100, "high", 2, priority=5.0)
    async with running(tmp_path, *SLOW, limits=replace(LIMITS, step_s=0.1)) as (_, made):
        made.want(low)
        await until(lambda: made.prefetcher.counters.steps >= 2)
        made.want(low, high)
        await made.until(high, "warm")
        assert made.state(low).state == "warming"
        await made.until(low, "warm")
        assert list(made.prefetcher.statuses()) == [high.key, low.key]


async def test_a_head_that_grows_is_sent_from_where_it_was_warm(tmp_path: Path) -> None:
    async with running(tmp_path) as (fake, made):
        made.want(target(400))
        await made.until(target(400), "warm")
        before = len(asked(fake))
        made.want(target(400), target(440, "journal"))
        await made.until(target(440, "journal"), "warm")
        assert asked(fake)[before:] == [433, 433]
        assert made.prefetcher.counters.tokens_resident >= 400


async def test_what_is_resident_already_costs_one_request(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path) as (fake, made):
        await until(lambda: made.warmth.info("fake-0") is not None)
        for _ in range(2):
            made.warmth.learn("fake-0", one.tokens, await complete(made, one.tokens))
        made.want(one)
        await made.until(one, "warm")
        assert asked(fake) == [400, 400, 401]


async def test_what_the_engine_has_without_our_knowing_is_proven_by_the_step_that_finds_it(tmp_path: Path) -> None:
    one = target(405)
    async with running(tmp_path, limits=replace(LIMITS, first_step=512)) as (fake, made):
        await until(lambda: made.warmth.info("fake-0") is not None)
        await complete(made, one.tokens)
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(memory=400)
        assert progress.verified_at is not None
        assert asked(fake)[1:] == [401]


async def test_what_a_step_finds_and_what_it_computes_are_told_apart(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path) as (_, made):
        await until(lambda: made.warmth.info("fake-0") is not None)
        await complete(made, one.tokens[:208])  # nobody told us
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.origin == Origin(computed=192, memory=208)
        assert made.prefetcher.counters.tokens_found == 208


async def test_without_verification_the_last_step_is_the_last(tmp_path: Path) -> None:
    one = target(128, verify=False)
    async with running(tmp_path) as (fake, made):
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.verified_at is None
        assert asked(fake)[-1] == 128
        assert made.prefetcher.counters.verifications == 0


async def test_after_a_restart_everything_is_warmed_again_most_important_first(tmp_path: Path) -> None:
    first, second = target(100, "a", 1, priority=1), target(100, "b", 2, priority=2)
    async with running(tmp_path) as (fake, made):
        made.want(first, second)
        await made.until(first, "warm")
        made.engine.state = EngineState.BACKOFF
        made.prefetcher.wake()
        await made.until(first, "cold")
        assert made.state(first).reason == "the engine is backoff"
        assert (made.state(first).origin, made.state(first).seconds) == (Origin(), None)
        assert made.warmth.resident("fake-0", first.tokens).tokens == 0
        await asyncio.to_thread(fake.forget)
        before = len(asked(fake))
        made.engine.restarts += 1
        made.engine.state = EngineState.READY
        await made.until(first, "warm")
        again = fake.prompts()[before:]
        assert [entry["last"][0] // 1000 for entry in again] == sorted(
            (e["last"][0] // 1000 for e in again), reverse=True
        )
        assert again[0]["cached"] == 0
        assert made.state(second).state == "warm"


async def test_a_new_process_is_a_new_engine_even_if_it_was_ready_at_every_look(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path) as (fake, made):
        made.engine.pid = 1
        made.want(one)
        await made.until(one, "warm")
        before = len(asked(fake))
        made.engine.pid = 2
        await until(lambda: len(asked(fake)) > before)
        await made.until(one, "warm")


async def test_after_a_sleep_the_same_process_is_warmed_again(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        await asyncio.to_thread(fake.forget)
        before = len(asked(fake))
        made.engine.generation += 1
        await until(lambda: len(asked(fake)) > before)
        await made.until(one, "warm")


async def test_an_eviction_told_by_an_event_is_repaired_without_being_asked_for(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *event_flags(tmp_path), events=source(tmp_path)) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        await until(lambda: made.warmth.exact("fake-0"))
        assert made.warmth.resident("fake-0", one.tokens).exact
        before = len(asked(fake))
        await asyncio.to_thread(fake.forget, 5)
        await until(lambda: made.prefetcher.counters.evictions == 1)
        await made.until(one, "warm")
        assert asked(fake)[before] > 400 - 5 * BLOCK  # from where it is still warm
        assert made.warmth.resident("fake-0", one.tokens).tokens == 400


async def test_an_eviction_shows_in_the_next_request_of_a_user(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        await asyncio.to_thread(fake.forget)
        short = one.tokens[:90]
        made.warmth.learn("fake-0", short, await complete(made, short))
        await until(lambda: made.prefetcher.counters.evictions == 1)
        await made.until(one, "warm")
        assert await complete(made, (*one.tokens, 1)) == 400


async def test_an_engine_without_events_is_asked_again_now_and_then(tmp_path: Path) -> None:
    one = target(400)
    limits = replace(LIMITS, verify_s=0.4, settle_s=0.1)
    async with running(tmp_path, limits=limits) as (fake, made):
        made.want(one)
        await made.until(one, "warm")
        before = len(asked(fake))
        await until(lambda: len(asked(fake)) == before + 1)
        assert asked(fake)[-1] == 401
        assert made.state(one).state == "warm"
        await asyncio.to_thread(fake.forget)
        await until(lambda: made.prefetcher.counters.mismatches[Mismatch.LOST] == 1)
        await made.until(one, "warm")
        assert made.prefetcher.counters.evictions == 1
        assert made.state(one).origin == Origin(computed=400)
        assert await complete(made, (*one.tokens, 1)) == 400


async def test_one_loss_makes_the_others_be_looked_at(tmp_path: Path) -> None:
    one, two = target(100, "a", 1), target(100, "b", 2)
    async with running(tmp_path, limits=replace(LIMITS, settle_s=0.0)) as (fake, made):
        made.want(one, two)
        await made.until(two, "warm")
        await asyncio.to_thread(fake.forget)
        third = target(200, "c", 1)  # grows out of the first
        made.want(one, two, third)
        await until(lambda: made.prefetcher.counters.mismatches[Mismatch.LOST] >= 2)
        for each in (one, two, third):
            await made.until(each, "warm")
            assert await complete(made, (*each.tokens, 1)) == len(each.tokens) // BLOCK * BLOCK
