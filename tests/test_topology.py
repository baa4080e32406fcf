"""hardware/topology.py: how GPUs reach each other, in groups and in words."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.hardware.machine import Gpu, Kind, Pair
from aicockpit.hardware.topology import FAST, islands, mixed, peer, summary

GIB = 1 << 30


def pairs(count: int, kind: Kind | None, **fast: Kind) -> tuple[Pair, ...]:
    """All pairs of one kind, but for those named like `_0_1`."""
    return tuple(Pair(a, b, fast.get(f"_{a}_{b}", kind)) for a, b in combinations(range(count), 2))


def test_a_gpu_is_linked_fast_when_it_is_so_to_all_others() -> None:
    found = pairs(3, "nvlink", _1_2="node")
    assert [peer(index, found) for index in range(3)] == ["nvlink", "pcie", "pcie"]
    assert peer(0, pairs(2, "xgmi")) == "nvlink"


def test_what_is_unknown_is_no_claim() -> None:
    assert peer(0, None) is None
    assert peer(0, ()) is None
    assert peer(0, pairs(2, None)) is None
    assert peer(0, (Pair(0, 1, None), Pair(0, 2, "system"))) == "pcie"


def test_bridges_in_pairs_are_islands() -> None:
    found = pairs(4, "system", _0_1="nvlink", _2_3="nvlink")
    assert islands(range(4), found) == ((0, 1), (2, 3))
    assert islands(range(8), pairs(8, "nvlink")) == (tuple(range(8)),)
    assert islands(range(3), None) == ((0,), (1,), (2,))


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.sampled_from(["nvlink", "pcie", None]), min_size=15, max_size=15))
    )
)
def test_islands_part_the_gpus_into_groups_of_fast_links_alone(drawn: tuple[int, list[Kind | None]]) -> None:
    count, kinds = drawn
    found = tuple(Pair(a, b, kind) for (a, b), kind in zip(combinations(range(count), 2), kinds, strict=False))
    groups = islands(range(count), found)
    assert sorted(index for group in groups for index in group) == list(range(count))
    fast = {(pair.a, pair.b) for pair in found if pair.kind in FAST}
    assert all(pair in fast for group in groups for pair in combinations(group, 2))
    assert [len(group) for group in groups] == sorted((len(group) for group in groups), reverse=True)
    assert (len(groups[0]) > 1) == bool(fast)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "unknown"),
        ((), "one GPU"),
        ((Pair(0, 1, "nvlink", 4),), "by NVLink (4 links)"),
        (pairs(8, "switch"), "every pair by PCIe, one switch"),
        (pairs(3, "system", _0_1="nvlink"), "NVLink: 0-1; PCIe, across CPU sockets: 0-2, 1-2"),
        (pairs(2, None), "by an unknown way"),
    ],
)
def test_the_links_in_a_sentence(found: tuple[Pair, ...] | None, words: str) -> None:
    assert summary(found) == words


def test_many_pairs_are_counted() -> None:
    assert summary(pairs(8, "system", _0_1="nvlink")).endswith("0-2, 0-3, 0-4, 0-5, 0-6, 0-7 and 21 more")


def test_cards_that_differ_by_some_megabytes_are_of_one_kind() -> None:
    same = (Gpu(0, name="A", total=48 * GIB), Gpu(1, name="A", total=48 * GIB - (200 << 20)), Gpu(2))
    assert mixed(same) == ""
    other = (*same, Gpu(3, name="A", total=24 * GIB), Gpu(4, name="B"))
    assert mixed(other) == "2 x A 48 GiB, 1 x A 24 GiB, 1 x B"
