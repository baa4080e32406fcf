"""gateway/parity.py"""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from aicockpit.gateway.parity import Parity


def test_an_alarm_is_raised_once_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    parity = Parity(registry)
    with caplog.at_level(logging.WARNING):
        for _ in range(9):
            parity.compare("a-0", 320, 0)
        assert not parity.alarmed("a-0")
        for _ in range(5):
            parity.compare("a-0", 320, 96)
        assert parity.alarmed("a-0")
        assert not parity.alarmed("b-0")
        assert len(caplog.records) == 1
        for _ in range(50):
            parity.compare("a-0", 320, 352)
    assert not parity.alarmed("a-0")
    assert registry.get_sample_value("aicockpit_context_alarm", {"engine": "a-0"}) == 0
    assert registry.get_sample_value("aicockpit_context_parity_total", {"engine": "a-0", "result": "lost"}) == 14
    assert registry.get_sample_value("aicockpit_context_tokens_total", {"engine": "a-0", "kind": "cached"}) == (
        5 * 96 + 50 * 320
    )


def test_an_engine_that_does_not_say_is_counted_apart() -> None:
    registry = CollectorRegistry()
    parity = Parity(registry)
    for _ in range(20):
        parity.compare("a-0", 320, None)
    assert not parity.alarmed("a-0")
    assert registry.get_sample_value("aicockpit_context_parity_total", {"engine": "a-0", "result": "unreported"}) == 20
