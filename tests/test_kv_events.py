"""KV events: every shape that may come, gaps, replays, restarts; over real sockets from a real process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.blocks import event_keys, hash_blocks
from aicockpit.engines.kv_events import EventLimits, Fed, KvEvents, KvIndex, Reader
from aicockpit.engines.kv_frames import Batch, Cleared, Removed, Stored, decode
from fake_client import FakeVllm
from prefetch_rig import BLOCK, EVENT_LIMITS, event_flags, fake_engine, tokens

IDS = tokens(64)
KEYS = event_keys(hash_blocks(IDS, BLOCK))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
NAMES = st.sampled_from(
    ["type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "extra_keys"]
)
KINDS = st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Odd"])
THINGS = st.recursive(
    SCALARS | KINDS, lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner), max_leaves=20
)
EVENTS = THINGS | st.dictionaries(NAMES, THINGS) | st.builds(lambda kind, rest: [kind, *rest], KINDS, st.lists(THINGS))


def pack(*events: Any, ts: Any = 1.0, rank: Any = 0) -> bytes:
    return msgspec.msgpack.encode([ts, list(events), rank])


def stored(keys: tuple[int, ...] = KEYS, **more: Any) -> dict[str, Any]:
    first = {"parent_block_hash": None, "token_ids": IDS, "block_size": BLOCK, "lora_id": None, "medium": "GPU"}
    return {"type": "BlockStored", "block_hashes": keys, **first, **more}


def removed(*keys: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": keys, "medium": "GPU"}


def reader(capacity: int = 100) -> Reader:
    return Reader(KvIndex(capacity))


def test_maps_and_the_arrays_of_older_releases_say_the_same() -> None:
    maps = decode(pack(stored(), removed(KEYS[3]), {"type": "AllBlocksCleared"}))
    arrays = decode(
        pack(
            ["BlockStored", KEYS, None, IDS, BLOCK, None, "GPU"],
            ["BlockRemoved", [KEYS[3]], "GPU"],
            ["AllBlocksCleared"],
        )
    )
    assert maps.events == (Stored(KEYS, IDS[:BLOCK], BLOCK), Removed((KEYS[3],)), Cleared())
    assert arrays == maps
    assert decode(msgspec.msgpack.encode([1.0, [["BlockStored", KEYS, None, IDS, BLOCK]]])).events == maps.events[:1]


def test_hashes_may_come_as_bytes() -> None:
    assert decode(pack(stored(hash_blocks(IDS, BLOCK)))).events == (Stored(KEYS, IDS[:BLOCK], BLOCK),)  # type: ignore[arg-type]


def test_other_tiers_are_not_the_cache_of_the_engine() -> None:
    batch = decode(pack(stored(medium="CPU"), stored(medium="STORAGE"), stored(locality="REMOTE"), stored()))
    assert (len(batch.events), batch.elsewhere) == (1, 3)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"\xc1", msgspec.msgpack.encode({"a": 1}), pack(ts="now"), pack(rank="x")]
)
def test_a_batch_that_is_none_is_counted_as_broken(raw: bytes) -> None:
    assert decode(raw).broken == 1


def test_news_are_counted_and_change_nothing() -> None:
    feed = reader()
    feed.feed(0, pack(stored(), {"type": "BlockPainted", "colour": "red"}, 7, ["Odd"]))
    feed.settle()
    assert feed.index.counts.unknown == 3
    assert feed.index.exact
    assert len(feed.index) == 4


def test_an_event_of_a_known_kind_that_cannot_be_read_ends_exactness() -> None:
    feed = reader()
    feed.feed(0, pack(stored(), {"type": "BlockRemoved", "block_hashes": "all"}))
    feed.settle()
    assert not feed.index.exact
    feed.feed(1, pack({"type": "AllBlocksCleared"}, ts=2.0))
    feed.settle()
    assert feed.index.exact
    assert len(feed.index) == 0


@given(st.lists(EVENTS), SCALARS, SCALARS)
def test_no_event_raises_and_the_index_stays_within_its_capacity(events: list[Any], ts: Any, rank: Any) -> None:
    feed = reader(capacity=3)
    for sequence in range(2):
        assert feed.feed(sequence, msgspec.msgpack.encode([ts, events, rank])) is Fed.APPLIED
        feed.settle()
    assert len(feed.index) <= 3


@given(st.binary())
def test_no_bytes_raise(raw: bytes) -> None:
    assert isinstance(decode(raw), Batch)


def test_removals_that_were_missed_show_by_too_many_blocks() -> None:
    feed = reader(capacity=3)
    feed.feed(0, pack(stored()))
    feed.settle()
    assert len(feed.index) == 3
    assert not feed.index.exact
    assert "3 blocks" in feed.index.reason
    assert feed.index.counts.overflows == 1


def test_only_leading_blocks_count() -> None:
    index = KvIndex(10)
    index.add(KEYS)
    assert index.resident(KEYS) == 4
    index.remove([KEYS[2]])
    assert index.resident(KEYS) == 2
    assert index.resident(()) == 0
    index.remove([12345])


def test_a_hit_is_believed_over_the_index_only_while_nothing_goes_away() -> None:
    index = KvIndex(10)
    version = index.version
    assert index.confirm(KEYS, version)
    assert index.resident(KEYS) == 4
    index.remove(KEYS)
    assert not index.confirm(KEYS, version)
    assert index.resident(KEYS) == 0


def test_a_gap_is_told_and_ends_exactness_when_it_cannot_be_filled() -> None:
    feed = reader()
    feed.feed(0, pack(stored(KEYS[:2])))
    feed.settle()
    assert feed.index.exact
    later = pack(stored(KEYS[2:], parent_block_hash=KEYS[1]), ts=3.0)
    assert feed.feed(2, later) is Fed.GAP
    assert feed.index.resident(KEYS) == 2
    assert feed.feed(2, later, force=True) is Fed.APPLIED
    feed.settle()
    assert not feed.index.exact
    assert feed.index.reason == "batches 1 to 1 are lost"
    assert feed.index.counts.gaps == 1


def test_a_batch_that_comes_twice_is_applied_once() -> None:
    feed = reader()
    feed.feed(0, pack(stored()))
    feed.feed(1, pack(removed(KEYS[3]), ts=2.0))
    assert feed.feed(0, pack(stored())) is Fed.DUPLICATE
    assert feed.index.resident(KEYS) == 3
    assert feed.index.counts.duplicates == 1


def test_an_older_number_with_a_newer_time_is_another_publisher() -> None:
    feed = reader()
    for sequence in range(3):
        feed.feed(sequence, pack(stored(), ts=float(sequence)))
    assert feed.feed(0, pack(ts=9.0)) is Fed.RESTARTED
    feed.begin()
    assert len(feed.index) == 0
    assert feed.feed(0, pack(ts=9.0)) is Fed.APPLIED


@pytest.mark.parametrize(
    ("second", "why"), [(pack(rank=1), "several engine cores"), (pack(stored(group_idx=1)), "second KV group")]
)
def test_what_one_set_of_blocks_cannot_tell_is_not_called_exact(second: bytes, why: str) -> None:
    feed = reader()
    feed.feed(0, pack(stored()))
    feed.feed(1, second)
    feed.settle()
    assert not feed.index.exact
    assert why in feed.index.reason


def test_hashes_of_another_seed_are_found_out_by_the_first_block() -> None:
    feed = reader()
    theirs = event_keys(hash_blocks(IDS, BLOCK, seed="7"))
    feed.feed(0, pack(stored(theirs)))
    feed.settle()
    assert not feed.index.exact
    assert "PYTHONHASHSEED" in feed.index.reason


@pytest.mark.parametrize("more", [{"lora_name": "a"}, {"extra_keys": [["salt"], None]}, {"parent_block_hash": 7}])
def test_blocks_with_extra_keys_prove_nothing_about_the_seed(more: dict[str, Any]) -> None:
    feed = reader()
    feed.feed(0, pack(stored((1, 2), **more)))
    feed.settle()
    assert feed.index.exact


# Over sockets.


@contextlib.asynccontextmanager
async def listening(
    tmp_path: Path, *, replay: bool = True, limits: EventLimits = EVENT_LIMITS, capacity: int = 200
) -> AsyncIterator[KvEvents]:
    events = KvEvents(
        f"ipc://{tmp_path}/x", f"ipc://{tmp_path}/y" if replay else None, KvIndex(capacity), topic="kv", limits=limits
    )
    events.launch()
    try:
        yield events
    finally:
        await events.close()


async def send(fake: FakeVllm, ids: tuple[int, ...]) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=fake.uds), base_url=fake.url) as http:
        body = {"model": "fake", "prompt": list(ids), "max_tokens": 1}
        assert (await http.post("/v1/completions", json=body)).status_code == 200


async def until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "never happened"
        await asyncio.sleep(0.01)


def held(events: KvEvents, ids: tuple[int, ...] = IDS) -> int:
    return events.index.resident(event_keys(hash_blocks(ids, BLOCK))) * BLOCK


@pytest.mark.parametrize("shape", ["map", "array"])
async def test_blocks_come_go_and_are_cleared(tmp_path: Path, shape: str) -> None:
    array = ["--fake-array-events"] * (shape == "array")
    with fake_engine(tmp_path, *event_flags(tmp_path), *array) as fake:
        async with listening(tmp_path) as events:
            await until(lambda: events.exact)
            await send(fake, IDS)
            await until(lambda: held(events) == 64)
            await asyncio.to_thread(fake.forget, 1)
            await until(lambda: held(events) == 48)
            await asyncio.to_thread(fake.forget)
            await until(lambda: held(events) == 0)
            assert events.exact
            assert len(events.index) == 0


async def test_who_comes_late_is_told_everything(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path)) as fake:
        await send(fake, IDS)
        async with listening(tmp_path) as events:
            await until(lambda: events.exact and held(events) == 64)


async def test_without_the_first_batches_a_late_comer_knows_that_it_does_not_know(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path, buffer_steps=1)) as fake:
        await send(fake, IDS)
        await send(fake, tokens(64, 2))
        async with listening(tmp_path) as events:
            await until(lambda: "lost" in events.index.reason)
            assert not events.exact
            await asyncio.to_thread(fake.forget)
            await until(lambda: events.exact)


async def test_a_gap_is_filled_by_a_replay(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path)) as fake:
        async with listening(tmp_path, limits=EventLimits(2.0, 60.0, 0.05)) as events:
            await until(lambda: events.exact)
            await send(fake, IDS[:32])
            await until(lambda: held(events) == 32)
            fake.set(drop_events=1)
            await send(fake, IDS[:48])
            await send(fake, IDS)
            await until(lambda: held(events) == 64)
            assert events.exact


async def test_a_lost_last_batch_is_found_in_the_silence(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path)) as fake:
        async with listening(tmp_path) as events:
            await send(fake, IDS)
            await until(lambda: held(events) == 64)
            fake.set(drop_events=1)
            await asyncio.to_thread(fake.forget)
            await until(lambda: held(events) == 0)


async def test_without_replay_a_gap_ends_exactness_until_a_clear(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path, replay=False)) as fake:
        async with listening(tmp_path, replay=False) as events:
            assert not events.exact
            end = time.monotonic() + 10
            while not events.index.counts.batches:  # a subscription takes a moment, and there is no replay
                assert time.monotonic() < end
                await asyncio.to_thread(fake.forget)
                await asyncio.sleep(0.02)
            assert events.exact
            fake.set(drop_events=1)
            await send(fake, IDS[:32])
            await send(fake, IDS)
            await until(lambda: not events.exact)
            await asyncio.to_thread(fake.forget)
            await until(lambda: events.exact)


async def test_an_engine_that_was_restarted_begins_anew(tmp_path: Path) -> None:
    async with listening(tmp_path) as events:
        with fake_engine(tmp_path, *event_flags(tmp_path)) as fake:
            await send(fake, IDS)
            await send(fake, tokens(64, 2))
            await until(lambda: events.exact and held(events) == 64)
        await until(lambda: not events.exact)  # nobody answers
        (tmp_path / "fake.sock").unlink()
        with fake_engine(tmp_path, *event_flags(tmp_path)) as fake:
            await send(fake, IDS[:32])
            await until(lambda: events.exact and held(events) == 32)


async def test_what_is_no_endpoint_is_refused_at_once() -> None:
    events = KvEvents("nonsense", None, KvIndex(1))
    with pytest.raises(zmq.ZMQError):
        events.launch()
    await events.close()


async def test_closing_ends_exactness(tmp_path: Path) -> None:
    with fake_engine(tmp_path, *event_flags(tmp_path)):
        async with listening(tmp_path) as events:
            await until(lambda: events.exact)
        assert not events.exact
