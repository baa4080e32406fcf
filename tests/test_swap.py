"""Who makes way for whom, decided over values."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.swap import HOLDING, Action, Plan, Seen, Verb, plan
from aicockpit.types import EngineState, Residence

GIB = 1 << 30
ROOM = {"0": 10 * GIB}
HOUR = 3600.0


def seen(name: str, state: EngineState = EngineState.STOPPED, gib: int = 8, **values: object) -> Seen:
    known = {"pinned": False, "needs": (("0", gib * GIB),)}
    home = {key: values.pop(key) for key in ("pinned", "ttl_s", "needs", "sleeps") if key in values}
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
    made = plan(engines, wanted, ROOM, 30.0, HOUR, spare)
    held = sum(one.residence.needs[0][1] for one in engines if one.state in HOLDING)
    brought = [action.name for action in made.actions if action.verb is Verb.BRING]
    if brought and held <= ROOM["0"]:
        assert held + sum(by_name[name].residence.needs[0][1] for name in brought) <= ROOM["0"]
    for action in made.actions:
        one = by_name[action.name]
        if action.verb is Verb.PUT_AWAY:
            assert one.state is EngineState.READY or (one.state is EngineState.BACKOFF and action.name not in wanted)
            assert not one.residence.pinned
        else:
            assert action.name in [*wanted, *spare]
    assert len({action.name for action in made.actions}) == len(made.actions)
    assert not set(made.waits) & set(brought)
