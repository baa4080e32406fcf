"""More models than memory: which engine makes way, and when. Pure: values in, actions with reasons out.

Rules, in this order. Requests that wait for a model are served in the order in which they began to wait; a later one
never passes an earlier one that needs the same device. Pinned engines never make way. An engine that became ready less
than `min_resident_s` ago stays: two models that are asked for in turn would otherwise swap at each request. Of the
others the one idle for the longest makes way first, and never before its last answer is complete. An engine that
nobody asked for during its `ttl_s` goes by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aicockpit.types import EngineState, Residence

# These hold the memory of their device, or are about to.
HOLDING = (EngineState.STARTING, EngineState.READY, EngineState.STOPPING, EngineState.BACKOFF)
_GIB = 1 << 30


class Verb(StrEnum):
    BRING = "bring"
    PUT_AWAY = "put away"


@dataclass(frozen=True, slots=True)
class Seen:
    """One engine at this moment. Times are on one monotonic clock, in seconds; `in_work` counts requests."""

    name: str
    state: EngineState
    residence: Residence
    in_work: int = 0
    used: float = 0.0
    ready_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Action:
    verb: Verb
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now; `waits`: why an engine that is wanted is not brought yet; look again after `again_s` seconds."""

    actions: tuple[Action, ...] = ()
    waits: Mapping[str, str] = field(default_factory=dict)
    again_s: float | None = None


def plan(
    engines: Sequence[Seen],
    wanted: Sequence[str],
    capacity: Mapping[str, int],
    min_resident_s: float,
    now: float,
    spare: Sequence[str] = (),
) -> Plan:
    """`wanted`: engines that requests wait for, the longest first; `capacity`: bytes by device for all of them.

    `spare`: brought only if nobody has to go for them: the other replicas of a model that is wanted. A device that
    `capacity` does not name has room for everything.
    """
    desk = _Desk(engines, wanted, capacity, min_resident_s, now)
    for name in wanted:
        desk.serve(name)
    for name in spare:
        desk.fill(name)
    desk.retire(wanted)
    return Plan(tuple(desk.actions), desk.waits, min(desk.again, default=None))


