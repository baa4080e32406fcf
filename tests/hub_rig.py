"""What the tests of the models share: a fake Hub, a cache of its own, quick patience."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import fake_hub
from aicockpit.models import fetch
from aicockpit.models.hub import Hub, Patience

QUICK = Patience(tries=4, first_s=0.02, most_s=0.05, asked_s=5.0, silence_s=5.0)


@pytest.fixture
def server() -> Iterator[fake_hub.Hub]:
    with fake_hub.running() as running:
        yield running


@pytest.fixture
def hub(server: fake_hub.Hub, tmp_path: Path) -> Hub:
    return Hub(server.url, tmp_path / "cache")


@pytest.fixture
def environment(server: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_hub.Hub:
    """The same for children, which read it from their environment."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_XET_HIGH_PERFORMANCE", "HF_HUB_DISABLE_XET"):
        monkeypatch.delenv(name, raising=False)
    return server


class Told:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def __call__(self, step: str, done: int, total: int) -> None:
        self.lines.append((step, done, total))

    @property
    def steps(self) -> str:
        return "\n".join(step for step, _, _ in self.lines)


def pull(
    hub: Hub, model: str = "ok/m", revision: str = "", told: Told | None = None, patience: Patience = QUICK
) -> Path:
    return fetch.download(hub, model, revision, told or Told(), patience)


def offline(hub: Hub) -> Hub:
    return replace(hub, offline=True)


def requests_for(server: fake_hub.Hub, word: str) -> int:
    return sum(word in f"{method} {path}" for method, path, _ in server.requests)
