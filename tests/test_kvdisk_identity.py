"""Which engines keep nothing: asked of vLLM's configuration as the connector does, in a process that imports vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ASK = """
import json, sys
from types import SimpleNamespace as Made
from vllm.config import LoadConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec
from aicockpit.kvdisk.identity import refusal
group = Made(kv_cache_spec=FullAttentionSpec.__new__(FullAttentionSpec), layer_names=[])
print("READY", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    config = Made(
        parallel_config=Made(pipeline_parallel_size=1, decode_context_parallel_size=1),
        cache_config=Made(prefix_caching_hash_algo="sha256"),
        model_config=Made(model=asked["model"], hf_config=Made(_commit_hash=asked.get("commit"))),
        load_config=LoadConfig(load_format=asked["format"]),
    )
    print(json.dumps(refusal(config, Made(kv_cache_groups=[group]))), flush=True)
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_weights_that_are_random_or_were_written_meanwhile_are_not_kept(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    time.sleep(1.5)  # a process's start is known to a second
    child = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(model: str, format: str = "auto", commit: str | None = None) -> str | None:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"model": model, "format": format, "commit": commit}) + "\n")
        child.stdin.flush()
        found: str | None = json.loads(child.stdout.readline())
        return found

    while "READY" not in (line := child.stdout.readline()):
        assert line, "it ended"
    assert ask(str(old)) is None
    assert "random" in (ask(str(old), "DUMMY") or "")
    (new / "fresh").write_bytes(b"others")
    os.replace(new / "fresh", new / "model.safetensors")
    assert "start it again" in (ask(str(new)) or "")
    assert ask("someone/some-model", commit="abc") is None
    assert "not known" in (ask("someone/some-model") or "")
    child.stdin.close()
    assert child.wait(30) == 0
    child.stdout.close()
