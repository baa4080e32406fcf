"""The division of a KV cache is vLLM's own: its functions, in a child process, agree to the token."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODELS = 200


@pytest.mark.real
@pytest.mark.timeout(180)
def test_random_models_divide_a_cache_as_vllm_does() -> None:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    done = subprocess.run(
        [sys.executable, str(HERE / "vllm_blocks.py"), str(MODELS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"ours"')]
    assert len(rows) == MODELS
    for row in rows:
        (tokens, needed), (their_tokens, their_needed) = row["ours"], row["vllm"]
        assert needed == their_needed, row
        assert abs(tokens - their_tokens) <= 1, row  # they divide in floating point