class _Desk:
    """The state of one decision."""

    def __init__(
        self,
        engines: Sequence[Seen],
        wanted: Sequence[str],
        capacity: Mapping[str, int],
        min_resident_s: float,
        now: float,
    ) -> None:
        self.engines, self.wanted = {one.name: one for one in engines}, wanted
        self.capacity, self.min_resident_s, self.now = capacity, min_resident_s, now
        self.actions: list[Action] = []
        self.waits: dict[str, str] = {}
        self.again: list[float] = []
        self._held = {one.name: dict(one.residence.needs) for one in engines if one.state in HOLDING}
        # Devices that an earlier request waits for: a later one may not take what becomes free there.
        self._promised: set[str] = set()
        self._leaving = {one.name for one in engines if one.state is EngineState.STOPPING}

    def serve(self, name: str) -> None:
        """Bring an engine, or make room for it, or say why it has to wait."""
        engine = self.engines.get(name)
        if engine is None or engine.state in (EngineState.READY, EngineState.STARTING, EngineState.BACKOFF):
            return
        needs = self._needs(engine)
        if engine.state is EngineState.STOPPING:
            self._wait(engine, needs, "it is still being put away")
            return
        if taken := sorted(self._promised & needs.keys()):
            self._wait(engine, needs, f"an earlier request waits for {', '.join(taken)}")
            return
        short = self._short(needs)
        if not short:
            self._bring(engine, needs, "a request waits for it")
            return
        self._make_room(engine, needs, short)

    def _needs(self, engine: Seen) -> dict[str, int]:
        return {device: size for device, size in engine.residence.needs if device in self.capacity}

    def _bring(self, engine: Seen, needs: Mapping[str, int], reason: str) -> None:
        self._held[engine.name] = dict(needs)
        self.actions.append(Action(Verb.BRING, engine.name, reason))

    def fill(self, name: str) -> None:
        """Bring an engine if there is room that nobody waits for."""
        engine = self.engines.get(name)
        if engine is None or engine.state in HOLDING or engine.state is EngineState.FAILED or name in self._held:
            return
        needs = self._needs(engine)
        if not self._promised & needs.keys() and not self._short(needs):
            self._bring(engine, needs, "there is room for it")

    def retire(self, wanted: Sequence[str]) -> None:
        """Engines that nobody asked for in a while."""
        gone = {action.name for action in self.actions}
        for one in self.engines.values():
            ttl = one.residence.ttl_s
            if ttl is None or one.residence.pinned or one.state is not EngineState.READY:
                continue
            if one.name in gone or one.name in wanted:
                continue
            left = ttl if one.in_work else max(one.used, one.ready_at) + ttl - self.now
            if left <= 0:
                self.actions.append(Action(Verb.PUT_AWAY, one.name, f"nobody asked for it for {ttl:g} s"))
            else:
                self.again.append(left)

    def _make_room(self, engine: Seen, needs: Mapping[str, int], short: Mapping[str, int]) -> None:
        """Choose who makes way; all of them or none, so that nobody goes in vain."""
        missing = dict(short)
        for name in self._leaving:  # what is on its way out already counts
            _relieve(missing, self._held.get(name, {}))
        victims: list[Seen] = []
        young: list[Seen] = []
        for one in sorted(self.engines.values(), key=_worth):
            if not missing:
                break
            held = self._held.get(one.name, {})
            if one.residence.pinned or one.name in self._leaving or not missing.keys() & held.keys():
                continue
            crashed = one.state is EngineState.BACKOFF and one.name not in self.wanted
            if one.state is not EngineState.READY and not crashed:
                continue
            if not crashed and self.now - one.ready_at < self.min_resident_s:
                young.append(one)
                continue
            victims.append(one)
            _relieve(missing, held)
        if missing:
            self._explain(engine, needs, missing, young)
            return
        for one in victims:
            self._leaving.add(one.name)
            told = f"{engine.name} is wanted and needs its memory"
            self.actions.append(Action(Verb.PUT_AWAY, one.name, told))
        self._wait(engine, needs, f"{', '.join(sorted(self._leaving)) or 'memory'} makes way")

    def _explain(self, engine: Seen, needs: Mapping[str, int], missing: Mapping[str, int], young: list[Seen]) -> None:
        if young:
            left = min(one.ready_at + self.min_resident_s - self.now for one in young)
            self.again.append(max(0.0, left))
            names = ", ".join(one.name for one in young)
            self._wait(engine, needs, f"{names} has just been loaded and stays for {left:.0f} s more")
            return
        device, size = next(iter(missing.items()))
        busy = sorted(name for name, held in self._held.items() if device in held)
        self._wait(
            engine,
            needs,
            f"{size / _GIB:.1f} GiB more are needed on {device}, which holds {', '.join(busy) or 'nothing'}",
        )

    def _wait(self, engine: Seen, needs: Mapping[str, int], reason: str) -> None:
        self.waits[engine.name] = reason
        self._promised |= needs.keys()

    def _short(self, needs: Mapping[str, int]) -> dict[str, int]:
        """Bytes that are missing, by device."""
        short = {}
        for device, size in needs.items():
            used = sum(held.get(device, 0) for held in self._held.values())
            if (lack := used + size - self.capacity[device]) > 0:
                short[device] = lack
        return short


def _worth(one: Seen) -> tuple[bool, bool, float]:
    """Who goes first: what has crashed, then what is idle, then what nobody has used for the longest."""
    return one.state is not EngineState.BACKOFF, one.in_work > 0, max(one.used, one.ready_at)


def _relieve(missing: dict[str, int], held: Mapping[str, int]) -> None:
    for device, size in held.items():
        if device in missing:
            missing[device] -= size
            if missing[device] <= 0:
                del missing[device]
