"""Who makes way for whom, decided over values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.swap import Action, Plan, Seen, Verb, held, plan
from aicockpit.types import EngineState, Residence

GIB = 1 << 30
ROOM = {"0": 10 * GIB}
HOUR = 3600.0


def seen(name: str, state: EngineState = EngineState.STOPPED, gib: int = 8, **values: object) -> Seen:
    known = {"pinned": False, "needs": (("0", gib * GIB),)}
    home = {key: values.pop(key) for key in ("pinned", "ttl_s", "needs", "sleeps", "asleep") if key in values}
    return Seen(name, state, Residence(**(known | home)), **values)  # type: ignore[arg-type]


def ready(name: str, gib: int = 8, **values: object) -> Seen:
    return seen(name, EngineState.READY, gib, **values)


def decide(*engines: Seen, wanted: str = "", now: float = HOUR, least: float = 30.0) -> Plan:
    return plan(engines, wanted.split(), ROOM, least, now)


def verbs(made: Plan) -> list[tuple[str, str]]:
    return [(action.verb.value, action.name) for action in made.actions]


def test_what_fits_is_brought() -> None:
    assert decide(seen("a", gib=4), ready("b", gib=6), wanted="a").actions == (
        Action(Verb.BRING, "a", "a request waits for it"),
    )


def test_the_one_idle_for_the_longest_makes_way_and_only_then_is_the_other_brought() -> None:
    old, young = ready("old", 4, used=10.0), ready("young", 4, used=20.0)
    made = decide(seen("new", gib=6), young, old, wanted="new")
    assert verbs(made) == [("put away", "old")]
    assert made.waits == {"new": "old makes way"}
    leaving = replace(old, state=EngineState.STOPPING)
    assert verbs(decide(seen("new", gib=6), young, leaving, wanted="new")) == []
    gone = replace(old, state=EngineState.SLEEPING)
    assert verbs(decide(seen("new", gib=6), young, gone, wanted="new")) == [("bring", "new")]


def test_one_in_work_goes_after_all_idle_ones() -> None:
    busy, idle = ready("busy", 5, used=1.0, in_work=1), ready("idle", 5, used=99.0)
    assert verbs(decide(seen("new", gib=5), busy, idle, wanted="new")) == [("put away", "idle")]
    assert verbs(decide(seen("new", gib=10), busy, idle, wanted="new")) == [("put away", "idle"), ("put away", "busy")]


def test_a_pinned_engine_never_makes_way_and_the_reason_says_who_holds_the_memory() -> None:
    made = decide(seen("chat"), ready("complete", pinned=True), wanted="chat")
    assert made.actions == ()
    assert made.waits == {"chat": "6.0 GiB more are needed on 0, which holds complete"}


def test_nobody_goes_in_vain() -> None:
    made = decide(seen("chat", gib=6), ready("complete", 6, pinned=True), ready("small", 1), wanted="chat")
    assert made.actions == ()


def test_one_that_was_just_loaded_stays_for_a_time() -> None:
    made = decide(seen("a"), ready("b", ready_at=HOUR - 10), wanted="a")
    assert made.actions == ()
    assert made.again_s == 20
    assert made.waits == {"a": "b has just been loaded and stays for 20 s more"}
    assert verbs(decide(seen("a"), ready("b", ready_at=HOUR - 10), wanted="a", least=5)) == [("put away", "b")]


def test_a_later_request_does_not_pass_an_earlier_one_on_the_same_device() -> None:
    engines = [seen("big", gib=10), seen("small", gib=1), ready("b", 8, ready_at=HOUR - 1)]
    assert decide(*engines, wanted="big small").waits["small"] == "an earlier request waits for 0"
    assert verbs(decide(*engines, wanted="small big")) == [("bring", "small")]


def test_another_device_is_free_to_go_on() -> None:
    far = seen("far", needs=(("1", 8 * GIB),))
    made = plan([seen("a"), far, ready("b", pinned=True)], ["a", "far"], ROOM | {"1": 8 * GIB}, 30, HOUR)
    assert verbs(made) == [("bring", "far")]


def test_after_its_ttl_an_engine_goes_by_itself_unless_it_is_pinned_or_busy() -> None:
    assert verbs(decide(ready("a", ttl_s=60.0, used=HOUR - 61))) == [("put away", "a")]
    assert decide(ready("a", ttl_s=60.0, used=HOUR - 20)).again_s == 40
    assert verbs(decide(ready("a", ttl_s=60.0, pinned=True))) == []
    assert verbs(decide(ready("a", ttl_s=60.0, in_work=1))) == []


def test_one_that_was_busy_when_its_ttl_passed_is_looked_at_again() -> None:
    assert decide(ready("a", ttl_s=60.0, in_work=1)).again_s == 60


def test_one_that_crashed_makes_way_unless_somebody_waits_for_it() -> None:
    crashed = seen("a", EngineState.BACKOFF, ready_at=HOUR)
    assert verbs(decide(crashed, seen("b"), wanted="b")) == [("put away", "a")]
    assert verbs(decide(crashed, seen("b"), wanted="a b")) == []
    assert verbs(decide(replace(crashed, residence=ready("a", pinned=True).residence), seen("b"), wanted="b")) == []


def test_other_replicas_come_along_where_nobody_has_to_go_for_them() -> None:
    first, second = seen("a-0", gib=4), seen("a-1", gib=4)

    def made(*others: Seen, wanted: str = "a-0") -> list[tuple[str, str]]:
        return verbs(plan([first, second, *others], wanted.split(), ROOM, 30, HOUR, ["a-0", "a-1"]))

    assert made() == [("bring", "a-0"), ("bring", "a-1")]
    assert made(ready("b", 4)) == [("bring", "a-0")]
    assert made(seen("b"), ready("c", 6, pinned=True), wanted="b") == []
    assert made(wanted="") == [("bring", "a-0"), ("bring", "a-1")]


def test_a_device_of_unknown_size_has_room() -> None:
    assert verbs(plan([seen("a"), ready("b")], ["a"], {}, 30, HOUR)) == [("bring", "a")]


BOTH = ROOM | {"cpu": 16 * GIB}


def sleepy(name: str, state: EngineState = EngineState.STOPPED, gib: int = 8, **values: object) -> Seen:
    """Asleep it keeps 1 GiB of its GPU, and 7 GiB of the host."""
    return seen(name, state, gib, sleeps=True, asleep=(("cpu", 7 * GIB), ("0", GIB)), **values)


def both(*engines: Seen, wanted: str = "", host: int = 16) -> Plan:
    return plan(engines, wanted.split(), BOTH | {"cpu": host * GIB}, 30.0, HOUR)


def test_what_sleeps_holds_its_weights_on_the_host_and_a_rest_on_its_gpu() -> None:
    one = sleepy("a").residence
    assert held(EngineState.SLEEPING, one) == {"cpu": 7 * GIB, "0": GIB}
    assert held(EngineState.READY, one) == {"0": 8 * GIB}
    assert held(EngineState.STOPPING, one) == held(EngineState.READY, one, slept=True) == {"cpu": 7 * GIB, "0": 8 * GIB}
    assert held(EngineState.STOPPED, one, slept=True) == {}


def test_one_goes_to_sleep_while_the_host_has_room_for_its_weights_and_ends_when_it_has_not() -> None:
    engines = [sleepy("a", EngineState.READY), sleepy("b"), sleepy("c", EngineState.SLEEPING, gib=9)]
    assert both(*engines, wanted="b").actions == (Action(Verb.PUT_AWAY, "a", "b is wanted and needs its memory"),)
    told = "b is wanted and needs its memory; asleep it would take 7.0 GiB of cpu, and 3.0 are left"
    assert both(*engines, wanted="b", host=10).actions == (Action(Verb.END, "a", told),)


def test_two_that_leave_together_are_not_given_the_same_room_on_the_host() -> None:
    engines = [sleepy("a", EngineState.READY, 4, used=1.0), sleepy("b", EngineState.READY, 4), seen("new", gib=8)]
    assert verbs(both(*engines, wanted="new", host=16)) == [("put away", "b"), ("put away", "a")]
    assert verbs(both(*engines, wanted="new", host=10)) == [("put away", "b"), ("end", "a")]


def test_a_rest_that_is_in_the_way_on_the_gpu_goes_too() -> None:
    asleep = sleepy("old", EngineState.SLEEPING, used=1.0)
    made = both(asleep, sleepy("a", EngineState.READY), seen("new", gib=9), wanted="new")
    assert made.actions == (
        Action(Verb.END, "old", "new is wanted and needs its memory, which it holds asleep"),
        Action(Verb.PUT_AWAY, "a", "new is wanted and needs its memory"),
    )
    (action,) = both(sleepy("a", EngineState.READY), seen("new", gib=10), wanted="new").actions
    assert (action.verb, action.reason.partition("; ")[2]) == (
        Verb.END,
        "asleep it would keep 1.0 GiB of 0, which are needed",
    )


def test_what_sleeps_ends_for_one_that_needs_the_host_and_wakes_in_its_own_room() -> None:
    tiered = seen("new", needs=(("0", 2 * GIB), ("cpu", 12 * GIB)))
    asleep = sleepy("a", EngineState.SLEEPING)
    assert verbs(both(asleep, tiered, ready("p", 6, pinned=True), wanted="new")) == [("end", "a")]
    assert verbs(both(asleep, wanted="a", host=7)) == [("bring", "a")]
    assert both(asleep, tiered, wanted="a new").waits == {"new": "3.0 GiB more are needed on cpu, which holds a"}


def test_two_sleepers_that_requests_wait_for_do_not_block_each_other() -> None:
    one, other = (sleepy(name, EngineState.SLEEPING, gib=10) for name in "ab")
    made = both(one, other, wanted="a b")
    assert (verbs(made), made.waits) == (
        [("end", "b")],
        {"a": "b makes way", "b": "an earlier request waits for 0"},
    )


@pytest.mark.parametrize(("host", "verb"), [(14, "put away"), (13, "end")])
def test_two_that_take_turns_asleep_need_the_host_for_both_and_no_more(host: int, verb: str) -> None:
    made = both(sleepy("a", EngineState.SLEEPING), sleepy("b", EngineState.READY), wanted="a", host=host)
    assert verbs(made) == [(verb, "b")]


def test_one_that_wakes_on_a_free_gpu_does_not_wait_for_the_hosts_memory() -> None:
    asleep = (("cpu", 7 * GIB), ("1", GIB))
    far = seen("c", EngineState.SLEEPING, needs=(("1", 8 * GIB),), sleeps=True, asleep=asleep)
    near = [sleepy("a", EngineState.SLEEPING), sleepy("b", EngineState.READY, ready_at=HOUR - 1.0)]
    made = plan([*near, far], ["a", "c"], BOTH | {"1": 10 * GIB, "cpu": 30 * GIB}, 30.0, HOUR)
    assert verbs(made) == [("bring", "c")]
    assert "just been loaded" in made.waits["a"]


def test_one_that_is_ended_is_not_waited_for_as_a_sleeper() -> None:
    leaving = sleepy("a", EngineState.STOPPING, ends=True)
    assert verbs(both(leaving, sleepy("c", EngineState.SLEEPING, gib=9), seen("new", gib=9), wanted="new")) == []
    assert verbs(both(replace(leaving, ends=False), seen("new", gib=10), wanted="new")) == []


def test_after_its_ttl_it_ends_where_it_cannot_sleep() -> None:
    (action,) = both(sleepy("a", EngineState.READY, ttl_s=60.0), host=5).actions
    assert action.verb is Verb.END
    assert action.reason == "nobody asked for it for 60 s; asleep it would take 7.0 GiB of cpu, and 5.0 are left"


states = st.sampled_from([state for state in EngineState if state is not EngineState.UNREACHABLE])
worlds = st.lists(
    st.builds(
        seen,
        st.sampled_from("abcdefg"),
        states,
        st.integers(0, 10),
        pinned=st.booleans(),
        ttl_s=st.none() | st.floats(0, 100),
        in_work=st.integers(0, 2),
        sleeps=st.just(True),
        asleep=st.sampled_from([(), (("0", GIB),), (("cpu", 6 * GIB),), (("cpu", 6 * GIB), ("0", GIB))]),
        used=st.floats(0, HOUR),
        ready_at=st.floats(0, HOUR),
    ),
    max_size=7,
    unique_by=lambda one: one.name,
)


names = st.lists(st.sampled_from("abcdefg"), unique=True)


@given(worlds, names, names)
def test_memory_is_never_promised_twice_and_no_rule_is_broken(
    engines: list[Seen], wanted: list[str], spare: list[str]
) -> None:
    by_name = {one.name: one for one in engines}
    made = plan(engines, wanted, BOTH, 30.0, HOUR, spare)
    brought = [action.name for action in made.actions if action.verb is Verb.BRING]
    slept = [action.name for action in made.actions if action.verb is Verb.PUT_AWAY]
    for device, room in BOTH.items():
        before = {one.name: held(one.state, one.residence).get(device, 0) for one in engines}
        after = {
            name: max(before[name], dict(by_name[name].residence.needs).get(device, 0))
            if name in brought
            else max(before[name], by_name[name].rest.get(device, 0) * (name in slept))
            for name in before
        }
        if sum(before.values()) <= room:
            assert sum(after.values()) <= room
    for action in made.actions:
        one = by_name[action.name]
        if action.verb is Verb.END and one.state is EngineState.SLEEPING:
            assert not brought or action.name not in brought
        elif action.verb in (Verb.PUT_AWAY, Verb.END):
            assert one.state is EngineState.READY or (one.state is EngineState.BACKOFF and action.name not in wanted)
            assert not one.residence.pinned
        else:
            assert action.name in [*wanted, *spare]
    assert len({action.name for action in made.actions}) == len(made.actions)
    assert not set(made.waits) & set(brought)
