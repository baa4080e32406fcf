"""What one frame of an engine's KV events says. Pure; whatever an engine sends, nothing raises here.

The payload is msgpack `[ts, events, rank]`; an event is a map with `type`, in older releases an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from aicockpit.engines.blocks import event_key

# vLLM names its own KV cache "GPU" on every platform; other media are tiers below it.
_DEVICE = (None, "GPU")
# Positions in the arrays of older releases.
_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")
_REMOVED = ("block_hashes", "medium")


@dataclass(frozen=True, slots=True)
class Stored:
    """`first`: the tokens of the prompt's first block when this event begins there, plain (no LoRA, no salt)."""

    keys: tuple[int, ...]
    first: tuple[int, ...] = ()
    block_size: int = 0


@dataclass(frozen=True, slots=True)
class Removed:
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    pass


Event = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class Batch:
    """`unknown` kinds are news to us; `broken` events are of a known kind, so the index has lost something."""

    ts: float = -math.inf
    rank: int = 0
    events: tuple[Event, ...] = ()
    unknown: int = 0
    broken: int = 0
    elsewhere: int = 0


def decode(payload: bytes) -> Batch:
    """One msgpack batch, of any shape; never raises."""
    try:
        batch = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        return Batch(broken=1)
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):
        return Batch(broken=1)
    ts, rank = batch[0], batch[2] if len(batch) > 2 else 0
    if not isinstance(ts, int | float) or ts != ts or not isinstance(rank, int | None):
        return Batch(broken=1)
    events: list[Event] = []
    counts = {"unknown": 0, "broken": 0, "elsewhere": 0}
    for raw in batch[1]:
        event = _event(raw)
        if isinstance(event, str):
            counts[event] += 1
        else:
            events.append(event)
    return Batch(float(ts), rank or 0, tuple(events), **counts)


def _event(raw: object) -> Event | str:
    if isinstance(raw, list) and raw and isinstance(raw[0], str):
        names = {"BlockStored": _STORED, "BlockRemoved": _REMOVED}.get(raw[0], ())
        raw = {"type": raw[0], **dict(zip(names, raw[1:], strict=False))}
    if not isinstance(raw, dict):
        return "unknown"
    kind = raw.get("type")
    if kind == "AllBlocksCleared":
        return Cleared()
    if kind not in ("BlockStored", "BlockRemoved"):
        return "unknown"
    if raw.get("medium") not in _DEVICE or raw.get("locality") not in (None, "LOCAL"):
        return "elsewhere"
    keys = _keys(raw.get("block_hashes"))
    # A second KV group (sliding windows): a hit needs both, which one set of keys cannot tell.
    if keys is None or raw.get("group_idx") not in (None, 0):
        return "broken"
    if kind == "BlockRemoved":
        return Removed(keys)
    return Stored(keys, *_first(raw))


def _keys(raw: object) -> tuple[int, ...] | None:
    if not isinstance(raw, list):
        return None
    if all(isinstance(one, int) and not isinstance(one, bool) for one in raw):
        return tuple(raw)
    if all(isinstance(one, bytes) for one in raw):
        return tuple(map(event_key, raw))
    return None


def _first(raw: dict[Any, Any]) -> tuple[tuple[int, ...], int]:
    size, tokens = raw.get("block_size"), raw.get("token_ids")
    extra = raw.get("extra_keys") or []
    plain = raw.get("parent_block_hash") is None and raw.get("lora_id") is None and raw.get("lora_name") is None
    if not plain or not isinstance(extra, list) or any(extra):
        return (), 0
    if not isinstance(size, int) or size < 1 or not isinstance(tokens, list) or len(tokens) < size:
        return (), 0
    first = tuple(tokens[:size])
    return (first, size) if all(isinstance(token, int) for token in first) else ((), 0)
