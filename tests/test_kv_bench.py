"""The benchmark of the KV disk tier: what it asks of engines, and what it makes of their answers. No engine runs."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import kv_choice, kv_cost, kv_same, kv_tier
from benchmarks.kv_bench import ALWAYS, NEVER, Bench
from benchmarks.kv_choice import Disk, Single
from benchmarks.kv_cost import Times
from benchmarks.kv_engine import Completion
from benchmarks.kv_same import Kill, Killed, Passes, Troubles

PROMPT = list(range(2_300))
BYTES = 50e6
COMPUTE_S = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Made:
    """An engine that takes `COMPUTE_S`, or what its tier's disk takes; what it chooses by itself is `chooses`."""

    def __init__(self, clock: Clock, tier: dict[str, Any] | None, chooses: str, asked: list[tuple[Any, ...]]) -> None:
        self.clock, self.tier, self.chooses, self.asked = clock, tier, chooses, asked
        self.choices: dict[str, int] = {}
        self.blocks = 0

    def complete(self, prompt: Sequence[int], count: int = 1, *, wish: Mapping[str, Any] | None = None) -> Completion:
        if len(prompt) < 32:
            return Completion(0.0, (), 0)
        way = "compute" if wish == NEVER else "load" if wish == ALWAYS else "chosen"
        self.asked.append((self.tier, way, wish, len(prompt)))
        if way == "chosen":
            self.choices[self.chooses] = self.choices.get(self.chooses, 0) + 1
        loads = way == "load" or (way == "chosen" and self.chooses == "loading is faster")
        speed = (self.tier or {}).get("throttle_bytes_per_s")
        seconds = BYTES / speed if loads and speed else COMPUTE_S
        if self.tier is not None and (wish or {}).get("store", True):
            self.blocks += len(prompt) // 32
            seconds *= 1.02
        self.clock.pause(seconds)
        return Completion(seconds, (1,), 0)

    def forget(self) -> None:
        return

    def settled(self) -> int:
        return self.blocks

    def metric(self, name: str, **labels: str) -> float:
        known = {"disk_stored_bytes": BYTES, "disk_stored_blocks": max(0, self.blocks - 100)}
        if "choice" in labels:
            return self.choices.get(labels["choice"], 0)
        return next((value for key, value in known.items() if key in name), 0.0)


class FakeBench(Bench):
    """`knew`: for each engine with a tier that was started, whether an earlier one had left its speed of computing."""

    def __init__(self, folder: Path, break_even: float = 25e6) -> None:
        self.time = Clock()
        super().__init__(folder, folder, Console(file=io.StringIO()), pause=self.time.pause, clock=self.time)
        self.break_even = break_even
        self.asked: list[tuple[Any, ...]] = []
        self.knew: list[bool] = []
        self.running = 0

    @contextmanager
    def engine(self, tier: dict[str, Any] | None, *flags: str, cores: str = "0-1") -> Iterator[Any]:
        assert self.running == 0, "one engine at a time: two cores hold no more"
        self.running += 1
        if tier is not None:
            left = Path(tier["folder"]) / "model" / "speed.json"
            self.knew.append(left.exists())
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_text("{}")
        speed = (tier or {}).get("throttle_bytes_per_s", 1e12)
        yield Made(
            self.time, tier, "loading is faster" if speed > self.break_even else "computing is faster", self.asked
        )
        self.running -= 1


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    monkeypatch.setattr(kv_choice, "long_prompt", lambda made: PROMPT)
    return FakeBench(tmp_path)


# What storing costs.


def test_storing_is_compared_with_an_engine_without_a_tier(bench: FakeBench) -> None:
    assert kv_cost.store(bench, 2)
    full = [one for one in bench.asked if one[3] == kv_cost.TOKENS]
    assert sum(tier is None for tier, *_ in full) == 2 * kv_cost.RUN
    assert sum(tier is not None and wish == {"store": True} for tier, _, wish, _ in full) == 2 * kv_cost.RUN
    firsts = [tier is None for tier, _, _, length in bench.asked if length < kv_cost.TOKENS]
    assert firsts == [True, False, False, True], "which engine is first takes turns"
    assert "+2.0%" in "\n".join(bench.told)


def test_a_run_of_stored_prompts_passes_half_of_the_buffer() -> None:
    """Below that, writing waits until nothing is computed, and what it costs is not measured."""
    buffer, block = 128 * (1 << 20), 32 * 30 * 2 * 3 * 64 * 2
    assert kv_cost.TOKENS // 32 * block > buffer / 2
    assert 6_000 <= kv_cost.TOKENS < 8_192


