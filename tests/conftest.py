"""Fixtures that several files share: the one real server, heavy, started from nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from fake_client import free_port
from real import START_LIMIT_S, Server, start, stop


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`aicockpit serve` with real vLLM on the CPU, ready."""
    made = start(
        tmp_path_factory.mktemp("real"),
        free_port(),
        AICOCKPIT_CONTEXT="1200",
        AICOCKPIT_CONTEXT_IDLE="3",
        AICOCKPIT_MIN_RESIDENT="3",
        AICOCKPIT_WAKE_WAIT="900",
    )
    try:
        made.until(lambda: httpx.get(f"http://127.0.0.1:{made.port}/ready").status_code == 200, START_LIMIT_S)
        yield made
        assert stop(made) == []
        assert made.process.returncode == 0
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()
