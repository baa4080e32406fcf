"""What /metrics and the status say of KV events: gaps, replays, what was ignored, and why an index is not exact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from aicockpit import warm
from aicockpit.engines.blocks import event_keys, hash_blocks
from aicockpit.engines.kv import KvInfo
from aicockpit.engines.kv_events import Counts, KvIndex, Reader
from aicockpit.gateway.warm_metrics import Figure, WarmCollector
from aicockpit.workspace.warmth import Warmth
from prefetch_rig import BLOCK, event_flags, running, source, target, tokens, until

KEYS = event_keys(hash_blocks(tokens(64), BLOCK))


def batch(*events: object, ts: float = 1.0) -> bytes:
    return msgspec.msgpack.encode([ts, list(events), 0])


def stored(*keys: int, medium: str = "GPU") -> dict[str, object]:
    return {"type": "BlockStored", "block_hashes": keys, "medium": medium}


def page(figures: Sequence[Figure]) -> dict[str, float]:
    """Samples of the page by name, with the labels but for the engine's."""
    registry = CollectorRegistry()
    collector = WarmCollector(lambda: figures)
    registry.register(collector)
    collector.refresh()
    lines = generate_latest(registry).decode().splitlines()
    samples = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {re.sub(r'engine="[^"]*",?', "", name).replace("{}", ""): float(value) for name, value in samples}


def test_what_is_wrong_with_events_is_counted_each_by_its_name() -> None:
    index = KvIndex(4)
    reader = Reader(index)
    reader.feed(0, batch(stored(*KEYS[:2]), stored(9, medium="CPU"), {"type": "Odd"}))
    reader.feed(0, batch(stored(*KEYS[:2])))
    reader.feed(3, batch(stored(1, 2, 3, 4), {"type": "BlockStored", "block_hashes": "?"}, ts=2.0), force=True)
    index.counts.replays += 2
    shown = page(warm._event_figures("e0", index))
    assert {name.removeprefix("aicockpit_kv_events_"): value for name, value in shown.items()} == {
        "exact": 0.0,
        "batches_total": 2.0,
        "duplicates_total": 1.0,
        "gaps_total": 1.0,
        "replays_total": 2.0,
        "overflows_total": 1.0,
        'ignored_total{kind="unknown"}': 1.0,
        'ignored_total{kind="broken"}': 1.0,
        'ignored_total{kind="elsewhere"}': 1.0,
    }


def test_an_index_of_a_new_life_counts_on() -> None:
    counts = Counts()
    first = KvIndex(4, counts)
    Reader(first).feed(0, batch(stored(1)))
    second = KvIndex(4, counts)
    Reader(second).feed(0, batch(stored(2)))
    assert second.counts.batches == 2
    assert len(second) == 1
    assert KvIndex(4).counts.batches == 0


async def test_counts_of_an_engine_go_on_after_its_restart(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path, *event_flags(tmp_path), events=source(tmp_path)) as (_, made):
        made.want(one)
        await made.until(one, "warm")
        await until(lambda: made.warmth.exact("fake-0"))
        before = made.prefetcher.index
        assert before is not None
        batches = before.counts.batches
        assert batches > 0
        made.engine.restarts += 1
        await until(lambda: made.prefetcher.index is not before and made.warmth.exact("fake-0"))
        shown = page(warm._prefetch_figures("fake-0", made.prefetcher))
        assert shown["aicockpit_kv_events_exact"] == 1.0
        assert shown["aicockpit_kv_events_batches_total"] >= 2 * batches, "it replays its first ones"


async def test_an_engine_without_events_has_no_row_of_them(tmp_path: Path) -> None:
    one = target(100)
    async with running(tmp_path) as (_, made):
        made.want(one)
        await made.until(one, "warm")
        shown = page(warm._prefetch_figures("fake-0", made.prefetcher))
    assert "aicockpit_prefetch_steps_total" in shown
    assert not [name for name in shown if name.startswith("aicockpit_kv_events_")]


def test_why_what_is_resident_is_an_estimate() -> None:
    warmth, index = Warmth(), KvIndex(4)
    assert warmth.why_inexact("e0") == "its cache is not known yet"
    warmth.open("e0", KvInfo(BLOCK, 4))
    assert warmth.why_inexact("e0") == "it sends no KV events"
    warmth.open("e0", KvInfo(BLOCK, 4), index)
    assert warmth.why_inexact("e0") == "no KV events seen yet"
    index.trust()
    assert warmth.why_inexact("e0") == ""
    index.doubt("batches 3 to 4 are lost")
    assert warmth.why_inexact("e0") == "batches 3 to 4 are lost"
    warmth.forget("e0")
    assert warmth.why_inexact("e0") == "its cache is not known yet"
