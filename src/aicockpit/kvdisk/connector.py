"""DiskPrefixConnector: vLLM's connector interface on top of this package; an engine imports it by name.

    --kv-transfer-config '{"kv_connector": "DiskPrefixConnector",
      "kv_connector_module_path": "aicockpit.kvdisk.connector",
      "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
      "kv_connector_extra_config": {"folder": "/var/lib/kv", "bytes": 20000000000}}'

vLLM makes one on the scheduler's side (plan.py) and one per worker (worker.py). What it cannot serve, it says once in
the log and stays out of the way: an engine never fails because of its cache. A request may pass `kv_transfer_params`:
`{"max_load_tokens": n}` loads at most so much, `{"load_always": true}` without asking what is faster, and of
`{"store": false}` nothing is written.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.logger import init_logger
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from .blocks import Blocks
from .config import Options, options
from .files import MARK
from .identity import identity_of, refusal
from .keys import Identity, adapter_stamp, block_name
from .ledger import Ledger
from .plan import Planner, Report
from .prom import DiskMetrics, DiskStats
from .shelf import Shelf, make_private, make_root, write_about
from .stats import off
from .worker import Absent, Done, Rank, Work, Worker

logger = init_logger(__name__)


@dataclass
class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """What a step asks of each worker."""

    work: Work


@dataclass
class WorkerReport(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """What a worker tells after a step."""

    report: Report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> WorkerReport:
        return WorkerReport(self.report.joined(other.report))


class DiskPrefixConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """See the module."""

    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._options: Options = options(self._kv_transfer_config.kv_connector_extra_config)
        self._block_tokens: int = vllm_config.cache_config.block_size
        self._planner: Planner | None = None
        parallel = vllm_config.parallel_config
        self._number: int = parallel.rank % parallel.tensor_parallel_size
        # Until its memory is known, and where it cannot serve, a worker is absent: it answers all the same.
        self._worker: Worker | None = Absent(self._number) if role == KVConnectorRole.WORKER else None
        self._requests: dict[str, Any] = {}
        self._done = Done(frozenset(), frozenset())
        self._started = time.time()
        self._discard = False
        self._off_told = False
        self._identity: Identity | None = None
        reason = refusal(vllm_config, kv_cache_config)
        if reason is None:
            found = identity_of(vllm_config, kv_cache_config)
            # Engines with another checksum do not find each other's files, and so do not take them for damaged.
            self._identity = replace(found, backend=found.backend + MARK)
            reason = self._open(self._identity)
        if reason is not None:
            self._identity = None
            logger.warning("The KV disk tier stays off: %s", reason)

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what is not stored is computed again."""
        return False

    def _open(self, identity: Identity) -> str | None:
        """Make the folders; why they cannot be, or None."""
        try:
            make_root(self._options.folder)
            make_private(self._key_folder(identity))
            for rank in range(identity.ranks):
                make_private(self._shelf(identity, rank).folder)
            Ledger(self._options.folder, self._options.cap).check()
        except OSError as problem:
            return str(problem)
        write_about(self._key_folder(identity), identity.about)
        if self._role == KVConnectorRole.SCHEDULER:
            shelves = [self._shelf(identity, rank) for rank in range(identity.ranks)]
            self._planner = Planner(shelves, self._block_tokens)
            logger.info("KV disk tier: %s, at most %d bytes", self._key_folder(identity), self._options.cap)
        return None

    def _key_folder(self, identity: Identity) -> str:
        return os.path.join(self._options.folder, identity.folder)

    def _shelf(self, identity: Identity, rank: int) -> Shelf:
        return Shelf(os.path.join(self._key_folder(identity), f"r{rank}"), identity.digest)

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._identity is None:
            return
        config = self._vllm_config
        spec = self._kv_cache_config.kv_cache_groups[0].kv_cache_spec
        layers = _memory(kv_caches, spec.page_size_bytes)
        if isinstance(layers, str):
            logger.warning("The KV disk tier stays off: %s", layers)
            return
        self._tensors = tuple(kv_caches.values())  # their memory is held as plain addresses
        self._worker = Rank(
            self._shelf(self._identity, self._number),
            Blocks(layers),
            self._options,
            self._block_tokens,
            config.scheduler_config.max_num_batched_tokens,
            self._number,
        )

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """vLLM starts asynchronous loads after the step; started here, they overlap with it."""
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None:
            self._worker.begin(connector_metadata.work)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        return

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.end(self._get_connector_metadata().work)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        if self._worker is None:
            return None, None
        idle = self.has_connector_metadata() and self._get_connector_metadata().work.idle
        self._done = self._worker.done(idle)
        return None, set(self._done.received) or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._done = set(self._done.failed), Done(frozenset(), frozenset())
        return failed

    def build_connector_worker_meta(self) -> WorkerReport | None:
        report = self._worker.report() if self._worker is not None else None
        return None if report is None else WorkerReport(report)

    def get_kv_connector_stats(self) -> DiskStats | None:
        data = self._worker.stats() if self._worker is not None else {}
        if self._planner is not None:
            for choice, count in self._planner.choices.items():
                data[f"choices:{choice}"] = count
            self._planner.choices.clear()
        elif self._role == KVConnectorRole.SCHEDULER and not self._off_told:
            self._off_told = True
            data |= off("engine")
        return DiskStats(data) if data else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = Absent(self._number)

    # The scheduler's side.

    def on_new_request(self, request: Any) -> None:
        if self._planner is None or request.request_id in self._requests:
            return
        adapter = None
        if request.lora_request is not None:
            adapter = adapter_stamp(request.lora_request.lora_path, self._started)
            if adapter is None:
                return
        wish = request.kv_transfer_params or {}
        limit = wish.get("max_load_tokens")
        self._requests[request.request_id] = request
        self._planner.admit(
            request.request_id,
            _names(request, adapter),
            request.num_prompt_tokens,
            limit_tokens=limit if isinstance(limit, int) and limit >= 0 else None,
            always=wish.get("load_always") is True,
            keep=wish.get("store") is not False,
        )

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._planner is None or request.skip_reading_prefix_cache:
            return 0, False
        tokens = self._planner.matched(request.request_id, num_computed_tokens)
        return (None, False) if tokens is None else (tokens, tokens > 0)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._planner is not None:
            self._planner.allocated(request.request_id, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        if self._planner is None:
            discard, self._discard = self._discard, False
            return StepMetadata(Work(discard=discard))
        scheduled: list[tuple[str, int, Callable[[], Sequence[int]]]] = []
        prompt_tokens = other_tokens = 0
        weighted = 0.0
        state = scheduler_output.kv_connector_block_state
        for name, count in scheduler_output.num_scheduled_tokens.items():
            request = self._requests.get(name)
            if request is None:
                other_tokens += count
                continue
            before = request.num_computed_tokens
            scheduled.append((name, before + count, partial(_first_group, state.get_block_ids, name)))
            prompt = min(count, max(request.num_prompt_tokens - before, 0))
            prompt_tokens += prompt
            other_tokens += count - prompt
            weighted += prompt * (before + prompt / 2)
        plan = self._planner.step(scheduled)
        mean = weighted / prompt_tokens if prompt_tokens else 0.0
        return StepMetadata(Work(tuple(plan.loads), tuple(plan.keeps), plan.probe, prompt_tokens, mean, other_tokens))

    def update_connector_output(self, connector_output: Any) -> None:
        if self._planner is None:
            return
        self._planner.landed(connector_output.finished_recving or ())
        if connector_output.kv_connector_worker_meta is not None:
            self._planner.heard(connector_output.kv_connector_worker_meta.report)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._requests.pop(request.request_id, None)
        if self._planner is not None:
            self._planner.forget(request.request_id)
        return False, None

    def reset_cache(self) -> bool | None:
        """Weights may have been changed in place: what this engine wrote goes, and as the files on disk are perhaps no
        longer what it computes with, nothing is loaded or kept until it starts again. vLLM asks this on a pause and
        before it sleeps, too, and does not say which it is."""
        if self._planner is not None:
            self._planner = None
            self._discard = True
            logger.warning("The KV disk tier stays off until the engine restarts: its weights may have changed")
        return True

    # Statistics.

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> DiskStats:
        return DiskStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> DiskMetrics:
        return DiskMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _names(request: Any, adapter: bytes | None) -> Callable[[], Sequence[bytes]]:
    if adapter is None:
        hashes: Callable[[], Sequence[bytes]] = lambda: request.block_hashes  # noqa: E731
        return hashes
    return lambda: [block_name(found, adapter) for found in request.block_hashes]


def _first_group(block_ids: Callable[[str], tuple[list[int], ...]], request: str) -> list[int]:
    return block_ids(request)[0]


def _memory(kv_caches: dict[str, Any], page: int) -> list[tuple[memoryview, int, int]] | str:
    """Each layer's bytes, the step between its blocks, and the bytes of one; or why this memory is not plain."""
    layers: dict[int, tuple[memoryview, int, int]] = {}
    for name in sorted(kv_caches):
        tensor = kv_caches[name]
        if isinstance(tensor, list | tuple) or tensor.device.type != "cpu":
            return f"the KV cache of {name} is not one tensor in main memory"
        step = tensor.stride(0) * tensor.element_size()
        inner = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
        if tensor[0].numel() * tensor.element_size() != page or inner * tensor.element_size() != page or step < page:
            return f"a block of {name} does not lie in one piece of {page} bytes"
        length = step * (tensor.shape[0] - 1) + page
        layers[tensor.data_ptr()] = memoryview((ctypes.c_ubyte * length).from_address(tensor.data_ptr())), step, page
    return list(layers.values())
