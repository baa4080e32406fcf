"""Taking turns on GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aicockpit.engines.gpus import SETTLED_SPREAD, GpuTurns, settled

GIB = 1 << 30


@pytest.mark.parametrize(
    ("readings", "still"),
    [
        ([], False),
        ([GIB, GIB], False),
        ([GIB, GIB, GIB], True),
        ([0, GIB, 2 * GIB], False),
        ([2 * GIB, GIB, GIB, GIB + SETTLED_SPREAD], True),
        ([GIB, GIB, GIB + SETTLED_SPREAD + 1], False),
    ],
)
def test_settled(readings: list[int], still: bool) -> None:
    assert settled(readings) is still


def gone() -> bool:
    return False


async def record(turns: GpuTurns, gpus: tuple[str, ...], name: str, said: list[str]) -> None:
    async with turns.turn(gpus, name, gone):
        said.append(f"{name} in")
        await asyncio.sleep(0.05)
        said.append(f"{name} out")


async def test_two_starts_on_one_gpu_come_one_after_the_other() -> None:
    turns, said = GpuTurns(), list[str]()
    await asyncio.gather(record(turns, ("0", "1"), "a", said), record(turns, ("1",), "b", said))
    assert said == ["a in", "a out", "b in", "b out"]


async def test_starts_on_different_gpus_or_none_are_independent() -> None:
    turns, said = GpuTurns(), list[str]()
    await asyncio.gather(*(record(turns, gpus, name, said) for gpus, name in ((("0",), "a"), (("1",), "b"), ((), "c"))))
    assert sorted(said[:3]) == ["a in", "b in", "c in"]


async def test_engines_that_share_two_gpus_cannot_block_each_other() -> None:
    turns, said = GpuTurns(), list[str]()
    await asyncio.gather(record(turns, ("0", "1"), "a", said), record(turns, ("1", "0"), "b", said))
    assert len(said) == 4


async def test_a_cancelled_turn_is_given_back() -> None:
    turns, said = GpuTurns(), list[str]()
    holder = asyncio.create_task(record(turns, ("0",), "a", said))
    waiter = asyncio.create_task(record(turns, ("0",), "b", said))
    while not said:
        await asyncio.sleep(0.001)
    waiter.cancel()
    holder.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    await record(turns, ("0",), "c", said)
    assert said == ["a in", "c in", "c out"]


def scripted(values: list[int | None]) -> tuple[Callable[[str], int | None], list[str]]:
    asked: list[str] = []

    def read(gpu: str) -> int | None:
        asked.append(gpu)
        return values[min(len(asked), len(values)) - 1]

    return read, asked


async def test_the_turn_waits_until_memory_is_free() -> None:
    read, asked = scripted([0, GIB, 2 * GIB, 3 * GIB, 3 * GIB, 3 * GIB])
    async with GpuTurns(read, read_period=0.001).turn(("0",), "a", gone):
        assert len(asked) == 6


async def test_no_reading_means_no_wait() -> None:
    read, asked = scripted([None])
    async with GpuTurns(read, read_period=60).turn(("0",), "a", gone):
        assert asked == ["0"]


async def test_memory_that_never_settles_does_not_hold_a_start_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    read, _ = scripted([n * GIB for n in range(10_000)])
    async with GpuTurns(read, settle_wait=0.1, read_period=0.01).turn(("0",), "a", gone):
        pass
    assert "GPU 0: after 0.1 s" in caplog.text


async def test_what_was_free_before_one_engine_must_be_free_before_the_next() -> None:
    first, held, freed = [40 * GIB] * 3, [8 * GIB] * 20, [40 * GIB] * 3
    read, asked = scripted([*first, *held, *freed])
    turns = GpuTurns(read, settle_wait=30.0, read_period=0.001)
    async with turns.turn(("0",), "a", gone):
        assert len(asked) == 3
    async with turns.turn(("0",), "a", gone):
        assert len(asked) == 26


class Card:
    """One GPU of 40 GiB; engines that hold some of it, and for how many readings after their end."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.late: list[int] = []
        self.readings = 0
        self.living: set[str] = set()

    def read(self, gpu: str) -> int:
        self.readings += 1
        return 40 * GIB - sum(self.held.values()) - (self.late.pop(0) if self.late else 0)

    async def start(self, turns: GpuTurns, name: str, size: int) -> int:
        """How many readings it waited for."""
        before = self.readings
        async with turns.turn(("0",), name, lambda: name in self.living):
            waited = self.readings - before
            self.living.add(name)
            self.held[name] = size
        return waited

    def end(self, name: str, late: int = 0) -> None:
        self.living.discard(name)
        self.late = [self.held.pop(name)] * late


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def turns(card: Card) -> GpuTurns:
    return GpuTurns(card.read, settle_wait=5.0, read_period=0.001)


async def test_a_neighbour_at_work_is_not_waited_for(card: Card, turns: GpuTurns) -> None:
    assert await card.start(turns, "coder", 20 * GIB) == 3
    assert await card.start(turns, "embed", 4 * GIB) == 3
    card.held["coder"] += GIB // 4  # it took a little more with its first long prompt
    card.end("embed", late=10)
    assert await card.start(turns, "embed", 4 * GIB) == 13, "what the one that ended gives back late is waited for"


async def test_the_larger_one_starts_again_beside_its_neighbour(card: Card, turns: GpuTurns) -> None:
    await card.start(turns, "coder", 20 * GIB)
    await card.start(turns, "embed", 4 * GIB)
    card.end("coder", late=20)
    assert await card.start(turns, "coder", 20 * GIB) == 23


async def test_what_a_sleeper_leaves_there_is_not_waited_for(card: Card, turns: GpuTurns) -> None:
    await card.start(turns, "a", 30 * GIB)
    card.held["a"] = GIB  # asleep: its context and graphs stay
    assert await card.start(turns, "b", 30 * GIB) == 3
    card.held["b"] = GIB
    assert await card.start(turns, "a", 30 * GIB) == 3, "waking"
    card.held["a"] = 30 * GIB
    card.end("a")
    card.held["b"] = 30 * GIB
    assert await card.start(turns, "b", 30 * GIB) == 3, "waking"
    assert await card.start(turns, "a", 4 * GIB) == 3, "ended while it slept, and started beside what has woken"
    card.end("a")
    card.end("b", late=10)
    assert await card.start(turns, "c", 30 * GIB) == 13


async def test_another_program_on_the_gpu_is_told_once(
    card: Card, turns: GpuTurns, caplog: pytest.LogCaptureFixture
) -> None:
    turns = GpuTurns(card.read, settle_wait=0.1, read_period=0.001)
    await card.start(turns, "a", 10 * GIB)
    card.end("a")
    card.held["a game"] = 8 * GIB
    assert await card.start(turns, "a", 10 * GIB) > 3
    assert "32.0 GiB are free, and 39.9 were expected" in caplog.text
    card.end("a")
    assert await card.start(turns, "a", 10 * GIB) == 3
