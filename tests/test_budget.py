"""How many tokens of repository a lane gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.kv import KvInfo
from aicockpit.workspace.budget import HEAD_SHARE, KV_SHARE, budget, wanted
from epoch_rig import Given

PLENTY = KvInfo(16, 1_000_000)


def test_the_table_decides_when_there_is_room() -> None:
    found = budget(Given(4000, 400, 200, 100), 32_768, PLENTY, None, 1)
    assert found.sizes == (4000, 400, 200, 100)
    assert found.reasons == ("given",)


def test_zero_is_legal_and_is_said() -> None:
    assert budget(Given(0, 0, 0), 32_768, PLENTY, None, 1).total == 0
    off = budget(Given(), 32_768, PLENTY, 0, 1)
    assert off.total == 0
    assert off.reasons == ("budget set to 0 tokens: no context",)


def test_an_explicit_budget_is_divided_as_the_table_does_or_else_mostly_for_the_pack() -> None:
    assert budget(Given(600, 200, 100, 100), None, PLENTY, 10_000, 1).sizes == (6000, 2000, 1000, 1000)
    assert budget(Given(600, 200, 200), None, PLENTY, 10_000, 1).sizes == (6000, 2000, 2000, 0)
    assert budget(Given(0, 0, 0), None, PLENTY, 10_000, 1).sizes == (7000, 1000, 1000, 1000)


def test_a_short_model_and_a_small_cache_cut_it_and_say_so() -> None:
    short = budget(Given(4000, 400, 200), 2048, PLENTY, None, 1)
    assert short.total <= 1024
    assert "the model's length of 2048" in short.reasons[-1]
    small = budget(Given(4000, 400, 200), 32_768, KvInfo(32, 300), None, 1)
    assert "the KV cache of 9600 tokens" in small.reasons[-1]
    assert small.kv


def test_an_unknown_cache_is_said_and_cuts_nothing() -> None:
    found = budget(Given(4000, 400, 200, 100), 32_768, None, None, 1)
    assert found.sizes == (4000, 400, 200, 100)
    assert not found.kv
    assert "no engine has told" in found.reasons[-1]


def test_one_more_workspace_rarely_changes_anybodys_budget() -> None:
    sizes = [budget(Given(4000, 400, 200), None, KvInfo(16, 2000), None, count).sizes for count in range(1, 17)]
    assert len(set(sizes)) == 5  # 1, 2, 4, 8, 16
    assert sizes == sorted(sizes, reverse=True)


@given(
    st.builds(Given, *([st.integers(0, 100_000)] * 4)),
    st.integers(1, 1_000_000) | st.none(),
    st.builds(KvInfo, st.sampled_from((16, 32, 128)), st.integers(1, 100_000)),
    st.integers(-1, 100_000) | st.none(),
    st.integers(1, 64),
    st.integers(1, 2),
)
def test_it_never_asks_for_more_than_there_is(
    worth: Given, length: int | None, kv: KvInfo, asked: int | None, workspaces: int, lanes: int
) -> None:
    found = budget(worth, length, kv, asked, workspaces, lanes)
    assert all(size >= 0 for size in found.sizes)
    assert all(a <= b for a, b in zip(found.sizes, wanted(worth, length, asked).sizes, strict=True))
    if length is not None:
        assert found.total <= length * HEAD_SHARE
    # Two epochs at a change, two open files, and in one of them the next snippets beside those that serve.
    cost = 2 * (found.pack + found.journal) + 2 * found.neighbourhood + 3 * found.similar
    assert cost * workspaces * lanes <= kv.tokens * KV_SHARE