def times(**changes: Any) -> Times:
    found = Times([6.0] * 10, [6.0] * 6, [6.2] * 10, [6.0] * 2, [6.2] * 2, written=1000, beside=850)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, ["PASS", "PASS"]),
        ({"stored": [6.4] * 10}, ["MISSED", "PASS"]),
        ({"beside": 400}, ["PASS", "MISSED"]),
        ({"written": 0, "beside": 0}, ["PASS", "MISSED"]),
        ({"left": 50}, ["PASS", "MISSED"]),
    ],
)
def test_storing_that_writes_nothing_beside_computing_is_no_measurement(
    changes: dict[str, Any], verdicts: list[str]
) -> None:
    assert [bar.verdict for bar in kv_cost.bars(times(**changes))] == verdicts


# Load or compute.


def test_what_the_tier_chooses_is_asked_before_and_between_what_else_measures(bench: FakeBench) -> None:
    assert kv_choice.chooser(bench, [1e6, 20e6, 200e6], [], 3)
    for speed in (1e6, 20e6, 200e6):
        ways = [way for tier, way, *_ in bench.asked if tier and tier.get("throttle_bytes_per_s") == speed]
        assert ways[:7] == ["chosen", *["chosen", "compute"] * 3], "in turns, for the machine changes its speed"
        assert ways.count("compute") == 3
        assert ways.count("load") == (0 if speed == 1e6 else 3), "what takes a minute is counted instead"
    text = "\n".join(bench.told)
    assert "50 (counted)" in text
    assert "after 30 s without a load" in text


def test_an_engine_that_knows_nothing_has_rows_of_its_own(bench: FakeBench) -> None:
    kv_choice.chooser(bench, [20e6], [1e6, 200e6], 2)
    assert bench.knew == [False, True, False, False], "first the one that stores, and one that knows computing"
    rows = [line for line in bench.told[2].splitlines() if "nothing known" in line]
    assert [line.split("|")[1:3] for line in rows] == [
        [" first, nothing known ", " 1 "],
        [" second, nothing known before ", " 1 "],
        [" first, nothing known ", " 200 "],
        [" second, nothing known before ", " 200 "],
    ]


def test_a_first_request_that_takes_a_minute_is_not_asked_twice(bench: FakeBench) -> None:
    bench.break_even = 0.0
    assert not kv_choice.chooser(bench, [], [1e6], 2)
    assert [way for tier, way, *_ in bench.asked if tier and "throttle_bytes_per_s" in tier] == ["chosen"]


def test_a_slow_choice_is_not_asked_for_longer_than_one_waits(bench: FakeBench) -> None:
    bench.break_even = 0.0
    kv_choice.chooser(bench, [1e6], [], 5)
    assert [way for tier, way, *_ in bench.asked if tier and "throttle_bytes_per_s" in tier][:3] == [
        "chosen",
        "chosen",
        "compute",
    ]


def test_the_default_speeds_hold_slow_disks_and_those_near_break_even() -> None:
    assert {1, 5, 25, 30, 40} <= {int(speed / 1e6) for speed in kv_tier.speeds(kv_choice.SPEEDS)}
    assert kv_tier.speeds(kv_choice.COLD)[0] == 1e6


def disk(chosen: float, speed: float = 30e6) -> Disk:
    return Disk(speed, 1.7, 2.0, [chosen] * 3, [1.8] * 3, [1.7] * 3, None, {"loading is faster": 3})


def test_one_wrong_choice_misses_the_bar() -> None:
    good, bad = disk(1.8), disk(1.9, 25e6)
    assert [bar.verdict for bar in kv_choice.bars([good, good], [])] == ["PASS"]
    (missed,) = kv_choice.bars([good, bad], [])
    assert (missed.verdict, missed.seen) == ("MISSED", "+12% at 25 MB/s")


def test_engines_that_know_nothing_are_judged_apart_from_others() -> None:
    cold, late = Single(1e6, "first, nothing known", 50.0, 2.0), Single(5e6, "after 30 s without a load", 2.2, 2.0)
    found = kv_choice.bars([disk(1.7)], [cold, late])
    assert [bar.verdict for bar in found] == ["PASS", "MISSED", "PASS"]
    assert found[1].seen == "25.0 times at 1 MB/s (first, nothing known)"


# The same tokens.


