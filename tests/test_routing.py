"""Routing is pure: engines in, a choice with its reason out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.gateway.routing import Limits, Verdict, choose
from aicockpit.types import Address, EngineState, Lane

LIMITS = Limits(queue=4, background=1)


def engine(name: str = "e", state: EngineState = EngineState.READY, **load: int) -> Engine:
    address = Address(uds="/nowhere")
    made = Engine(name, address, Upstream(address), ("m",), state=state)
    for lane, count in load.items():
        setattr(made.load, lane, count)
    return made


def test_the_least_loaded_is_chosen_and_ties_take_turns() -> None:
    busy, idle, idle_too = engine("busy", interactive=3), engine("idle", sent=5), engine("idle too", sent=4)
    choice = choose([busy, idle, idle_too], Lane.INTERACTIVE, LIMITS, 0.0)
    assert choice.engine is idle_too
    assert "least of 3" in choice.reason


def test_full_engines_are_overload() -> None:
    choice = choose([engine(interactive=2, agent=2)], Lane.AGENT, LIMITS, 0.0)
    assert choice.verdict is Verdict.FULL


def test_background_waits_for_interactive_and_for_its_slots() -> None:
    assert choose([engine(interactive=1)], Lane.BACKGROUND, LIMITS, 0.0).verdict is Verdict.WAIT
    assert choose([engine(background=1)], Lane.BACKGROUND, LIMITS, 0.0).verdict is Verdict.WAIT
    free = engine("free", agent=3)
    assert choose([engine(interactive=1), free], Lane.BACKGROUND, LIMITS, 0.0).engine is free


def test_none_ready_says_which_stage() -> None:
    starting = engine("s", EngineState.STARTING)
    starting.stage = "loading weights"
    choice = choose([starting, engine("f", EngineState.FAILED)], Lane.INTERACTIVE, LIMITS, 0.0)
    assert (choice.verdict, "loading weights" in choice.reason) == (Verdict.STARTING, True)
    assert choose([engine("f", EngineState.FAILED)], Lane.INTERACTIVE, LIMITS, 0.0).verdict is Verdict.DOWN


def test_an_open_circuit_is_left_out_until_its_trial() -> None:
    sick, well = engine("sick"), engine("well", interactive=3)
    for _ in range(sick.breaker.threshold):
        sick.breaker.failed(10.0)
    assert choose([sick, well], Lane.INTERACTIVE, LIMITS, 11.0).engine is well
    assert choose([sick, well], Lane.INTERACTIVE, LIMITS, 16.0).engine is sick
    sick.breaker.sent()
    assert choose([sick, well], Lane.INTERACTIVE, LIMITS, 16.0).engine is well
    assert choose([sick], Lane.INTERACTIVE, LIMITS, 11.0).verdict is Verdict.DOWN


states = st.sampled_from(list(EngineState))
loads = st.tuples(states, st.integers(0, 5), st.integers(0, 5), st.integers(0, 2))


@given(st.lists(loads, max_size=6), st.sampled_from(list(Lane)))
def test_what_is_chosen_is_ready_has_room_and_no_more_work_than_any_other(
    rows: list[tuple[EngineState, int, int, int]], lane: Lane
) -> None:
    engines = [engine(f"e{n}", s, interactive=i, agent=a, background=b) for n, (s, i, a, b) in enumerate(rows)]
    choice = choose(engines, lane, LIMITS, 0.0)
    assert (choice.engine is not None) == (choice.verdict is Verdict.SEND)
    assert choice.engine is not None or choice.reason or not engines
    if choice.engine is None:
        return
    assert choice.engine.ready
    if lane is Lane.BACKGROUND:
        assert choice.engine.load.interactive == 0
        assert choice.engine.load.background < LIMITS.background
    else:
        assert choice.engine.load.total < LIMITS.queue
        assert choice.engine.load.total == min(e.load.total for e in engines if e.ready)
