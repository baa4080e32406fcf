"""Block hashes, compared with vLLM's own code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.blocks import event_key, event_keys, hash_blocks

KNOWN = ["9d9c413731095d0e", "6eab5151ee783ec0"]
TOKENS = list(range(1000, 1100))
# vLLM's functions on the same tokens, without an engine: plain, salted, with another seed; and the events' numbers.
THEIRS = """
import json, os, sys
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.utils.hashing import sha256
from vllm.v1.core import kv_cache_utils as kv
import msgspec
tokens, found = json.loads(sys.argv[1]), {}
for name, seed, salt in (("plain", None, None), ("salted", None, "team-a"), ("seeded", "7", None)):
    os.environ.pop("PYTHONHASHSEED", None)
    if seed: os.environ["PYTHONHASHSEED"] = seed
    kv.init_none_hash(sha256)
    parent, hashes = None, []
    for end in range(16, len(tokens) + 1, 16):
        extra = (("cache_salt", salt),) if salt and parent is None else None
        parent = kv.hash_block_tokens(sha256, parent, tokens[end - 16 : end], extra)
        hashes.append(parent)
    found[name] = [one.hex() for one in hashes]
    found[name + " keys"] = [kv.maybe_convert_block_hash(one) for one in hashes]
keys = found["plain keys"]
events = [
    BlockStored(block_hashes=keys, parent_block_hash=None, token_ids=tokens[:96], block_size=16, lora_id=None,
                medium="GPU", lora_name=None, extra_keys=None, group_idx=0, session_id="s"),
    BlockRemoved(block_hashes=keys[-1:], medium="GPU", group_idx=0),
]
batches = [KVEventBatch(ts=1.5, events=events), KVEventBatch(ts=2.5, events=[AllBlocksCleared()], data_parallel_rank=0)]
found["batches"] = [msgspec.msgpack.encode(batch).hex() for batch in batches]
print("\\n" + json.dumps(found))
"""


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_hashes_and_events_are_those_of_the_installed_vllm() -> None:
    from aicockpit.engines.kv_frames import Batch, Cleared, Removed, Stored, decode

    command = [sys.executable, "-c", THEIRS, json.dumps(TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, options in (("plain", {}), ("salted", {"salt": "team-a"}), ("seeded", {"seed": "7"})):
        ours = hash_blocks(TOKENS, 16, **options)  # type: ignore[arg-type]
        assert [one.hex() for one in ours] == theirs[name], name
        assert list(event_keys(ours)) == theirs[f"{name} keys"]
    keys = tuple(theirs["plain keys"])
    first, second = (decode(bytes.fromhex(batch)) for batch in theirs["batches"])
    assert first == Batch(1.5, 0, (Stored(keys, tuple(TOKENS[:16]), 16), Removed(keys[-1:])))
    assert second == Batch(2.5, 0, (Cleared(),))


def test_known_values_hold() -> None:
    """Written down from the installed vLLM 0.32, so that the wire format cannot drift unseen where vLLM is not."""
    hashes = hash_blocks(TOKENS[:32], 16)
    assert [one.hex()[:16] for one in hashes] == KNOWN
    assert event_key(hashes[0]) == int(hashes[0].hex()[-16:], 16)


@given(st.lists(st.integers(0, 2**31)), st.integers(1, 64), st.integers(0, 8))
def test_a_chain_goes_on_from_any_block(tokens: list[int], size: int, cut: int) -> None:
    whole = hash_blocks(tokens, size)
    assert len(whole) == len(tokens) // size
    cut = min(cut, len(whole))
    if cut:
        assert whole == hash_blocks(tokens[: cut * size], size) + hash_blocks(
            tokens[cut * size :], size, whole[cut - 1]
        )
    assert hash_blocks(tuple(tokens), size) == whole


@given(st.lists(st.integers(0, 9), min_size=8, max_size=40), st.integers(0, 39))
def test_a_changed_token_changes_every_block_from_its_own_on(tokens: list[int], at: int) -> None:
    at %= len(tokens)
    other = [*tokens[:at], tokens[at] + 10, *tokens[at + 1 :]]
    same = [ours == theirs for ours, theirs in zip(hash_blocks(tokens, 4), hash_blocks(other, 4), strict=True)]
    assert same == [index < at // 4 for index in range(len(same))]


def test_a_salt_sets_a_tenant_apart() -> None:
    assert not set(hash_blocks(TOKENS, 16)) & set(hash_blocks(TOKENS, 16, salt="team-a"))


def test_a_block_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        hash_blocks(TOKENS, 0)
