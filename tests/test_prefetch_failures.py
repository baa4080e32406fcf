"""Prefetching into engines that lie, forget, refuse, fail or are too small: it is told, and it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aicockpit.errors import Overloaded
from aicockpit.workspace.prefetch import EventSource
from aicockpit.workspace.steps import Mismatch
from prefetch_rig import (
    LIMITS,
    SLOW,
    Gate,
    asked,
    bench,
    engine_of,
    event_flags,
    fake_engine,
    running,
    source,
    target,
    until,
)


@pytest.mark.parametrize(("flags", "kind"), [(("--fake-lie-cached", "0"), "cold"), (("--fake-no-cache",), "cold")])
async def test_an_engine_that_keeps_nothing_is_given_up(
    tmp_path: Path, flags: tuple[str, ...], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = target(800)
    async with running(tmp_path, *flags) as (fake, made):
        made.want(one)
        progress = await made.until(one, "stuck")
        assert "found 0 of" in progress.reason
        assert "prefix caching is off" in progress.reason
        assert made.prefetcher.counters.mismatches == {Mismatch(kind): LIMITS.tries}
        count = len(asked(fake))
        assert count == LIMITS.tries + 1
        await asyncio.sleep(0.2)
        assert len(asked(fake)) == count
        told = [record for record in caplog.records if f": {kind} (" in record.getMessage()]
        assert len(told) == 1
        assert made.warmth.resident("fake-0", one.tokens).tokens == 0


@pytest.mark.parametrize("details", [True, False])
async def test_a_save_does_not_ask_an_engine_again_that_keeps_nothing(tmp_path: Path, details: bool) -> None:
    limits = replace(LIMITS, stuck_retry_s=2.0)
    async with running(tmp_path, "--fake-no-cache", details=details, limits=limits) as (fake, made):
        made.want(target(400))
        before = await made.until(target(400), "stuck")
        count = len(asked(fake))
        made.want(grown := target(500))
        assert (made.state(grown).state, made.state(grown).reason) == ("stuck", before.reason)
        await asyncio.sleep(0.3)
        assert len(asked(fake)) == count
        async with asyncio.timeout(10):
            while len(asked(fake)) == count:
                await asyncio.sleep(0.02)


async def test_an_engine_that_finds_too_little_is_given_up(tmp_path: Path) -> None:
    one = target(800)
    async with running(tmp_path, "--fake-lie-cached", "16") as (_, made):
        made.want(one)
        progress = await made.until(one, "stuck")
        assert "evicted" in progress.reason
        assert made.prefetcher.counters.mismatches == {Mismatch.LOST: LIMITS.tries}


async def test_an_engine_that_does_not_say_what_it_found_is_given_up_with_the_cure(tmp_path: Path) -> None:
    one = target(800)
    async with running(tmp_path, details=False) as (_, made):
        made.want(one)
        progress = await made.until(one, "stuck")
        assert "--enable-prompt-tokens-details" in progress.reason
        assert made.prefetcher.counters.mismatches == {Mismatch.UNREPORTED: 1}


async def test_events_prove_it_where_the_engine_does_not_say(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, *event_flags(tmp_path), details=False, events=source(tmp_path)) as (_, made):
        await until(lambda: made.warmth.exact("fake-0"))
        made.want(one)
        await made.until(one, "warm")
        assert not made.prefetcher.counters.mismatches


async def test_what_is_stuck_is_tried_again_after_a_while_and_with_a_new_engine(tmp_path: Path) -> None:
    one = target(400)
    async with running(tmp_path, "--fake-no-cache", limits=replace(LIMITS, stuck_retry_s=0.3)) as (fake, made):
        made.want(one)
        await made.until(one, "stuck")
        await made.until(one, "warming")
        await made.until(one, "stuck")
        fake.set(no_cache=False)
        await made.until(one, "warm")
    (tmp_path / "fake.sock").unlink()
    async with running(tmp_path, "--fake-no-cache") as (fake, made):
        made.want(one)
        await made.until(one, "stuck")
        fake.set(no_cache=False)
        made.engine.restarts += 1
        await made.until(one, "warm")


async def test_errors_are_waited_out_with_the_reason_shown(tmp_path: Path) -> None:
    one = target(200)
    async with running(tmp_path, "--fake-status", "503") as (fake, made):
        made.want(one)
        await until(lambda: "currently busy" in made.state(one).reason)
        assert made.state(one).state in ("cold", "warming")
        await until(lambda: made.prefetcher.counters.errors >= 3)
        fake.set(status=0)
        assert (await made.until(one, "warm")).reason == ""


async def test_a_lost_and_a_silent_engine_are_waited_out(tmp_path: Path) -> None:
    one = target(200)
    async with running(tmp_path, limits=replace(LIMITS, step_wait=0.2)) as (fake, made):
        fake.set(hang_before_headers=True)
        made.want(one)
        await until(lambda: "nothing for 0.2 s" in made.state(one).reason)
        fake.set(hang_before_headers=False, garbage=True)
        await until(lambda: "not HTTP" in made.state(one).reason)
        fake.set(garbage=False)
        await made.until(one, "warm")


async def test_a_target_the_engine_refuses_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    one, two = target(400, "long", 1, priority=1), target(100, "short", 2)
    async with running(tmp_path, "--max-model-len", "300") as (_, made):
        made.want(one, two)
        await made.until(two, "warm")
        progress = await made.until(one, "stuck")
        assert "answered 400" in progress.reason
        assert "maximum context length is 300" in progress.reason


async def test_what_is_longer_than_the_cache_is_refused(tmp_path: Path) -> None:
    one, two = target(700, "a", 1, priority=1), target(100, "b", 2)
    async with running(tmp_path, blocks=40) as (fake, made):  # room for 29 blocks beside requests
        made.want(one, two)
        progress = await made.until(one, "stuck")
        assert "700 tokens are more than the 464" in progress.reason
        await made.until(two, "warm")
        assert max(asked(fake)) < 110


async def test_what_does_not_fit_beside_the_others_stays_cold(tmp_path: Path) -> None:
    targets = [target(200, f"t{number}", number, priority=-number) for number in range(3)]
    async with running(tmp_path, blocks=40) as (_, made):
        made.want(*targets)
        await made.until(targets[1], "warm")
        await asyncio.sleep(0.1)
        assert made.state(targets[2]).state == "cold"
        assert "KV cache is full: 384 of 464 tokens" in made.state(targets[2]).reason
        assert made.state(targets[2]).refused
        made.want(targets[0], targets[2])
        await made.until(targets[2], "warm")


async def test_shared_beginnings_count_once(tmp_path: Path) -> None:
    targets = [target(400, "pack", priority=1), target(416, "journal"), target(432, "near")]
    async with running(tmp_path, blocks=40) as (_, made):
        made.want(*targets)
        for one in targets:
            await made.until(one, "warm")


async def test_a_cache_that_others_thrash_is_not_fought_for_ever(tmp_path: Path) -> None:
    one = target(400)
    limits = replace(LIMITS, settle_s=60.0)
    async with running(tmp_path, *event_flags(tmp_path), events=source(tmp_path), limits=limits) as (fake, made):
        await until(lambda: made.warmth.exact("fake-0"))
        made.want(one)
        for _ in range(LIMITS.tries):
            await made.until(one, "warm")
            evictions = made.prefetcher.counters.evictions
            await asyncio.to_thread(fake.forget, 5)
            await until(lambda before=evictions: made.prefetcher.counters.evictions > before)
        progress = await made.until(one, "stuck")
        assert "evicted" in progress.reason


async def test_what_is_shorter_than_a_block_has_nothing_to_keep(tmp_path: Path) -> None:
    async with running(tmp_path) as (fake, made):
        made.want(target(0, "none"), target(15, "short"))
        await until(lambda: "shorter than one block" in made.state(target(0, "none")).reason)
        await asyncio.sleep(0.1)
        assert asked(fake) == []
        assert made.prefetcher.status(("nobody",)).reason == "not asked for"


async def test_an_engine_that_does_not_tell_its_block_size_is_told_about(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path, "--fake-hang") as (fake, made):
        made.engine.upstream.connect_wait = 0.2
        made.want(one)
        await asyncio.sleep(0.1)
        assert made.state(one).state == "cold"
        fake.set(hang=False)
        await made.until(one, "warm")


async def test_a_gate_that_is_full_is_waited_for(tmp_path: Path) -> None:
    class Full(Gate):
        @contextlib.asynccontextmanager
        async def turn(self, engine: Any, /) -> AsyncIterator[None]:
            self.turns += 1
            if self.turns < 3:
                raise Overloaded("16 background requests are waiting already")
            yield

    one = target(100)
    async with running(tmp_path, gate=Full()) as (_, made):
        made.want(one)
        await made.until(one, "warm")
        assert made.prefetcher.counters.errors == 2


async def test_a_wrong_event_endpoint_is_logged_and_done_without(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path, events=EventSource("nonsense")) as (_, made):
        made.want(one)
        await made.until(one, "warm")


async def test_reports_may_change_the_wish_list(tmp_path: Path) -> None:
    """As the owner of the epochs does: a warm epoch takes over, and the old one is no longer wanted."""
    one, two = target(100, "a", 1), target(100, "b", 2)
    async with running(tmp_path) as (_, made):
        made.prefetcher._wanted._report = lambda seen, progress: (
            made.want(two) if progress.state == "warm" and seen.key == one.key else None
        )
        made.want(one)
        await made.until(two, "warm")
        assert made.state(one).reason == "not asked for"


async def test_closing_leaves_no_request_behind(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *SLOW) as fake:
        async with bench(engine_of(fake)) as made:
            made.want(target(800))
            await until(lambda: made.prefetcher.counters.steps >= 1)
        await asyncio.to_thread(fake.wait_state, aborted=1)
        assert made.engine.load.background == 0


async def test_a_defect_is_told_and_warming_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = target(400)
    async with running(tmp_path) as (_, made):
        await until(lambda: made.warmth.info("fake-0") is not None)
        learn, calls = made.warmth.learn, []

        def broken(*args: Any, **named: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("made up")
            return learn(*args, **named)

        monkeypatch.setattr(made.warmth, "learn", broken)
        made.want(one)
        progress = await made.until(one, "warm")
        assert progress.done == 400
        assert any("made up" in told.reason for _, told in made.reports)
        assert [record.message for record in caplog.records if "ended by a defect" in record.message]
