"""KV events of the fake vLLM, in vLLM 0.32's wire format: PUB for what happens, ROUTER for what was missed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import time
from collections import deque
from typing import Any

from fake_client import Switches

END = (-1).to_bytes(8, "big", signed=True)
SEED = "vllm-none-hash"


def digest(value: object) -> bytes:
    """vLLM's default, `sha256`."""
    return hashlib.sha256(pickle.dumps(value, protocol=5)).digest()


def block_hashes(ids: list[int], size: int, salt: str) -> list[bytes]:
    parent, found = digest(SEED), []
    extra: tuple[tuple[str, str], ...] | None = (("cache_salt", salt),) if salt else None
    for end in range(size, len(ids) + 1, size):
        parent = digest((parent, tuple(ids[end - size : end]), extra))
        extra = None
        found.append(parent)
    return found


def key(block_hash: bytes) -> int:
    return int.from_bytes(block_hash, "big") & ((1 << 64) - 1)


class Events:
    """Publishes when --kv-events-config says so. The switches: array_events, drop_events."""

    def __init__(self, config: str | None, switches: Switches) -> None:
        given = json.loads(config or "{}")
        self.on = bool(given.get("enable_kv_cache_events"))
        self.switches = switches
        self.buffer: deque[tuple[bytes, bytes]] = deque(maxlen=given.get("buffer_steps", 10_000))
        self.pending: list[dict[str, Any]] = []
        self.sequence = 0
        if self.on:
            import zmq.asyncio  # here, since most fakes send no events and shall start quickly

            self.topic = given.get("topic", "").encode()
            self.context = zmq.asyncio.Context()
            self.pub = self.context.socket(zmq.PUB)
            self.pub.bind(given["endpoint"])
            self.router = self.context.socket(zmq.ROUTER) if given.get("replay_endpoint") else None
            if self.router:
                self.router.bind(given["replay_endpoint"])

    def start(self) -> None:
        if self.on and self.router:
            self.task = asyncio.get_running_loop().create_task(self.serve_replay(self.router))

    def stored(self, ids: list[int], hashes: list[bytes], first: int, last: int, size: int, salt: str) -> None:
        if self.on and last > first:
            event: dict[str, Any] = {
                "type": "BlockStored",
                "block_hashes": [key(one) for one in hashes[first:last]],
                "parent_block_hash": key(hashes[first - 1]) if first else None,
                "token_ids": ids[first * size : last * size],
                "block_size": size,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
            }
            if salt and not first:
                event["extra_keys"] = [[salt], *[None] * (last - 1)]
            self.pending.append({**event, "group_idx": 0, "kv_cache_spec_kind": "full_attention"})

    def removed(self, block_hash: bytes) -> None:
        if self.on:
            event = {"type": "BlockRemoved", "block_hashes": [key(block_hash)], "medium": "GPU", "group_idx": 0}
            self.pending.append(event)

    def cleared(self) -> None:
        if self.on:
            self.pending.append({"type": "AllBlocksCleared"})

    async def flush(self) -> None:
        """What happened in one step of the engine is one batch."""
        if not self.pending:
            return
        events: list[Any] = self.pending
        self.pending = []
        if self.switches.array_events:
            events = [list(event.values())[:7] for event in events]
        import msgspec

        payload = msgspec.msgpack.encode([time.time(), events, 0])
        sequence = self.sequence.to_bytes(8, "big")
        self.sequence += 1
        self.buffer.append((sequence, payload))
        if self.switches.drop_events > 0:
            self.switches.drop_events -= 1
            return
        await self.pub.send_multipart([self.topic, sequence, payload])

    async def serve_replay(self, router: Any) -> None:
        while True:
            client, _, start = await router.recv_multipart()
            for sequence, payload in list(self.buffer):
                if sequence >= start:
                    await router.send_multipart([client, b"", self.topic, sequence, payload])
            await router.send_multipart([client, b"", b"", END, b""])
