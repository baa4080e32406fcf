"""Requests with one stored prefix share one load of it; and a worker whose side is off keeps nobody waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from aicockpit.kvdisk.loader import Load, Piece
from aicockpit.kvdisk.meter import STALE_S, ComputeRate, LoadRate
from aicockpit.kvdisk.plan import Report, State
from aicockpit.kvdisk.stats import States, folded, merged, of_part, off
from aicockpit.kvdisk.worker import Absent, Done, Work
from kvdisk_plan_rig import BLOCK, Rig
from kvdisk_rig import name_of

COMPUTE = ComputeRate(0.001, 0.0)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.stored(10)
    return made


def loading(rig: Rig, request: str, computed: int = 0) -> None:
    tokens = rig.planner.matched(request, computed)
    assert tokens
    rig.planner.allocated(request, range(300), tokens)


def test_of_eight_requests_one_loads_and_the_others_find_it_in_the_engine(rig: Rig) -> None:
    requests = [f"r{number}" for number in range(8)]
    for request in requests:
        rig.admit(request, 1000)
    loading(rig, "r0")
    assert [rig.planner.matched(request, 0) for request in requests[1:]] == [None] * 7
    assert len(rig.planner.step([]).loads) == 1
    rig.planner.landed({"r0"})
    assert [rig.planner.matched(request, 10 * BLOCK) for request in requests[1:]] == [0] * 7
    assert rig.planner.step([]).loads == []


def test_what_comes_behind_a_load_under_way_is_loaded_itself(rig: Rig) -> None:
    rig.admit("a", 5 * BLOCK)
    rig.admit("b", 1000)
    rig.stored(3, first=100)
    rig.admit("c", 1000, first=100)
    loading(rig, "a")
    assert rig.planner.matched("b", 0) is None
    assert rig.planner.matched("b", 4 * BLOCK) == 6 * BLOCK
    assert rig.planner.matched("c", 0) == 3 * BLOCK, "another prefix"
    assert rig.planner.matched("a", 0) == 4 * BLOCK, "a request does not wait for itself"


@pytest.mark.parametrize("how", ["failed", "in part", "aborted", "aborted and landed", "silent"])
def test_a_load_that_comes_to_nothing_sets_free_who_waits_for_it(rig: Rig, how: str) -> None:
    for request in "abc":
        rig.admit(request, 1000)
    loading(rig, "a")
    assert rig.planner.matched("b", 0) is None
    computed, found = 0, 10 * BLOCK
    if how == "failed":
        rig.planner.landed({"a"})
        rig.planner.heard(Report(failed=frozenset({"a"})))
    elif how == "in part":
        rig.planner.landed({"a"})
        rig.planner.heard(Report(failed=frozenset({"a"})))
        computed, found = 4 * BLOCK, 6 * BLOCK
    elif how.startswith("aborted"):
        rig.planner.forget("a")
        if "landed" in how:
            rig.planner.landed({"a"})
    else:
        rig.planner.heard(Report(states={0: State(answering=False)}))
        found = 0
    assert rig.planner.matched("b", computed) == found
    if found:
        loading(rig, "b", computed)
        assert rig.planner.matched("c", computed) is None, "then it is that load that is waited for"


def test_nobody_waits_for_long_where_computing_is_sooner(rig: Rig) -> None:
    rig.stored(190, first=10)
    rig.planner.heard(Report(states={0: State(LoadRate(0.03, rig.now), COMPUTE)}))
    rig.admit("long", 200 * BLOCK + 1)
    rig.admit("short", 2 * BLOCK + 1)
    rig.admit("same", 200 * BLOCK + 1)
    rig.admit("ordered", 2 * BLOCK + 1, always=True)
    loading(rig, "long")
    assert rig.planner.matched("short", 0) == 0, "6 s for the load, 0.06 s of computing"
    assert rig.planner.matched("same", 0) is None
    assert rig.planner.matched("ordered", 0) is None
    rig.now += 5.98
    rig.admit("later", 2 * BLOCK + 1)
    assert rig.planner.matched("later", 0) is None, "soon there"


def test_a_load_that_is_late_is_not_waited_for_without_end(rig: Rig) -> None:
    rig.planner.heard(Report(states={0: State(None, COMPUTE)}))
    rig.admit("ordered", 1000, always=True)
    rig.admit("b", 1000)
    rig.admit("none", 1000, limit_tokens=0)
    loading(rig, "ordered")
    assert rig.planner.matched("b", 0) is None
    assert rig.planner.matched("none", 0) == 0, "it asked for nothing"
    rig.now += 0.33
    assert rig.planner.matched("b", 0) == 10 * BLOCK
    rig.planner.heard(Report(states={0: State()}))


def test_the_disk_is_measured_beside_requests_that_compute(rig: Rig) -> None:
    rig.planner.heard(Report(states={0: State(LoadRate(1.0, rig.now - STALE_S), COMPUTE)}))
    rig.admit("a", 1000)
    rig.admit("b", 1000)
    assert rig.planner.matched("a", 0) == 0
    assert rig.planner.matched("b", 0) == 0
    plan = rig.planner.step([])
    assert plan.loads == []
    assert set(plan.probe) <= {name_of(number) for number in range(10)}
    assert len(set(plan.probe)) == 4
    assert rig.planner.step([]).probe == ()
    rig.planner.heard(Report(states={0: State(LoadRate(0.001, rig.now), COMPUTE)}))
    rig.now += 1.1
    assert rig.planner.matched("b", 0) == 10 * BLOCK, "and the next one knows"


def test_a_load_says_how_late_it_may_be(rig: Rig) -> None:
    rig.planner.heard(Report(states={0: State(LoadRate(0.001, rig.now), COMPUTE)}))
    rig.admit("a", 1000)
    rig.admit("b", 1000, always=True)
    loading(rig, "a")
    rig.planner.landed({"a"})
    loading(rig, "b")
    one, other = rig.planner.step([]).loads
    assert one.block_s == pytest.approx(0.032)
    assert one.patience_s == pytest.approx(0.032)
    assert other.patience_s is None


# A worker whose side is off.


def test_an_absent_worker_answers_every_load_as_failed() -> None:
    worker = Absent(1)
    pieces = tuple(Piece(number, name_of(number), number) for number in (7, 8, 9))
    worker.begin(Work(loads=(Load("a", pieces), Load("b", pieces[:1]))))
    worker.end(Work())
    assert worker.done(idle=True) == Done(frozenset({"a", "b"}), frozenset({7, 8, 9}))
    assert worker.report() == Report(frozenset({"a", "b"}), states={1: State(answering=False)})
    assert worker.done(idle=True) == Done(frozenset(), frozenset())
    assert worker.report() is None
    worker.begin(Work(loads=(Load("c", pieces),)))
    worker.done(idle=False)
    report = worker.report()
    assert report is not None
    assert report.failed == {"c"}


def test_an_absent_worker_is_not_asked_again(rig: Rig) -> None:
    report = Absent().report()
    assert report is not None
    rig.planner.heard(report)
    rig.admit("a", 1000)
    assert rig.planner.matched("a", 0) == 0


def test_an_absent_worker_says_that_it_is_off() -> None:
    worker = Absent(1)
    assert worker.stats() == {"storing:1": 0, "loading:1": 0}
    assert worker.stats() == {}
    worker.close()


def test_an_engine_stores_when_all_of_it_does() -> None:
    told = States()
    assert told.told(0, "storing", "0", 1) == 1
    assert told.told(0, "storing", "1", 0) == 0
    assert told.told(0, "storing", "0", 1) == 0, "a rank's good news do not cover another's bad ones"
    assert told.told(1, "storing", "0", 1) == 1, "another engine"
    assert told.told(0, "storing", "1", 1) == 1
    one, other = of_part({"storing": 0, "held_bytes": 5, "stored_blocks": 2}, "0"), of_part({"storing": 1}, "1")
    both = merged(merged(one, other), {"held_bytes": 7, "stored_blocks": 1, "storing:1": 1})
    assert both == {"storing:0": 0, "storing:1": 1, "held_bytes": 7, "stored_blocks": 3}
    assert folded(both) == {"storing": 0, "held_bytes": 7, "stored_blocks": 3}
    assert folded(off("engine")) == {"storing": 0, "loading": 0}
