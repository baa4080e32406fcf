"""gateway/outcomes.py: what context requests had, and a workspace whose warm-up never serves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aicockpit.gateway.outcomes import COLD_REQUESTS, COLD_S, Outcome, Outcomes
from aicockpit.workspace.head import Head, Lacks
from fake_client import start_fake
from join_rig import Warm, joined, warm_head
from rig import engine_of

STEP = COLD_S / (COLD_REQUESTS - 1) + 0.001


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        self.outcomes = Outcomes(self.registry, self.clock)

    def send(self, outcome: Outcome, times: int, step: float = STEP, workspace: int = 1) -> None:
        for number in range(times):
            self.clock.now += step * bool(number)
            self.outcomes.count(workspace, f"w{workspace}", "m", "completion", outcome)

    @property
    def cold(self) -> float | None:
        return self.registry.get_sample_value("aicockpit_context_cold_workspaces", {"model": "m", "lane": "completion"})

    def counted(self, outcome: str) -> float | None:
        labels = {"model": "m", "lane": "completion", "outcome": outcome}
        return self.registry.get_sample_value("aicockpit_context_requests_total", labels)


def test_a_pack_that_is_never_served_is_told_once_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with caplog.at_level(logging.WARNING):
        bench.send(Outcome.NOT_WARM, COLD_REQUESTS)
        assert bench.cold == 1
        assert bench.outcomes.cold("m", "completion") == ["w1"]
        bench.send(Outcome.NOT_WARM, 30)
        assert [record.args[0] for record in caplog.records if record.args] == ["w1"]  # type: ignore[index]
        assert "/api/workspaces/w1" in caplog.text
        assert "completion of m" in caplog.text
        bench.send(Outcome.WARM, 1)
    assert bench.cold == 0
    assert bench.counted("not_warm") == COLD_REQUESTS + 30
    assert bench.counted("warm") == 1
    bench.send(Outcome.NOT_WARM, COLD_REQUESTS - 1)
    assert bench.cold == 0
    bench.clock.now += STEP
    bench.send(Outcome.NOT_WARM, 1)
    assert bench.cold == 1


@pytest.mark.parametrize(
    ("times", "step"), [(COLD_REQUESTS - 1, 1000.0), (COLD_REQUESTS * 5, COLD_S / (COLD_REQUESTS * 5))]
)
def test_few_requests_or_a_short_time_are_no_alarm(times: int, step: float) -> None:
    bench = Bench()
    bench.send(Outcome.NOT_WARM, times, step)
    assert bench.cold == 0


def test_what_a_warm_up_cannot_help_neither_alarms_nor_hides_it() -> None:
    bench = Bench()
    for outcome in Outcome:
        if outcome not in (Outcome.WARM, Outcome.NOT_WARM):
            bench.send(outcome, 5 * COLD_REQUESTS)
    assert bench.cold is None
    bench.send(Outcome.NOT_WARM, COLD_REQUESTS - 1)
    bench.send(Outcome.NONE_ASKED, 1)
    bench.clock.now += STEP
    bench.send(Outcome.NOT_WARM, 1)
    assert bench.cold == 1


def test_one_workspace_that_is_warm_does_not_hide_another() -> None:
    bench = Bench()
    for _ in range(COLD_REQUESTS):
        bench.clock.now += STEP
        bench.send(Outcome.NOT_WARM, 1, workspace=1)
        bench.send(Outcome.WARM, 1, workspace=2)
    assert bench.cold == 1


def test_one_that_nobody_asks_for_is_forgotten_and_what_is_kept_is_bounded() -> None:
    bench = Bench()
    bench.send(Outcome.NOT_WARM, COLD_REQUESTS)
    assert bench.cold == 1
    bench.clock.now += 3601
    bench.send(Outcome.WARM, 1, workspace=2)
    assert bench.cold == 0
    bench.send(Outcome.NOT_WARM, COLD_REQUESTS)
    assert bench.cold == 1
    for workspace in range(10, 10 + 256):
        bench.send(Outcome.WARM, 1, workspace=workspace)
    assert bench.cold == 0


COMPLETION = {"model": "fake", "prompt": "def add(", "max_tokens": 2, "workspace": "proj"}


@pytest.mark.parametrize(
    ("head", "more", "why_not", "outcome"),
    [
        (warm_head(), {}, "", "warm"),
        (warm_head(), {"context": "none"}, "", "none_asked"),
        (warm_head(), {"echo": True}, "", "unfit"),
        (warm_head(), {"max_tokens": 5000}, "", "no_room"),
        (warm_head(), {}, "no tokenizer here", "no_tokenizer"),
        (Head(reason="warming 40 %", lacks=Lacks.WARMTH), {}, "", "not_warm"),
        (Head(reason="building 0 %"), {}, "", "no_epoch"),
        (Head(reason="no cut", lacks=Lacks.ROOM), {}, "", "no_room"),
        (Head(reason="the table gives none", lacks=Lacks.BUDGET), {}, "", "off"),
    ],
    ids=["warm", "none", "echo", "room", "tokenizer", "cold", "building", "cut", "off"],
)
async def test_each_reason_is_counted(
    tmp_path: Path, head: Head, more: dict[str, Any], why_not: str, outcome: str
) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm({"fake-0": head}), engine_of(fake), why_not=why_not) as rig:
            answer = await rig.client.post("/v1/completions", json={**COMPLETION, **more})
            record = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
            page = (await rig.client.get("/metrics")).text
    line = f'aicockpit_context_requests_total{{lane="completion",model="fake",outcome="{outcome}"}} 1.0'
    assert line in page
    assert page.count("aicockpit_context_requests_total{") == 1
    assert record["context"]["outcome"] == outcome


async def test_without_a_workspace_nothing_is_counted(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            body = {"model": "fake", "prompt": "x", "suffix": "y", "max_tokens": 1}
            answer = await rig.client.post("/v1/completions", json=body)
            record = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
            page = (await rig.client.get("/metrics")).text
    assert "aicockpit_context_requests_total{" not in page
    assert record["context"]["outcome"] is None
