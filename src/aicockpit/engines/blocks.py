"""vLLM's block hashes, computed outside the engine: which KV blocks a prompt needs. Pure.

A block is reused only if every token before it is equal, so its hash covers the hash of the block before it. The
default algorithm is `sha256` over a pickle (protocol 5) of (parent, tokens, extra keys), from a fixed seed.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Sequence

# What vLLM takes when PYTHONHASHSEED is not set.
SEED = "vllm-none-hash"
_LOW_64 = slice(-8, None)


def hash_blocks(
    tokens: Sequence[int],
    block_size: int,
    parent: bytes | None = None,
    seed: str = SEED,
    salt: str | None = None,
) -> list[bytes]:
    """The hashes of the full blocks of `tokens`, in order; a rest shorter than a block has none.

    `parent`: the hash of the block before the first, None at the start of a prompt. `salt` is the request's
    `cache_salt`; it counts for a prompt's first block only. Raises ValueError for a block size below 1.
    """
    if block_size < 1:
        raise ValueError(f"a block has at least one token, not {block_size}")
    extra = (("cache_salt", salt),) if salt and parent is None else None
    before = parent or _digest(seed)
    row, found = tuple(tokens), []
    for end in range(block_size, len(row) + 1, block_size):
        before = _digest((before, row[end - block_size : end], extra))
        extra = None
        found.append(before)
    return found


def event_key(block_hash: bytes) -> int:
    """The number by which KV events name a block: the low 64 bits of its hash."""
    return int.from_bytes(block_hash[_LOW_64], "big")


def event_keys(block_hashes: Iterable[bytes]) -> tuple[int, ...]:
    return tuple(int.from_bytes(block_hash[_LOW_64], "big") for block_hash in block_hashes)


def _digest(value: object) -> bytes:
    return hashlib.sha256(pickle.dumps(value, protocol=5)).digest()
