"""How many tokens a KV cache of so many bytes holds, as vLLM divides it. Pure; called by `fit`.

Follows vLLM 0.32: v1/core/kv_cache_utils.py (groups of layers, blocks of a request) and v1/kv_cache_interface.py.
All layers of one kind form groups of equal size that share one pool of blocks: a block holds `block` tokens of each
layer of a group, and a request takes blocks of every group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aicockpit.errors import SettingError
from aicockpit.hardware.fit_types import KV_DTYPES, gib
from aicockpit.hardware.shape import ModelShape

BLOCK = 16  # tokens; vLLM's default on GPUs
_MLA_BLOCK = 64  # the latent-attention kernels ask for it
_INDEX_EXTRA = 4  # bytes of scale beside 128 numbers of a sparse index


@dataclass(frozen=True, slots=True)
class Cache:
    """The blocks of one GPU. `groups` are (kind, layers of it here); `per_block` bytes count the widest group."""

    groups: tuple[tuple[str, int], ...]
    per_block: int
    block: int
    window: int
    in_flight: int
    per_token: int  # bytes that one more token takes at the end of a long request

    def blocks(self, length: int) -> int:
        """Blocks that a request of `length` tokens holds."""
        return sum(self._of(kind, length) for kind, _ in self.groups)

    def _of(self, kind: str, length: int) -> int:
        if kind in ("sliding", "chunked"):
            held = min(self.window - (kind == "sliding") + self.in_flight, length)
            return -(-held // self.block) + (kind == "sliding")
        if kind == "linear":
            return 2  # the state, and the one at the last block's edge that the prefix cache keeps
        return -(-length // self.block)

    def needed(self, length: int) -> int:
        """Bytes for one request of `length` tokens."""
        return self.per_block * self.blocks(length)

    def tokens(self, pool: int, length: int) -> int:
        """What vLLM reports as `kv_cache_size_tokens`: whole requests of `length` that fit, times their length."""
        if not self.groups or pool <= 0:
            return 0
        return max(0, pool // self.per_block) * length // self.blocks(length)

    def longest(self, pool: int, limit: int) -> int:
        """The longest request that fits, at most `limit` tokens; 0 when none does."""
        if not self.groups:
            return limit
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.needed(middle) <= pool else (low, middle - 1)
        return low


def width(shape: ModelShape, kv_dtype: str) -> int:
    """Bytes of one number in the cache. Raises SettingError for a type whose layout is not known."""
    asked = (shape.quant.kv if shape.quant else "") if kv_dtype == "auto" else kv_dtype
    if not asked:
        return 2  # vLLM runs 32-bit checkpoints in 16 bits
    if asked not in KV_DTYPES:
        known = ", ".join(("auto", *KV_DTYPES))
        raise SettingError(f"the size of a KV cache of the type {asked!r} is not known here. Known: {known}.")
    return KV_DTYPES[asked]


def cache(shape: ModelShape, kv_dtype: str, tensor: int, stage: Sequence[int], in_flight: int, block: int = 0) -> Cache:
    """The cache of a GPU that holds the layers `stage` (indices), of which `tensor` GPUs share each."""
    number = width(shape, kv_dtype)
    tokens = block or (_MLA_BLOCK if shape.mla else BLOCK)
    one = _numbers(shape, tensor) * number + (shape.index_dim + _INDEX_EXTRA if shape.index_dim else 0)
    linear = _state_bytes(shape, tensor) if shape.state else 0
    if linear:  # a block of attention grows until the state of a linear layer fits into it
        tokens = max(tokens, -(-linear // (one * tokens)) * tokens)
    groups = _groups(shape.layer_kinds, frozenset(stage))
    widest = max((layers for _, layers in groups), default=0)
    grows = sum(layers for kind, layers in groups if kind in ("full", "mla"))
    return Cache(groups, widest * one * tokens, tokens, shape.window or 0, in_flight, grows * one)


def _numbers(shape: ModelShape, tensor: int) -> int:
    """Numbers that one token keeps in one layer on one GPU."""
    if shape.mla:
        return shape.mla.latent + shape.mla.rope
    return 2 * max(1, shape.kv_heads // tensor) * shape.head_dim


def _state_bytes(shape: ModelShape, tensor: int) -> int:
    """Bytes of one linear layer's state on one GPU (gated delta net: a convolution's tail and a matrix a head)."""
    assert shape.state
    s = shape.state
    tail = (2 * s.key_heads * s.key_dim + s.value_heads * s.value_dim) // tensor * max(0, s.kernel - 1)
    return 2 * (tail + s.value_heads // tensor * s.value_dim * s.key_dim)


def _groups(kinds: Sequence[str], stage: frozenset[int]) -> tuple[tuple[str, int], ...]:
    """Layers by kind, split into groups of equal size, and how many of each group are in this stage.

    The size is that of the smallest kind, or of the largest when they are nearly equal (padding is cheaper then).
    """
    members: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        if kind not in ("encoder", "shared"):
            members.setdefault(kind, []).append(index)
    sizes = [len(layers) for layers in members.values()]
    if not sizes:
        return ()
    size = max(sizes) if max(sizes) < 1.5 * min(sizes) else min(sizes)
    found = []
    for kind, layers in members.items():
        count = -(-len(layers) // size)
        found += [(kind, len(stage.intersection(layers[i::count]))) for i in range(count)]
    return tuple(found)


def explain(shape: ModelShape, kv_dtype: str, made: Cache, tensor: int) -> str:
    """A token's bytes on one GPU, as a sum: "2 x 64 layers x 8 KV heads x 128 x 2 bytes = 256.0 KiB a token"."""
    number = width(shape, kv_dtype)
    layers = sum(n for kind, n in made.groups if kind in ("full", "mla"))
    windowed = sum(n for kind, n in made.groups if kind in ("sliding", "chunked"))
    stateful = sum(n for kind, n in made.groups if kind == "linear")
    if not made.groups:
        return "nothing is kept between requests"
    each = _numbers(shape, tensor) * number
    if shape.mla:
        text = f"{layers} layers x ({shape.mla.latent} + {shape.mla.rope}) x {number} bytes"
    else:
        heads = max(1, shape.kv_heads // tensor)
        many = f"{heads} KV head{'s' * (heads > 1)}"
        text = f"2 x {layers or windowed} layers x {many} x {shape.head_dim} x {number} bytes"
    text += f" = {(layers or windowed) * each / 1024:.1f} KiB a token"
    if windowed:
        text += f" within {made.window:,} tokens" if not layers else f", {windowed} layers keep {made.window:,} tokens"
    if stateful:
        text += f", {stateful} layers keep a state of {gib(_state_bytes(shape, tensor))}"
    return text
