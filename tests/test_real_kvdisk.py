"""The KV disk tier with nothing faked: vLLM on the CPU and our connector: restarts, replicas, damage, kills."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.kv_engine import GIGABYTE, Completion, Engine, engine, texts, together

from aicockpit.models import smollm2
from kvdisk_rig import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

NO_TIER: dict[str, Any] = {"max_load_tokens": 0, "store": False}
ALWAYS: dict[str, Any] = {"load_always": True}
BLOCK = 32
# So few blocks that requests push each other out, and chunks so small that a prompt takes several steps.
FLAGS = ("--num-gpu-blocks-override", "82", "--max-num-batched-tokens", "512")
SLOW_BYTES_PER_S = 15e6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kvdisk")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return smollm2.ensure(place)


def tier(place: Path, **options: Any) -> dict[str, Any]:
    return {"folder": str(place / "kv"), "bytes": 2 * GIGABYTE, "reserve_bytes": 0, **options}


@pytest.fixture(scope="module")
def first(place: Path, model: Path) -> Iterator[Engine]:
    with engine(model, place / "first.log", tier(place), FLAGS) as made:
        yield made


@pytest.fixture(scope="module")
def prompts(first: Engine) -> list[list[int]]:
    """Twelve of 100 to 1,200 tokens."""
    return [first.tokens(text)[: 100 + 100 * number] for number, text in enumerate(texts(12, 9_000))]


def blocks_in(place: Path) -> list[Path]:
    return list((place / "kv").rglob("*.kv"))


def settle(made: Engine, place: Path) -> list[Path]:
    """All that is to be written is written: nothing new for a while."""
    found = -1
    while found != len(blocks_in(place)):
        found = len(blocks_in(place))
        made.complete([1] * 5)
        time.sleep(0.2)
    return blocks_in(place)


def failures(made: Engine, reason: str) -> float:
    made.complete([1] * 5)
    return made.metric("aicockpit_kv_disk_load_failures_total", reason=reason)


def test_the_output_is_the_same_with_and_without(first: Engine, prompts: list[list[int]], place: Path) -> None:
    def through_the_cache(prompt: Sequence[int], wish: dict[str, Any]) -> Completion:
        """What was computed anew, and what its first part was computed before: sums of the same shapes on both ways."""
        first.forget()
        first.complete(prompt, 1, wish=wish)
        return first.complete(prompt, 12, wish=NO_TIER)

    sample = prompts[:8]
    plain = [through_the_cache(prompt, NO_TIER) for prompt in sample]
    storing = [through_the_cache(prompt, {}) for prompt in sample]
    settle(first, place)
    before = first.metric("vllm:prompt_tokens_cached_by_source_total", source="disk")
    loaded = []
    for prompt in sample:
        first.forget()
        loaded.append(first.complete(prompt, 12, wish=ALWAYS))
    assert [one.tokens for one in storing] == [one.tokens for one in plain]
    assert [one.tokens for one in loaded] == [one.tokens for one in plain]
    held = [(len(prompt) - 1) // BLOCK * BLOCK for prompt in sample]
    assert [one.cached for one in loaded] == held, "every whole block came from the disk"
    assert first.metric("vllm:prompt_tokens_cached_by_source_total", source="disk") - before == sum(held)
    assert first.metric("vllm:external_prefix_cache_hits_total") >= sum(held)
    assert first.metric("aicockpit_kv_disk_storing") == 1
    assert first.metric("aicockpit_kv_disk_stored_blocks_total") >= sum(held) / BLOCK
    folders = [path for path in (place / "kv").rglob("*") if path.is_dir()]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in [place / "kv", *folders])
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in blocks_in(place))


def test_a_part_of_a_stored_prompt_is_loaded(first: Engine, prompts: list[list[int]]) -> None:
    first.forget()
    found = first.complete([*prompts[7][:640], *prompts[3][:100]], wish=ALWAYS)
    assert found.cached == 640


@pytest.mark.parametrize("flaw", ["truncated", "corrupt", "foreign"])
def test_damaged_files_cost_a_recompute(first: Engine, prompts: list[list[int]], place: Path, flaw: str) -> None:
    prompt = prompts[5]
    first.forget()
    first.complete(prompt, 1)
    right = first.complete(prompt, 12, wish=NO_TIER)
    paths = settle(first, place)
    before = failures(first, flaw)
    stored = {path: path.read_bytes() for path in paths}
    for path, whole in stored.items():
        spoilt = {
            "truncated": whole[: len(whole) // 2],
            "corrupt": whole[:-9] + b"something",
            "foreign": b"x" * len(whole),
        }
        path.write_bytes(spoilt[flaw])
    first.forget()
    again = first.complete(prompt, 12, wish=ALWAYS)
    assert again.tokens == right.tokens
    assert failures(first, flaw) > before
    for path, whole in stored.items():
        if path.exists():
            path.write_bytes(whole)
    settle(first, place)
    first.forget()
    healed = first.complete(prompt, 12, wish=ALWAYS)
    assert healed.tokens == right.tokens
    assert healed.cached == (len(prompt) - 1) // BLOCK * BLOCK, "it was written anew"


def test_a_folder_that_vanishes_costs_a_recompute(first: Engine, prompts: list[list[int]], place: Path) -> None:
    first.complete(prompts[5], 1)
    right = first.complete(prompts[5], 12, wish=NO_TIER)
    (key,) = [path for path in (place / "kv").iterdir() if path.is_dir() and path.name[0] != "."]
    key.rename(place / "elsewhere")
    first.forget()
    assert first.complete(prompts[5], 12, wish=ALWAYS).tokens == right.tokens
    settle(first, place)
    for path in (place / "elsewhere").rglob("*.kv"):
        back = key / path.relative_to(place / "elsewhere")
        back.parent.mkdir(parents=True, exist_ok=True)
        path.rename(back)
    first.forget()
    assert first.complete(prompts[5], 12, wish=ALWAYS).tokens == right.tokens


def test_a_salt_keeps_tenants_apart(first: Engine, prompts: list[list[int]], place: Path) -> None:
    prompt = [7, *prompts[2]]
    first.complete(prompt, cache_salt="one")
    settle(first, place)
    found: dict[str, int] = {}
    for salt in ("two", "", "one"):
        first.forget()
        more: dict[str, Any] = {"cache_salt": salt} if salt else {}
        found[salt] = first.complete(prompt, wish={**ALWAYS, "store": False}, **more).cached
    assert found == {"two": 0, "": 0, "one": len(prompt) // BLOCK * BLOCK}


def test_prompt_logprobs_are_computed_and_not_loaded(first: Engine, prompts: list[list[int]]) -> None:
    first.forget()
    body = {"model": "m", "prompt": prompts[4], "max_tokens": 2, "temperature": 0, "prompt_logprobs": 1}
    answer = first.client.post("/v1/completions", json=body).raise_for_status().json()
    assert len(answer["choices"][0]["prompt_logprobs"]) == len(prompts[4])
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_preempted_requests_and_what_they_stored_are_right(
    first: Engine, prompts: list[list[int]], place: Path
) -> None:
    fresh = [[11 + number, *prompt[:480]] for number, prompt in enumerate(prompts[5:11])]
    before = first.metric("vllm:num_preemptions_total")
    calls = [partial(first.complete, prompt, 60, wish=ALWAYS) for prompt in fresh]
    assert [len(one.tokens) for one in together(calls)] == [60] * 6
    assert first.metric("vllm:num_preemptions_total") > before
    settle(first, place)
    for prompt in fresh[3:]:
        first.forget()
        first.complete(prompt, 1, wish=NO_TIER)
        right = first.complete(prompt, 12, wish=NO_TIER)
        first.forget()
        loaded = first.complete(prompt, 12, wish=ALWAYS)
        assert loaded.tokens == right.tokens
        assert loaded.cached == 480 // BLOCK * BLOCK


def test_a_second_replica_finds_the_prefix_and_a_kill_leaves_nothing_wrong(
    first: Engine, prompts: list[list[int]], model: Path, place: Path
) -> None:
    first.complete(prompts[9], 1)
    settle(first, place)
    with engine(model, place / "second.log", tier(place), FLAGS) as second:
        found = second.complete(prompts[9], 12)
        assert found.cached == (len(prompts[9]) - 1) // BLOCK * BLOCK
        first.forget()
        assert first.complete(prompts[9], 12, wish=ALWAYS).tokens == found.tokens
        fresh = [[21 + number, *prompt[:800]] for number, prompt in enumerate(prompts[8:10])]
        before = len(blocks_in(place))
        threads = [threading.Thread(target=quietly, args=(partial(second.complete, prompt, 1),)) for prompt in fresh]
        for thread in threads:
            thread.start()
        while len(blocks_in(place)) < before + 8:
            time.sleep(0.005)
        second.kill()
        for thread in threads:
            thread.join()
    wrong = [failures(first, reason) for reason in ("truncated", "corrupt", "foreign")]
    hits = 0
    for prompt in fresh:
        first.forget()
        loaded = first.complete(prompt, 12, wish={**ALWAYS, "store": False})
        first.forget()
        first.complete(prompt[: loaded.cached or 1], 1, wish=NO_TIER)
        assert loaded.tokens == first.complete(prompt, 12, wish=NO_TIER).tokens
        hits += loaded.cached
    assert hits > 0
    assert [failures(first, reason) for reason in ("truncated", "corrupt", "foreign")] == wrong


def test_a_restarted_engine_with_a_slow_disk(first: Engine, prompts: list[list[int]], model: Path, place: Path) -> None:
    """Loads overlap with other requests, may be left in the middle, and are cut short where computing is faster."""
    long = [31, *prompts[11], *prompts[0]]
    first.complete(long, 1)
    right = first.complete(long, 12, wish=NO_TIER)
    settle(first, place)
    first.stop()
    slow = tier(place, throttle_bytes_per_s=SLOW_BYTES_PER_S)
    load_s = len(long) // BLOCK * 737_280 / SLOW_BYTES_PER_S
    with engine(model, place / "slow.log", slow, FLAGS) as made:
        made.complete([5] * 100)
        results: list[Completion] = []
        loading = threading.Thread(target=lambda: results.append(made.complete(long, 12, wish=ALWAYS)))
        loading.start()
        time.sleep(0.3)
        began = time.monotonic()
        made.complete([9] * 20)
        assert time.monotonic() - began < load_s - 0.5, "another request was served meanwhile"
        assert loading.is_alive()
        loading.join()
        assert results[0].tokens == right.tokens
        assert results[0].cached == len(long) // BLOCK * BLOCK
        assert results[0].seconds > load_s * 0.9

        for _ in range(3):
            made.forget()
            with pytest.raises(httpx.TimeoutException):
                made.client.post(
                    "/v1/completions",
                    json={"model": "m", "prompt": long, "max_tokens": 1, "kv_transfer_params": ALWAYS},
                    timeout=0.4,
                )
        again = made.complete(long, 12, wish=ALWAYS)
        assert again.tokens == right.tokens
        assert made.metric("vllm:num_requests_running") == 0
        made.forget()

        chosen = made.complete(long, 12)
        assert chosen.tokens == right.tokens
        made.complete([1] * 5)
        assert made.metric("aicockpit_kv_disk_load_bytes_per_second") == pytest.approx(SLOW_BYTES_PER_S, rel=0.3)

        before = len(settle(made, place))
        made.client.post("/reset_prefix_cache", params={"reset_external": True}).raise_for_status()
        assert made.complete(long, 12, wish=ALWAYS).cached == 0, "its weights may be others from now on"
        until(lambda: len(blocks_in(place)) < before)
        made.complete([1] * 5)
        assert made.metric("aicockpit_kv_disk_storing") == 0
        assert len(blocks_in(place)) >= before - 100 // BLOCK, "what other engines stored stays"


def quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except (httpx.HTTPError, RuntimeError, OSError):
        os.sched_yield()
