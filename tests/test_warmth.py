"""What is believed about an engine's cache, against a model of that cache."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aicockpit.engines.blocks import event_keys, hash_blocks
from aicockpit.engines.kv import KvInfo
from aicockpit.engines.kv_events import KvIndex
from aicockpit.workspace.warmth import Chains, Learnt, Residency, Warmth

SIZE = 4
HEAD = tuple(range(100, 140))


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Cache:
    """vLLM's prefix cache: blocks in the order in which they are evicted; of one request the deepest first."""

    room: int
    on: bool = True
    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def resident(self, ids: tuple[int, ...]) -> int:
        hashes = hash_blocks(ids, SIZE)
        return next((i for i, one in enumerate(hashes) if one not in self.blocks), len(hashes)) * SIZE

    def request(self, ids: tuple[int, ...]) -> int:
        cached = min(self.resident(ids), (len(ids) - 1) // SIZE * SIZE)
        for block in reversed(hash_blocks(ids, SIZE) if self.on else []):
            self.blocks.pop(block, None)
            self.blocks[block] = None
        while len(self.blocks) > self.room:
            self.blocks.popitem(last=False)
        return cached


def warmth_of(blocks: int = 60, index: KvIndex | None = None) -> tuple[Warmth, Clock]:
    clock = Clock()
    warmth = Warmth(clock)
    warmth.open("e", KvInfo(SIZE, blocks), index)
    return warmth, clock


def proven(warmth: Warmth, ids: tuple[int, ...] = HEAD) -> None:
    """Computed, then hit."""
    warmth.learn("e", ids, 0)
    warmth.learn("e", (*ids, 1), len(ids) // SIZE * SIZE)


def test_an_engine_nobody_opened_holds_nothing() -> None:
    warmth = Warmth()
    assert warmth.resident("e", HEAD) == Residency()
    assert warmth.learn("e", HEAD, 40) == Learnt(0, 40)
    warmth.used("e", 40)
    assert (warmth.info("e"), warmth.exact("e"), warmth.version("e"), warmth.chain("e", HEAD)) == (None, False, -1, ())


def test_what_was_only_computed_counts_once_the_engine_has_shown_that_it_caches() -> None:
    warmth, clock = warmth_of()
    warmth.learn("e", HEAD, 0)
    assert warmth.resident("e", HEAD).tokens == 0
    warmth.learn("e", (*HEAD, 1), 40)
    other = tuple(range(20))
    warmth.learn("e", other, 0)
    clock.now += 7
    assert warmth.resident("e", other) == Residency(20, 7.0)
    assert warmth.resident("e", (*HEAD, *other)) == Residency(40, 7.0)


def test_only_whole_leading_blocks_count() -> None:
    warmth, _ = warmth_of()
    proven(warmth, HEAD[:18])
    assert warmth.resident("e", HEAD).tokens == 16
    assert warmth.resident("e", HEAD[:15]).tokens == 12
    assert warmth.resident("e", HEAD[1:]).tokens == 0
    assert warmth.resident("e", ()).tokens == 0


def test_the_age_is_that_of_the_block_seen_longest_ago() -> None:
    warmth, clock = warmth_of()
    proven(warmth)
    clock.now += 10
    warmth.learn("e", HEAD[:20], 16)
    clock.now += 5
    assert warmth.resident("e", HEAD[:20]).age_s == 5
    assert warmth.resident("e", HEAD).age_s == 15


def test_an_engine_that_does_not_say_proves_nothing() -> None:
    warmth, _ = warmth_of()
    proven(warmth)
    other = tuple(range(20))
    assert warmth.learn("e", other, None) == Learnt(0, None)
    assert warmth.resident("e", other).tokens == 0


def test_a_hit_that_did_not_come_takes_with_it_what_would_have_been_evicted_before() -> None:
    warmth, _ = warmth_of()
    old, new = tuple(range(20)), tuple(range(50, 70))
    proven(warmth, old)
    proven(warmth, HEAD)
    proven(warmth, new)
    before = warmth.version("e")
    learnt = warmth.learn("e", (*HEAD, 1), 16)
    assert learnt == Learnt(40, 16)
    assert learnt.lost
    assert warmth.version("e") != before
    assert warmth.resident("e", HEAD).tokens == 40  # this request has computed them again
    assert warmth.resident("e", old).tokens == 0
    assert warmth.resident("e", new).tokens == 20


def test_an_engine_whose_cache_is_off_is_never_believed() -> None:
    warmth, _ = warmth_of()
    for _ in range(5):
        warmth.learn("e", HEAD, 0)
        assert warmth.resident("e", HEAD).tokens == 0


def test_requests_of_others_push_out_what_was_used_longest_ago() -> None:
    warmth, _ = warmth_of(blocks=32)  # room for 30
    proven(warmth)
    warmth.used("e", 80)
    assert warmth.resident("e", HEAD).tokens == 40
    version = warmth.version("e")
    warmth.used("e", 8)
    assert warmth.resident("e", HEAD).tokens == 32  # the deepest blocks go first
    assert warmth.version("e") > version
    warmth.used("e", 10**9)
    assert warmth.resident("e", HEAD).tokens == 0


def test_generated_tokens_take_room_too() -> None:
    warmth, _ = warmth_of(blocks=32)
    proven(warmth)
    warmth.learn("e", tuple(range(40)), 0, generated=44)
    assert warmth.resident("e", HEAD).tokens == 36


def test_an_adapter_has_its_own_cache() -> None:
    warmth, _ = warmth_of()
    proven(warmth)
    assert warmth.resident("e", HEAD, "lora").tokens == 0
    warmth.learn("e", HEAD, 0, adapter="lora")
    assert warmth.resident("e", HEAD, "lora").tokens == 40


def test_forgetting_and_opening_again_begin_from_nothing() -> None:
    warmth, _ = warmth_of()
    proven(warmth)
    warmth.forget("e")
    assert warmth.resident("e", HEAD).tokens == 0
    warmth.open("e", KvInfo(8, 60))
    assert warmth.resident("e", HEAD).tokens == 0
    assert warmth.info("e") == KvInfo(8, 60)


def test_an_exact_index_is_believed_instead() -> None:
    index = KvIndex(60)
    warmth, clock = warmth_of(index=index)
    proven(warmth, HEAD[:20])
    clock.now += 3
    assert warmth.resident("e", HEAD) == Residency(20, 3.0, exact=False)
    index.trust()
    assert warmth.exact("e")
    assert warmth.resident("e", HEAD) == Residency(0, 0.0, exact=True)
    index.add(event_keys(hash_blocks(HEAD, SIZE)[:7]))
    assert warmth.resident("e", HEAD) == Residency(28, 0.0, exact=True)
    version = warmth.version("e")
    index.remove(event_keys(hash_blocks(HEAD, SIZE)[3:4]))
    assert warmth.version("e") > version
    assert warmth.resident("e", HEAD).tokens == 12
    assert warmth.confirm("e", HEAD, index.version)
    assert warmth.resident("e", HEAD).tokens == 40
    version = warmth.version("e")
    index.doubt("a gap")
    assert warmth.version("e") > version
    assert warmth.resident("e", HEAD) == Residency(20, 3.0, exact=False)


@given(st.lists(st.lists(st.integers(0, 2), max_size=30).map(tuple), max_size=20), st.integers(20, 200))
def test_remembered_hashes_are_those_that_are_computed(prompts: list[tuple[int, ...]], limit: int) -> None:
    chains = Chains(SIZE, limit=limit)
    for prompt in prompts:
        for again in (prompt, (*prompt,)):
            chain = chains.get(again)
            assert list(chain.hashes) == hash_blocks(prompt, SIZE)
            assert chain.keys == event_keys(chain.hashes)


class AgainstAModel(RuleBasedStateMachine):
    """All requests are known and the cache is an LRU: never believed warmer than it is, however they are mixed."""

    @initialize(blocks=st.integers(8, 40), on=st.booleans())
    def begin(self, blocks: int, on: bool) -> None:
        self.warmth, self.clock = warmth_of(blocks)
        self.cache = Cache(blocks - 1, on)
        self.asked: list[tuple[int, ...]] = []

    @rule(ids=st.lists(st.integers(0, 1), min_size=1, max_size=28).map(tuple))
    def request(self, ids: tuple[int, ...]) -> None:
        self.clock.now += 1
        self.warmth.learn("e", ids, self.cache.request(ids))
        self.asked.append(ids)

    @rule(tokens=st.integers(0, 60), first=st.integers(10, 10**6))
    def request_of_others(self, tokens: int, first: int) -> None:
        if tokens:
            self.cache.request(tuple(range(first, first + tokens)))
            self.warmth.used("e", tokens)

    @rule()
    def reset_that_is_told(self) -> None:
        self.cache.blocks.clear()
        self.warmth.open("e", KvInfo(SIZE, self.cache.room + 1))

    @invariant()
    def never_too_warm(self) -> None:
        for ids in self.asked[-10:] if hasattr(self, "asked") else []:
            assert self.warmth.resident("e", ids).tokens <= self.cache.resident(ids)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_with_room_for_all_belief_and_cache_agree(asked: list[tuple[bool, int]]) -> None:
    warmth, cache = warmth_of(1000)[0], Cache(999)
    proven(warmth)
    cache.request(HEAD)
    heads = [tuple(range(100 * n, 100 * n + 33)) for n in range(6)]
    for tail, number in asked:
        ids = (*heads[number], *range(7)) if tail else heads[number]
        warmth.learn("e", ids, cache.request(ids))
    for head in heads:
        assert warmth.resident("e", head).tokens == cache.resident(head)


def test_resident_is_cheap_for_a_head_that_is_known() -> None:
    """It stands on the path of a request. Counts hashes instead of time: none are computed for the same tuple."""
    warmth, _ = warmth_of()
    proven(warmth)
    chain = warmth.chain("e", HEAD)
    assert warmth.chain("e", HEAD) is chain
    longer = (*HEAD, 1, 2, 3, 4)
    assert warmth.chain("e", longer)[:10] == chain
    assert all(ours is theirs for ours, theirs in zip(warmth.chain("e", longer), chain, strict=False))


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_smallest_caches_do_not_break_it(blocks: int) -> None:
    warmth, _ = warmth_of(blocks)
    proven(warmth)
    assert warmth.resident("e", HEAD).tokens <= 4 * blocks