def answers(*tokens: int, cached: int = 0) -> list[Completion]:
    return [Completion(1.0, (one,), cached) for one in tokens]


def passes() -> Passes:
    found = Passes([[1] * 65, [2] * 96])
    found.plain = {"no tier, cold": answers(1, 2), "no tier, warm": answers(1, 3)}
    found.storing, found.loading = answers(1, 2), answers(1, 3, cached=64)
    return found


def verdicts(short: Passes, long: Passes, troubles: Troubles) -> list[int]:
    """Which bars are missed."""
    return [at for at, bar in enumerate(kv_same.bars(short, long, troubles)) if bar.verdict != "PASS"]


def test_every_pass_and_every_failure_counts() -> None:
    assert verdicts(passes(), passes(), Troubles()) == []
    storing, loading, part, batch = passes(), passes(), passes(), passes()
    storing.storing = answers(1, 3)
    loading.loading = answers(1, 2, cached=64)
    part.loading = answers(1, 3, cached=32)
    batch.storing = answers(1, 4)
    assert verdicts(storing, passes(), Troubles()) == [0]
    assert verdicts(loading, passes(), Troubles()) == [1]
    assert verdicts(passes(), batch, Troubles()) == [2]
    assert verdicts(part, passes(), Troubles()) == [3]
    assert verdicts(passes(), part, Troubles()) == [3]
    assert verdicts(passes(), passes(), Troubles(failed_loads=1)) == [4]
    assert verdicts(passes(), passes(), Troubles(not_stored=1)) == [4]


def test_where_requests_share_steps_an_answer_of_any_pass_without_a_tier_will_do() -> None:
    """The order of sums is another when others are computed beside it, with a tier as without."""
    found = passes()
    found.storing = answers(1, 3)
    assert found.known(found.storing) == 2
    assert found.same(found.storing, "no tier, cold") == 1


def test_identity_sends_long_prompts_four_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, alive, most = threading.Lock(), [0], [0]

    class Busy(Made):
        def complete(self, prompt: Sequence[int], count: int = 1, **more: Any) -> Completion:
            with lock:
                alive[0] += 1
                most[0] = max(most[0], alive[0])
            time.sleep(0.05 if len(prompt) >= 2_000 else 0)
            with lock:
                alive[0] -= 1
            cached = (len(prompt) - 1) // 32 * 32 if more.get("wish") == ALWAYS else 0
            return Completion(0.1, (len(prompt),), cached)

        def tokens(self, text: str) -> list[int]:
            return list(range(3_000))

    class BusyBench(FakeBench):
        @contextmanager
        def engine(self, tier: dict[str, Any] | None, *flags: str, cores: str = "0-1") -> Iterator[Any]:
            yield Busy(self.time, tier, "", self.asked)

    monkeypatch.setattr(kv_same, "_APART_S", 0.001)
    bench = BusyBench(tmp_path)
    assert kv_same.identity(bench, 5)
    assert most[0] == kv_same.AT_ONCE
    assert "8 of 8 stored, 8 of 8 loaded" in "\n".join(bench.told)


# Kills.


@pytest.mark.parametrize(
    ("kill", "met"),
    [
        (Kill(1, 20, 60), "a block that was being written"),
        (Kill(0, 20, 60), "some blocks written, others not"),
        (Kill(0, 0, 60), "no block"),
        (Kill(0, 60, 60), "all blocks written"),
    ],
)
def test_what_a_kill_met_is_told_by_what_it_left(kill: Kill, met: str) -> None:
    assert kill.met == met


def test_kills_that_met_no_write_prove_nothing() -> None:
    hit, missed = Kill(1, 20, 60), Kill(0, 60, 60)
    good = Killed([hit, hit, missed], loaded=100)
    assert kv_same.fine(good)
    assert kv_same.met(good) == "They met: a block that was being written 2x, all blocks written 1x."
    assert not kv_same.fine(Killed([hit, missed, missed], loaded=100))
    assert not kv_same.fine(replace(good, wrong=1))
    assert not kv_same.fine(replace(good, loaded=0))


def test_the_next_write_is_seen_in_the_folders_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / ".lock"
    assert not kv_same.next_write(ledger, 0.05)
    writing = threading.Timer(0.1, ledger.write_bytes, (b"one",))
    writing.start()
    assert kv_same.next_write(ledger, 20)
    writing.join()
    assert not kv_same.next_write(ledger, 0.05), "what was entered before does not count"
