"""How much KV cache an engine has and in which blocks, read from its own /metrics: never assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from aicockpit.engines.client import Upstream

_NAME = "vllm:cache_config_info{"
# The brace or comma keeps `mamba_block_size` and `num_gpu_blocks_override` out.
_BLOCK_SIZE = re.compile(r'[{,]block_size="(\d+)"')
_BLOCKS = re.compile(r'[{,]num_gpu_blocks="(\d+)"')
# Grows with each request of an engine that has a KV connector, and never otherwise (`v1/core/sched/scheduler.py`).
_OUTSIDE = ("vllm:external_prefix_cache_queries_total{", "vllm:external_prefix_cache_queries_total ")
_NONE = ("0", "0.0")


@dataclass(frozen=True, slots=True)
class KvInfo:
    """`block_size` in tokens; `blocks` of the whole cache. One of them is vLLM's own null block.

    `tier`: the engine looks for KV outside of this cache, too: it has a KV tier, or another connector. That shows with
    the first request of its life, which is the one that proves it ready.
    """

    block_size: int
    blocks: int
    tier: bool = False

    @property
    def tokens(self) -> int:
        """The capacity in tokens."""
        return self.block_size * self.blocks


def parse(metrics_page: str) -> KvInfo | None:
    """What `vllm:cache_config_info` says; None when the page has none (another engine, or not started yet).

    Of several engine cores (data parallelism) the smallest counts: a prompt may land on any.
    """
    found = []
    tier = False
    for line in metrics_page.splitlines():
        tier |= line.startswith(_OUTSIDE) and line.rsplit(" ", 1)[-1] not in _NONE
        if line.startswith(_NAME):
            size, blocks = _BLOCK_SIZE.search(line), _BLOCKS.search(line)
            if size and blocks and int(size[1]) and int(blocks[1]):
                found.append(KvInfo(int(size[1]), int(blocks[1])))
    smallest = min(found, key=lambda info: info.tokens, default=None)
    return None if smallest is None else replace(smallest, tier=tier)


async def read(upstream: Upstream, limit_s: float = 10.0) -> KvInfo | None:
    """Ask the engine's /metrics. None when it does not say. Raises as `Upstream.fetch` does."""
    status, body = await upstream.fetch("GET", "/metrics", limit_s=limit_s)
    return parse(body.decode("utf-8", "replace")) if status == 200 else None
