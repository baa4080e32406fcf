"""What is loaded, what is computed, what is kept: the scheduler's side and a worker's, together, without an engine."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.kvdisk.chooser import UNKNOWN_S, choose
from aicockpit.kvdisk.config import Options, options
from aicockpit.kvdisk.loader import Load, Piece
from aicockpit.kvdisk.meter import (
    STALE_S,
    ComputeMeter,
    ComputeRate,
    LoadMeter,
    LoadRate,
    fit,
    remember,
    remembered,
)
from aicockpit.kvdisk.plan import FRESH_S, Report, State, slowest
from aicockpit.kvdisk.worker import Rank, Work
from kvdisk_plan_rig import BLOCK, Rig
from kvdisk_rig import Memory, block, name_of, shelf_in, until

COMPUTE = ComputeRate(0.001, 0.0)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_the_stored_prefix_is_matched_and_the_last_token_is_computed(rig: Rig) -> None:
    rig.stored(10)
    rig.admit("a", 200)
    assert rig.planner.matched("a", 0) == 6 * BLOCK
    rig.admit("b", 6 * BLOCK)
    assert rig.planner.matched("b", 0) == 5 * BLOCK
    rig.admit("c", 1000)
    assert rig.planner.matched("c", 0) == 10 * BLOCK
    assert rig.planner.matched("c", 4 * BLOCK) == 6 * BLOCK
    assert rig.planner.matched("nobody", 0) == 0


def test_a_hole_ends_the_prefix(rig: Rig) -> None:
    rig.stored(10)
    os.unlink(rig.shelves[0].path(name_of(3)))
    rig.admit("a", 1000)
    assert rig.planner.matched("a", 0) == 3 * BLOCK
    assert rig.planner.matched("a", 4 * BLOCK) == 6 * BLOCK


def test_every_rank_must_have_its_part(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ranks=2)
    rig.stored(8, rank=0)
    rig.stored(5, rank=1)
    rig.admit("a", 1000)
    assert rig.planner.matched("a", 0) == 5 * BLOCK


def test_what_is_matched_is_loaded_into_the_blocks_behind_the_engines_own(rig: Rig) -> None:
    rig.stored(10)
    rig.admit("a", 1000)
    tokens = rig.planner.matched("a", 2 * BLOCK)
    rig.planner.allocated("a", range(50, 90), tokens or 0)
    rig.planner.allocated("a", range(50, 90), 0)
    (load,) = rig.planner.step([]).loads
    assert load == Load("a", tuple(Piece(50 + at, name_of(at), at) for at in range(2, 10)), 0.0, UNKNOWN_S)
    assert rig.planner.step([]).loads == []
    assert rig.planner.choices == {"not measured": 1}


def test_a_queue_at_the_disk_makes_others_compute(rig: Rig) -> None:
    rig.stored(10)
    rig.planner.heard(Report(states={0: State(LoadRate(0.02, rig.now), COMPUTE)}))
    rig.stored(10, first=100)
    rig.admit("a", 1000)
    for request in "bc":
        rig.admit(request, 1000, first=100)
    assert rig.planner.matched("a", 0) == 10 * BLOCK
    rig.planner.allocated("a", range(50, 90), 10 * BLOCK)
    assert rig.planner.matched("b", 0) == 0, "0.4 s at the disk, 0.32 s of computing"
    rig.planner.landed({"a", "unknown"})
    assert rig.planner.matched("c", 0) == 10 * BLOCK


def test_a_request_says_how_much_it_wants_loaded(rig: Rig) -> None:
    rig.stored(10)
    rig.admit("none", 1000, limit_tokens=0)
    rig.admit("some", 1000, limit_tokens=100)
    assert rig.planner.matched("none", 0) == 0
    assert rig.planner.matched("some", 0) == 3 * BLOCK


def test_after_a_failed_load_the_request_computes(rig: Rig) -> None:
    rig.stored(10)
    rig.admit("a", 1000)
    rig.admit("b", 1000)
    assert rig.planner.matched("a", 0)
    rig.planner.heard(Report(failed=frozenset({"a", "gone"})))
    assert rig.planner.matched("a", 0) == 0
    assert rig.planner.matched("b", 0) == 10 * BLOCK


def test_a_silent_disk_is_not_asked(rig: Rig) -> None:
    rig.stored(10)
    rig.admit("a", 1000)
    rig.planner.heard(Report(states={0: State(answering=False), 1: State()}))
    assert rig.planner.matched("a", 0) == 0
    rig.planner.heard(Report(states={1: State(LoadRate(0.1, 5))}))
    assert rig.planner.matched("a", 0) == 0, "another rank's news say nothing of this one's disk"
    rig.planner.heard(Report(states={0: State()}))
    assert rig.planner.matched("a", 0) == 10 * BLOCK


def test_blocks_are_kept_as_they_fill(rig: Rig) -> None:
    rig.admit("a", 200)
    assert [piece.depth for piece in rig.keeps("a", 40)] == [0]
    assert rig.keeps("a", 63) == []
    assert rig.keeps("a", 200) == [Piece(100 + at, name_of(at), at) for at in range(1, 6)]
    assert rig.keeps("a", 260) == [], "what the model wrote is not the prompt's"


def test_blocks_kept_lately_are_left_alone_and_refused_ones_offered_again(rig: Rig) -> None:
    for request in "abcd":
        rig.admit(request, 128)
    assert len(rig.keeps("a", 128)) == 4
    assert rig.keeps("b", 128) == []
    rig.planner.heard(Report(refused=(name_of(2),)))
    assert [piece.depth for piece in rig.keeps("c", 128)] == [2]
    rig.now += FRESH_S
    assert len(rig.keeps("d", 128)) == 4


def test_what_was_kept_and_is_gone_is_kept_again(rig: Rig) -> None:
    for request in "ab":
        rig.admit(request, 128)
    assert len(rig.keeps("a", 128)) == 4
    rig.stored(2)
    assert rig.planner.matched("b", 0) == 2 * BLOCK
    assert [piece.depth for piece in rig.keeps("b", 128)] == [2, 3]


def test_a_failed_requests_blocks_are_kept_anew(rig: Rig) -> None:
    for request in "ab":
        rig.admit(request, 128)
    assert len(rig.keeps("a", 128)) == 4
    rig.planner.heard(Report(failed=frozenset({"b"})))
    assert len(rig.keeps("b", 128)) == 4


def test_a_request_may_ask_not_to_be_stored(rig: Rig) -> None:
    rig.admit("a", 128, keep=False)
    assert rig.keeps("a", 128) == []


def test_a_forgotten_request_asks_for_nothing(rig: Rig) -> None:
    rig.stored(4)
    rig.admit("a", 128)
    rig.planner.forget("a")
    assert rig.planner.matched("a", 0) == 0
    assert rig.keeps("a", 128) == []


def test_reports_of_several_workers_are_one(rig: Rig) -> None:
    one, two = State(LoadRate(0.1, 5), COMPUTE, answering=True), State(LoadRate(0.2, 4), None, answering=False)
    joined = Report(frozenset({"a"}), (b"x",), {0: one}).joined(Report(frozenset({"b"}), (b"y",), {1: two}))
    assert joined == Report(frozenset({"a", "b"}), (b"x", b"y"), {0: one, 1: two})
    assert slowest([one, two]) == State(LoadRate(0.2, 4), COMPUTE, answering=False)
    assert slowest([]) == State()


# The choice.


def chosen(stored: int, load_s: float | None, compute: ComputeRate | None = COMPUTE, **more: object) -> tuple[int, str]:
    rate = None if load_s is None else LoadRate(load_s, 1000.0)
    given: dict[str, object] = {"first_token": 0, "block_tokens": BLOCK, "now": 1001.0, **more}
    found = choose(stored, load=rate, compute=compute, **given)  # type: ignore[arg-type]
    return found.blocks, found.reason


def test_the_faster_way_is_chosen() -> None:
    assert chosen(50, 0.001) == (50, "loading is faster")
    assert chosen(50, 0.100) == (0, "computing is faster")
    assert chosen(0, 0.001) == (0, "nothing stored")
    assert chosen(1, 0.0319) == (0, "computing is faster"), "two turns of the loop are part of a load"


def test_what_is_not_measured_is_tried() -> None:
    assert chosen(50, None) == (50, "not measured")
    assert chosen(50, 0.001, None) == (50, "not measured")


def test_a_wish_is_a_limit_and_may_be_an_order() -> None:
    assert chosen(50, 0.001, limit=7) == (7, "loading is faster")
    assert chosen(50, 0.001, limit=0) == (0, "asked for")
    assert chosen(50, 9.0, always=True) == (50, "asked for")


def test_deep_blocks_are_dearer_to_compute() -> None:
    steep = ComputeRate(0.001, 1e-6)
    assert chosen(10, 0.05, steep)[0] == 0
    assert chosen(10, 0.05, steep, first_token=2000)[0] == 10


@given(
    stored=st.integers(1, 200),
    load_s=st.floats(1e-4, 1.0),
    token_s=st.floats(1e-5, 1e-2),
    slope_s=st.floats(0, 1e-5),
    first=st.integers(0, 50),
)
def test_no_split_is_faster_than_the_choice(
    stored: int, load_s: float, token_s: float, slope_s: float, first: int
) -> None:
    """The claim in chooser.py: with one end only, all or nothing is never beaten by something between."""
    compute = ComputeRate(token_s, slope_s)
    last = (first + stored) * BLOCK

    def total(blocks: int) -> float:
        turn = 0.004 if blocks else 0.0
        return turn + blocks * load_s + compute.seconds((first + blocks) * BLOCK, last)

    blocks, _ = chosen(stored, load_s, compute, first_token=first * BLOCK)
    assert total(blocks) <= min(total(count) for count in range(stored + 1)) * (1 + 1e-9)


# The measurements.


def test_a_line_through_steps_finds_both_parts() -> None:
    steps = [(n, n * p, n * (0.0005 + p * 4e-7)) for n, p in ((256.0, 128.0), (512.0, 1500.0), (2048.0, 1024.0))]
    rate = fit(steps)
    assert rate.token_s == pytest.approx(0.0005)
    assert rate.slope_s == pytest.approx(4e-7)
    assert rate.seconds(0, 100) == pytest.approx(sum(0.0005 + p * 4e-7 for p in range(100)))


def test_steps_of_one_kind_give_a_mean() -> None:
    assert fit([(512.0, 512 * 256.0, 0.5)] * 5) == ComputeRate(pytest.approx(0.5 / 512), 0.0)  # type: ignore[arg-type]


def test_decoding_and_small_steps_are_not_prefill() -> None:
    meter = ComputeMeter()
    meter.add(10, 5, 0, 0.1)
    meter.add(100, 50, 50, 0.5)
    assert meter.rate is None
    meter.add(100, 50, 4, 0.1)
    assert meter.rate == ComputeRate(pytest.approx(0.001), 0.0)  # type: ignore[arg-type]


def test_a_disturbed_step_does_not_count_and_a_slower_machine_does() -> None:
    meter = ComputeMeter()
    for _ in range(5):
        meter.add(512, 256, 0, 0.5)
    for _ in range(2):
        meter.add(512, 256, 0, 5.0)
    assert meter.rate is not None
    assert meter.rate.token_s == pytest.approx(0.5 / 512)
    for _ in range(40):
        meter.add(512, 256, 0, 5.0)
    assert meter.rate.token_s == pytest.approx(5.0 / 512, rel=0.05)


def test_loads_are_a_moving_mean_and_old_ones_are_forgotten() -> None:
    now = [0.0]
    meter = LoadMeter(lambda: now[0])
    meter.add(10, 0.01)
    meter.add(0, 0.0)
    assert meter.rate == LoadRate(pytest.approx(0.001), 0.0)  # type: ignore[arg-type]
    meter.add(8, 0.08)
    assert meter.rate.block_s == pytest.approx(0.0055)
    now[0] = STALE_S + 1
    meter.add(1, 0.5)
    assert meter.rate.block_s == pytest.approx(0.5)


def test_the_rate_outlives_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    assert remembered(str(path)) is None
    remember(str(path), ComputeRate(0.002, 1e-7))
    assert remembered(str(path)) == ComputeRate(0.002, 1e-7)
    for wrong in ("", "[]", '{"token_s": "x", "slope_s": 0}', '{"token_s": -1, "slope_s": 0}', '{"token_s": 1}'):
        path.write_text(wrong)
        assert remembered(str(path)) is None
    path.unlink()
    os.mkfifo(path)
    assert remembered(str(path)) is None, "and it does not wait for a writer"
    remember(str(tmp_path / "missing" / "speed.json"), COMPUTE)


# A worker, and both sides together.


def rank(root: Path, memory: Memory, **more: object) -> Rank:
    chosen = replace(Options(folder=str(root), cap=1 << 30, reserve=0), **more)  # type: ignore[arg-type]
    return Rank(shelf_in(root), memory.blocks, chosen, BLOCK, 2048)


def test_what_one_engine_kept_another_loads(tmp_path: Path) -> None:
    memory = Memory()
    for number in range(6):
        memory.write(number + 20, block(name_of(number)))
    first = rank(tmp_path, memory)
    rig = Rig(tmp_path)
    rig.admit("a", 200)
    work = Work(keeps=tuple(rig.keeps("a", 200, range(20, 30))), prompt_tokens=200, mean_position=100)
    first.begin(work)
    first.end(work)
    assert not first.done(idle=False).received
    first.close()

    other = Memory()
    second, later = rank(tmp_path, other), Rig(tmp_path)
    report = second.report()
    assert report is not None
    assert report.states[0].compute is not None, "how fast the first one computed is remembered"
    later.planner.heard(report)
    later.admit("b", 200, always=True)
    later.planner.allocated("b", range(40, 60), later.planner.matched("b", 0) or 0)
    work = Work(loads=tuple(later.planner.step([]).loads))
    second.begin(work)
    second.end(work)
    until(lambda: second.done(idle=True).received == {"b"})
    for number in range(6):
        assert other.read(number + 40) == block(name_of(number))
    stats = second.stats()
    assert stats["loaded_blocks"] == 6
    assert stats["load_bytes_per_second"] > 0
    second.close()


def test_the_speed_of_computing_is_left_to_the_next_engine_at_once_and_not_by_the_engines_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def told(path: str, rate: ComputeRate) -> None:
        threads.append(threading.current_thread().name)
        remember(path, rate)

    monkeypatch.setattr("aicockpit.kvdisk.worker.remember", told)
    worker = rank(tmp_path, Memory())
    for _ in range(3):
        worker.begin(Work(prompt_tokens=200, mean_position=100))
        worker.end(Work(prompt_tokens=200, mean_position=100))
    memory = Path(shelf_in(tmp_path).folder, "speed.json")
    until(memory.exists)
    worker.close()
    assert remembered(str(memory)) is not None
    assert set(threads) == {"kvdisk-writer"}


def test_a_failed_load_is_told_once(tmp_path: Path) -> None:
    rig, memory = Rig(tmp_path), Memory()
    rig.stored(5)
    worker = rank(tmp_path, memory)
    worker.report()
    Path(rig.shelves[0].path(name_of(2))).write_bytes(b"no block")
    worker.begin(Work(loads=(Load("a", tuple(Piece(at, name_of(at), at) for at in range(5))),)))
    until(lambda: worker.done(idle=True).failed == {2, 3, 4})
    report = worker.report()
    assert report is not None
    assert report.failed == {"a"}
    assert worker.report() is None
    assert not worker.done(idle=False).failed
    worker.close()


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"bytes": 5}, "folder is missing"),
        ({"folder": "/x"}, "bytes is missing"),
        ({"folder": "/x", "bytes": "5"}, "bytes is '5'; it wants a positive number"),
        ({"folder": "/x", "bytes": 0}, "bytes is 0"),
        ({"folder": "/x", "bytes": True}, "bytes is True"),
        ({"folder": "", "bytes": 5}, "folder is ''; it wants a path"),
        ({"folder": "/x", "bytes": 5, "size": 1}, "unknown option 'size'; there are buffer_bytes, bytes,"),
        ({"folder": "/x", "bytes": 5, "reserve_bytes": -1}, "reserve_bytes is -1"),
    ],
)
def test_a_wrong_option_is_told(extra: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        options(extra)


def test_options_are_read() -> None:
    found = options({"folder": "/x", "bytes": 5e9, "reserve_bytes": 0, "throttle_bytes_per_s": 1e6})
    assert found == Options("/x", 5_000_000_000, reserve=0, throttle=1e6)
