"""The KV cache as the engine's /metrics describe it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.kv import KvInfo, parse, read
from fake_client import start_fake
from prefetch_rig import engine_of

# As vLLM 0.32 on the CPU prints it, shortened.
REAL = (
    '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{_block_size_resolved="True",block_size="32",'
    'cache_dtype="auto",enable_prefix_caching="True",engine="0",hash_block_size="None",mamba_block_size="16",'
    'num_cpu_blocks="None",num_gpu_blocks="711",num_gpu_blocks_override="140"} 1.0\n'
)


OUTSIDE = "vllm:external_prefix_cache_queries_total"


def test_block_size_and_blocks_come_from_the_labels_of_these_names_only() -> None:
    assert parse(REAL) == KvInfo(32, 711)
    assert KvInfo(32, 711).tokens == 22752


@pytest.mark.parametrize(
    "page",
    [
        "",
        "vllm:num_requests_running 1.0",
        REAL.replace('"711"', '"None"'),
        REAL.replace('size="32"', 'size="0"'),
    ],
)
def test_a_page_that_does_not_say_gives_none(page: str) -> None:
    assert parse(page) is None


def test_of_several_engine_cores_the_smallest_counts() -> None:
    assert parse(REAL + REAL.replace("711", "700").replace('engine="0"', 'engine="1"')) == KvInfo(32, 700)


@pytest.mark.parametrize(
    ("rows", "tier"),
    [
        (f'{OUTSIDE}{{engine="0",model_name="m"}} 0.0', False),
        (f'{OUTSIDE}{{engine="0",model_name="m"}} 3.0', True),
        (f'{OUTSIDE}{{engine="0"}} 0.0\n{OUTSIDE}{{engine="1"}} 7.0', True),
        (f"{OUTSIDE} 0", False),
        ('vllm:external_prefix_cache_queries_created{engine="0"} 1.7e9', False),
        ('vllm:prefix_cache_queries_total{engine="0"} 12.0', False),
    ],
)
def test_an_engine_that_looks_for_kv_elsewhere_has_a_tier(rows: str, tier: bool) -> None:
    for page in (REAL + rows + "\n", rows + "\n" + REAL):
        assert parse(page) == KvInfo(32, 711, tier)


@given(st.text())
def test_no_page_makes_it_raise(text: str) -> None:
    parse("vllm:cache_config_info{" + text)


async def test_an_engine_is_asked(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--block-size", "32", "--num-gpu-blocks-override", "140") as fake:
        engine = engine_of(fake)
        assert await read(engine.upstream) == KvInfo(32, 140)
        engine.upstream.close()
