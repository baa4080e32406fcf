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


async def record(turns: GpuTurns, gpus: tuple[str, ...], name: str, said: list[str]) -> None:
    async with turns.turn(gpus):
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
    await asyncio.sleep(0.01)
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
    async with GpuTurns(read, read_period=0.001).turn(("0",)):
        assert len(asked) == 6


async def test_no_reading_means_no_wait() -> None:
    read, asked = scripted([None])
    async with GpuTurns(read, read_period=60).turn(("0",)):
        assert asked == ["0"]


async def test_memory_that_never_settles_does_not_hold_a_start_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    read, _ = scripted([n * GIB for n in range(10_000)])
    async with GpuTurns(read, settle_wait=0.1, read_period=0.01).turn(("0",)):
        pass
    assert "GPU 0: its memory is not free again" in caplog.text


async def test_what_was_free_before_one_engine_must_be_free_before_the_next() -> None:
    first, held, freed = [40 * GIB] * 3, [8 * GIB] * 20, [40 * GIB] * 3
    read, asked = scripted([*first, *held, *freed])
    turns = GpuTurns(read, settle_wait=30.0, read_period=0.001)
    async with turns.turn(("0",)):
        assert len(asked) == 3
    async with turns.turn(("0",)):
        assert len(asked) == 26
