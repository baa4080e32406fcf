"""The connector as vLLM makes it, on the scheduler's side and on a worker's, where one of them is off."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import json, sys
from types import SimpleNamespace as Made
from unittest.mock import patch
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole as Role
from aicockpit.kvdisk import connector as module
from aicockpit.kvdisk.keys import Identity

folder, checksum = sys.argv[1:]
identity = Identity(
    "m", None, "w", "auto", "s", "f", "f", None, 32, "sha256", (("l", (64, 1, 1), "f"),), "CPU", "v", 1
)

def make(role, fails=False, refused=None):
    config = Made(
        kv_transfer_config=Made(kv_connector_extra_config={"folder": folder, "bytes": 10**7, "reserve_bytes": 0}),
        cache_config=Made(block_size=32),
        parallel_config=Made(rank=0, tensor_parallel_size=1),
        scheduler_config=Made(max_num_batched_tokens=512),
    )
    cache = Made(kv_cache_groups=[Made(kv_cache_spec=Made(page_size_bytes=64))])
    problem = OSError(24, "Too many open files")
    root = patch.object(module, "make_root", side_effect=problem if fails else module.make_root)
    with root, patch.object(module, "identity_of", lambda *_: identity):
        with patch.object(module, "refusal", lambda *_: refused), patch.object(module, "MARK", checksum):
            made = module.DiskPrefixConnector(config, role, cache)
    if role is Role.WORKER:
        made.register_kv_caches({"l": torch.zeros(40, 64, dtype=torch.uint8)})
    return made

def request(name):
    return Made(
        request_id=name, block_hashes=[bytes([at]) * 32 for at in range(9)], num_prompt_tokens=300,
        num_tokens=300, lora_request=None, kv_transfer_params=None, skip_reading_prefix_cache=False,
        num_computed_tokens=0,
    )

def step(scheduler, worker):
    scheduled = Made(num_scheduled_tokens={}, kv_connector_block_state=Made(get_block_ids=None))
    worker.bind_connector_metadata(scheduler.build_connector_meta(scheduled))
    worker.start_load_kv(None)
    worker.wait_for_save()
    _, received = worker.get_finished(set())
    output = Made(
        finished_recving=received, kv_connector_worker_meta=None,
        invalid=sorted(worker.get_block_ids_with_load_errors()),
    )
    output.kv_connector_worker_meta = worker.build_connector_worker_meta()
    worker.clear_connector_metadata()
    scheduler.update_connector_output(output)
    return output

def stats(made):
    found = made.get_kv_connector_stats()
    return found.reduce() if found else None

def blocks():
    return Made(get_block_ids=lambda: [list(range(10, 20))])

print("READY")
case = json.loads(sys.stdin.readline())
found = {}
scheduler = make(Role.SCHEDULER, refused=case.get("scheduler"))
worker = make(Role.WORKER, fails=case.get("worker_fails", False))
found["key"] = scheduler._identity.folder if scheduler._identity else None
for one in ("a", "b", "c"):
    scheduler.on_new_request(request(one))
if scheduler._planner:
    shelf = scheduler._planner._shelves[0]
    with patch.object(type(shelf), "has", lambda self, name: True):
        found["a"] = scheduler.get_num_new_matched_tokens(request("a"), 0)
        scheduler.update_state_after_alloc(request("a"), blocks(), found["a"][0])
        found["b"] = scheduler.get_num_new_matched_tokens(request("b"), 0)
        for _ in range(200):
            output = step(scheduler, worker)
            if output.finished_recving:
                break
        found["received"], found["invalid"] = sorted(output.finished_recving or ()), output.invalid
        found["a again"] = scheduler.get_num_new_matched_tokens(request("a"), 0)
        found["b again"] = scheduler.get_num_new_matched_tokens(request("b"), 0)
else:
    step(scheduler, worker)
found["scheduler"], found["worker"] = stats(scheduler), stats(worker)
scheduler.reset_cache()
found["reset"] = stats(scheduler)
worker.shutdown()
print(json.dumps(found))
"""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


def asked(folder: Path, checksum: str = "", **case: object) -> dict[str, object]:
    child = subprocess.run(
        [sys.executable, "-c", ASK, str(folder), checksum],
        input=json.dumps(case),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    found: dict[str, object] = json.loads(child.stdout.splitlines()[-1])
    return found


def test_a_worker_that_is_off_lets_no_request_wait(tmp_path: Path) -> None:
    found = asked(tmp_path / "kv", worker_fails=True)
    assert found["a"] == [288, True]
    assert found["b"] == [None, False], "the same blocks are being loaded"
    assert found["received"] == ["a"]
    assert found["invalid"] == list(range(10, 19)), "all of them are computed"
    assert found["a again"] == found["b again"] == [0, False], "and it is not asked again"
    assert found["worker"] == {"storing": 0, "loading": 0}
    assert found["reset"] == {"storing": 0, "loading": 0}


def test_a_worker_that_is_on_answers_and_one_checksum_does_not_meet_another(tmp_path: Path) -> None:
    found = asked(tmp_path / "kv")
    assert found["received"] == ["a"]
    assert found["invalid"] == list(range(10, 19)), "there are no such files"
    assert found["b again"] == [288, True], "it was waiting for what has failed"
    assert found["worker"]["storing"] == found["worker"]["loading"] == 1  # type: ignore[index]
    other = asked(tmp_path / "kv", " blake2b", scheduler=None)
    assert other["key"] != found["key"]


def test_an_engine_that_is_off_says_so(tmp_path: Path) -> None:
    found = asked(tmp_path / "kv", scheduler="the model has more than one kind of attention")
    assert found["scheduler"] == {"storing": 0, "loading": 0}
