"""Engines on GPUs: who goes where, how much of it, and refusals that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.machine import Pair
from aicockpit.recipes.place import UTILISATION, Slot, Tenant, place
from aicockpit.recipes.place import slots as place_slots

A6000 = Device("NVIDIA RTX A6000", int(47.4 * GIB))
SMALL = Device("NVIDIA L4", int(22.0 * GIB))


def slots(count: int = 2, device: Device = A6000) -> list[Slot]:
    return [Slot(str(number), replace(device, uuid=f"GPU-{number}")) for number in range(count)]


def tenant(name: str, gib: float = 20, gpus: int = 1, **fields: object) -> Tenant:
    return Tenant(name, gpus, int(gib * GIB), **fields)  # type: ignore[arg-type]


def test_each_gets_empty_gpus_in_order_and_all_of_them() -> None:
    made = place([tenant("a"), tenant("b")], slots())
    assert [(seat.tenant, seat.gpus) for seat in made.seats] == [("a", ("0",)), ("b", ("1",))]
    assert {seat.share for seat in made.seats} == {int(A6000.memory * UTILISATION)}
    assert made.seats[0].why == "the first that are free"


def test_small_engines_share_a_gpu_and_what_is_left_goes_to_the_one_that_generates() -> None:
    made = place([tenant("coder", 20), tenant("embed", 3, role="embedding")], slots(1))
    usable = int(A6000.memory * UTILISATION)
    assert made.seat("embed").share == 3 * GIB
    assert made.seat("coder").share == usable - 3 * GIB
    assert made.seat("embed").why == "it fits beside what is there"


def test_engines_that_make_way_take_turns_with_all_that_pinned_ones_leave() -> None:
    made = place([tenant("complete", 10), tenant("x", 30, pinned=False), tenant("y", 25, pinned=False)], slots(1))
    usable = int(A6000.memory * UTILISATION)
    shares = {seat.tenant: seat.share for seat in made.seats}
    assert shares["x"] == shares["y"]
    assert abs(shares["complete"] + shares["x"] - usable) <= 2
    assert shares["x"] >= 30 * GIB


def test_what_sleepers_keep_of_a_gpu_is_left_free_for_them() -> None:
    usable = int(A6000.memory * UTILISATION)
    sleepers = [tenant("x", 30, pinned=False, asleep=2 * GIB), tenant("y", 25, pinned=False, asleep=3 * GIB)]
    made = place(sleepers, slots(1))
    assert {seat.tenant: usable - seat.share for seat in made.seats} == {"x": 3 * GIB, "y": 2 * GIB}
    crowded = [tenant("x", 42, pinned=False, asleep=2 * GIB), tenant("y", 42, pinned=False, asleep=2 * GIB)]
    made = place(crowded, slots(1))
    assert "what sleeps ends where its rest is in the way" in made.seat("y").why
    assert made.seat("x").share == made.seat("y").share == usable


def test_named_gpus_by_index_and_by_uuid() -> None:
    made = place([tenant("a"), tenant("b", ids=("GPU-0",))], slots())
    assert made.seat("b").gpus == ("0",)
    assert made.seat("a").gpus == ("1",)
    assert place([tenant("c", ids=("7",))], slots()).refused == (
        "c: there is no GPU '7' that can be used; there are 0, 1",
    )


def test_too_many_pinned_engines_are_refused_with_the_arithmetic_and_the_way_out() -> None:
    (refusal,) = place([tenant("a", 30), tenant("b", 30)], slots(1)).refused
    assert refusal == (
        "b: it needs 30.0 GiB on one GPU; GPU 0 (NVIDIA RTX A6000, 43.6 GiB usable) has 30.0 GiB for a. "
        "`pin: false` on b or a lets models take turns"
    )
    assert "wants 3 GPUs, and 2" in place([tenant("c", gpus=3)], slots()).refused[0]
    assert "no GPU can be used" in place([tenant("c", gpus=0, ids=())], []).refused[0]


def test_an_engine_is_not_spread_over_unlike_cards() -> None:
    mixed = [Slot("0", SMALL), Slot("1", A6000), Slot("2", A6000)]
    assert place([tenant("a", 15, gpus=2)], mixed).seat("a").gpus == ("1", "2")
    assert place([tenant("a", 15, gpus=3)], mixed).refused


def bridged(*pairs: tuple[int, int], count: int = 4) -> list[Slot]:
    """GPUs of which some are joined by bridges, the others by PCIe."""
    told = [
        Pair(a, b, "nvlink" if (a, b) in pairs else "bridge", None) for a in range(count) for b in range(a + 1, count)
    ]
    devices = [replace(A6000, index=number, uuid=f"GPU-{number}") for number in range(count)]
    return place_slots(devices, told)


def test_an_engine_over_several_gpus_goes_where_nvlink_joins_them() -> None:
    crossed = bridged((0, 2), (1, 3))
    seat = place([tenant("a", gpus=2)], crossed).seat("a")
    assert (seat.gpus, seat.why) == (("0", "2"), "the first that are free, joined by NVLink")
    made = place([tenant("small"), tenant("a", gpus=2)], crossed)
    assert (made.seat("a").gpus, made.seat("small").gpus) == (("0", "2"), ("1",))
    assert place([tenant("small", ids=("0",)), tenant("a", gpus=2)], crossed).seat("a").gpus == ("1", "3")
    assert place([tenant("a", gpus=4)], crossed).seat("a").why == (
        "the first that are free, over PCIe, since no 4 of those that could be taken are joined by NVLink"
    )
    assert place([tenant("a", gpus=2, ids=("0", "1"))], crossed).seat("a").why == "named by its user, over PCIe"


def test_a_large_island_stays_whole_and_a_gpu_in_use_joins_nothing() -> None:
    six = bridged((0, 1), (0, 2), (1, 2), (4, 5), count=6)
    assert place([tenant("a", gpus=2)], six).seat("a").gpus == ("4", "5")
    assert place([tenant("a", gpus=3)], six).seat("a").gpus == ("0", "1", "2")
    crossed = bridged((0, 2), (1, 3))
    busy = [replace(one, device=replace(one.device, free=30 * GIB)) if one.id == "2" else one for one in crossed]
    assert place([tenant("a", gpus=2)], busy).seat("a").gpus == ("1", "3")
    assert place([tenant("a", gpus=2)], slots(4)).seat("a").why == "the first that are free"


def test_memory_that_the_user_gave_is_neither_grown_nor_cut() -> None:
    made = place([tenant("a", 5, fixed=8 * GIB), tenant("b", 5)], slots(1))
    assert made.seat("a").share == 8 * GIB
    assert made.seat("b").share == int(A6000.memory * UTILISATION) - 8 * GIB


tenants = st.lists(
    st.builds(
        Tenant,
        name=st.sampled_from("abcdef"),
        gpus=st.integers(1, 3),
        least=st.integers(1, 50).map(lambda gib: gib * GIB),
        fixed=st.none() | st.integers(1, 40).map(lambda gib: gib * GIB),
        role=st.sampled_from(["completion", "chat", "embedding"]),
        pinned=st.booleans(),
        asleep=st.integers(0, 4).map(lambda gib: gib * GIB),
    ),
    max_size=6,
    unique_by=lambda one: one.name,
)


@given(tenants, st.integers(0, 4))
def test_no_gpu_is_given_away_twice(wanted: list[Tenant], count: int) -> None:
    made = place(wanted, slots(count))
    by_name = {one.name: one for one in wanted}
    assert len(made.seats) + len(made.refused) == len(wanted)
    usable = int(A6000.memory * UTILISATION)
    for slot in slots(count):
        here = [seat for seat in made.seats if slot.id in seat.gpus]
        pinned = sum(seat.share for seat in here if by_name[seat.tenant].pinned)
        turns = [seat.share for seat in here if not by_name[seat.tenant].pinned]
        assert pinned + max(turns, default=0) <= usable
        if not any("ends where its rest" in seat.why or "named" in seat.why for seat in here):
            rests = {seat: min(by_name[seat.tenant].asleep, by_name[seat.tenant].need) for seat in here}
            others = [seat for seat in here if not by_name[seat.tenant].pinned]
            for seat in others:
                assert pinned + seat.share + sum(rests[other] for other in others if other is not seat) <= usable
    for seat in made.seats:
        one = by_name[seat.tenant]
        assert len(set(seat.gpus)) == one.gpus
        assert seat.share >= one.need
