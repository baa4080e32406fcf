"""More models than memory: which engine makes way, and when. Pure: values in, actions with reasons out.

Rules, in this order. Requests that wait for a model are served in the order in which they began to wait; a later one
never passes an earlier one that needs the same device. Pinned engines never make way. An engine that became ready less
than `min_resident_s` ago stays: two models that are asked for in turn would otherwise swap at each request. Of the
others the one idle for the longest makes way first, and never before its last answer is complete. An engine that
nobody asked for during its `ttl_s` goes by itself. One that sleeps still holds memory, its weights on the host and a
rest on its GPUs; where these are short, what would sleep ends instead, and what sleeps already ends after all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum

from aicockpit.types import EngineState, Residence

# These hold the memory of their device, or are about to.
HOLDING = (EngineState.STARTING, EngineState.READY, EngineState.STOPPING, EngineState.BACKOFF)
CPU = "cpu"  # the host's memory, as a device
_GIB = 1 << 30


class Verb(StrEnum):
    BRING = "bring"
    PUT_AWAY = "put away"  # to sleep, if it can
    END = "end"  # also one that could sleep, or does


@dataclass(frozen=True, slots=True)
class Seen:
    """One engine at this moment. Times are on one monotonic clock, in seconds; `in_work` counts requests.

    `ends`: it is on its way out and will not sleep. `slept`: its process has slept before.
    """

    name: str
    state: EngineState
    residence: Residence
    in_work: int = 0
    used: float = 0.0
    ready_at: float = 0.0
    ends: bool = False
    slept: bool = False

    @property
    def rest(self) -> dict[str, int]:
        """Bytes by device that it holds once it has made way."""
        return {} if self.ends or self.state is EngineState.BACKOFF else dict(self.residence.asleep)


def held(state: EngineState, residence: Residence, *, slept: bool = False) -> dict[str, int]:
    """Bytes by device that an engine holds. PyTorch keeps the pinned memory of a first sleep until the process ends,
    and what goes to sleep holds the memory of both states for a moment."""
    if state is EngineState.SLEEPING:
        return dict(residence.asleep)
    if state not in HOLDING:
        return {}
    both = slept or (state is EngineState.STOPPING and residence.sleeps)
    return _larger(dict(residence.needs), dict(residence.asleep)) if both else dict(residence.needs)


def _larger(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in (*one, *other)}


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
        told = {one.name: held(one.state, one.residence, slept=one.slept) for one in engines}
        self._held = {name: sizes for name, sizes in told.items() if sizes}
        # Devices that an earlier request waits for: a later one may not take what becomes free there.
        self._promised: set[str] = set()
        # What is on its way out, and what it will hold then.
        self._leaving = {one.name: one.rest for one in engines if one.state is EngineState.STOPPING}

    def serve(self, name: str) -> None:
        """Bring an engine, or make room for it, or say why it has to wait."""
        engine = self.engines.get(name)
        if engine is None or engine.state in (EngineState.READY, EngineState.STARTING, EngineState.BACKOFF):
            return
        needs = self._needs(engine)
        if engine.state is EngineState.STOPPING:
            self._wait(engine, needs.keys(), "it is still being put away")
            return
        more = self._more(engine, needs)
        if taken := sorted(self._promised & more):
            self._wait(engine, more, f"an earlier request waits for {', '.join(taken)}")
            return
        short = self._short(engine, needs)
        if not short:
            self._bring(engine, needs, "a request waits for it")
            return
        self._make_room(engine, needs, short)

    def _more(self, engine: Seen, needs: Mapping[str, int]) -> set[str]:
        """Devices of which it needs more than it holds asleep: the others it takes from nobody."""
        mine = self._held.get(engine.name, {})
        return {device for device, size in needs.items() if size > mine.get(device, 0)}

    def _needs(self, engine: Seen) -> dict[str, int]:
        """What it will hold; one that sleeps keeps what it has on the host."""
        asleep = self._held.get(engine.name, {}) if engine.state is EngineState.SLEEPING else {}
        needs = _larger(dict(engine.residence.needs), asleep)
        return {device: size for device, size in needs.items() if device in self.capacity}

    def _bring(self, engine: Seen, needs: Mapping[str, int], reason: str) -> None:
        self._held[engine.name] = dict(needs)
        self.actions.append(Action(Verb.BRING, engine.name, reason))

    def fill(self, name: str) -> None:
        """Bring an engine if there is room that nobody waits for."""
        engine = self.engines.get(name)
        if engine is None or engine.state in HOLDING or engine.state is EngineState.FAILED or name in self._decided:
            return
        needs = self._needs(engine)
        if not self._promised & self._more(engine, needs) and not self._short(engine, needs):
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
                self._put_away(one, f"nobody asked for it for {ttl:g} s", self._sleepless(one, {}))
            else:
                self.again.append(left)

    @property
    def _decided(self) -> set[str]:
        """Engines that something is decided about already."""
        return {action.name for action in self.actions}

    def _make_room(self, engine: Seen, needs: Mapping[str, int], short: Mapping[str, int]) -> None:
        """Choose who makes way; all of them or none, so that nobody goes in vain."""
        missing = dict(short)
        for name, rest in self._leaving.items():  # what is on its way out already counts
            _relieve(missing, self._freed(name, rest))
        ended: list[Seen] = []
        if CPU in missing:  # what has slept for the longest is missed the least
            self._wake_never(engine, missing, ended)
        victims: dict[str, str] = {}
        young: list[Seen] = []
        mine = self._held.get(engine.name, {})
        coming = Counter({device: max(0, size - mine.get(device, 0)) for device, size in needs.items()})
        for one in sorted(self.engines.values(), key=_worth):
            if not missing:
                break
            sizes = self._held.get(one.name, {})
            if one.residence.pinned or one.name in self._leaving or not missing.keys() & sizes.keys():
                continue
            crashed = one.state is EngineState.BACKOFF and one.name not in self.wanted
            if one.state is not EngineState.READY and not crashed:
                continue
            if not crashed and self.now - one.ready_at < self.min_resident_s:
                young.append(one)
                continue
            victims[one.name] = sleepless = self._sleepless(one, coming)
            rest = {} if sleepless else one.rest
            coming.update({device: max(0, size - sizes.get(device, 0)) for device, size in rest.items()})
            _relieve(missing, self._freed(one.name, rest))
        self._wake_never(engine, missing, ended)
        for name, sleepless in victims.items():
            rest = self.engines[name].rest
            if not sleepless and missing.keys() & rest.keys():
                device = next(device for device in missing if device in rest)
                victims[name] = f"asleep it would keep {rest[device] / _GIB:.1f} GiB of {device}, which are needed"
                _relieve(missing, rest)
        if missing:
            self._explain(engine, needs, missing, young)
            return
        told = f"{engine.name} is wanted and needs its memory"
        for one in ended:
            self._leaving[one.name] = {}
            self.actions.append(Action(Verb.END, one.name, f"{told}, which it holds asleep"))
        for name, sleepless in victims.items():
            self._put_away(self.engines[name], told, sleepless)
        self._wait(engine, self._more(engine, needs), f"{', '.join(sorted(self._leaving)) or 'memory'} makes way")

    def _wake_never(self, engine: Seen, missing: dict[str, int], ended: list[Seen]) -> None:
        """Sleepers that have to end after all, those that a request waits for last."""
        asleep = [one for one in self.engines.values() if one.state is EngineState.SLEEPING and one is not engine]
        for one in sorted(asleep, key=lambda one: (one.name in self.wanted, one.used)):
            sizes = self._held.get(one.name, {})
            if missing.keys() & sizes.keys() and one not in ended and one.name not in {*self._leaving, *self._decided}:
                ended.append(one)
                _relieve(missing, sizes)

    def _freed(self, name: str, rest: Mapping[str, int]) -> dict[str, int]:
        return {device: size - rest.get(device, 0) for device, size in self._held.get(name, {}).items()}

    def _sleepless(self, one: Seen, needs: Mapping[str, int]) -> str:
        """Why an engine cannot sleep, "" when it can: what it would hold more than now has to fit."""
        now = self._held.get(one.name, {})
        for device, size in one.rest.items():
            if device not in self.capacity or size <= now.get(device, 0):
                continue
            used = sum(sizes.get(device, 0) for name, sizes in self._held.items() if name != one.name)
            left = self.capacity[device] - used - needs.get(device, 0)
            if size > left:
                return f"asleep it would take {size / _GIB:.1f} GiB of {device}, and {max(0, left) / _GIB:.1f} are left"
        return ""

    def _put_away(self, one: Seen, reason: str, sleepless: str) -> None:
        if sleepless:
            self._leaving[one.name] = {}
            self.actions.append(Action(Verb.END, one.name, f"{reason}; {sleepless}"))
            return
        self._leaving[one.name] = one.rest
        if one.rest:
            self._held[one.name] = _larger(self._held.get(one.name, {}), one.rest)
        self.actions.append(Action(Verb.PUT_AWAY, one.name, reason))

    def _explain(self, engine: Seen, needs: Mapping[str, int], missing: Mapping[str, int], young: list[Seen]) -> None:
        if young:
            left = min(one.ready_at + self.min_resident_s - self.now for one in young)
            self.again.append(max(0.0, left))
            names = ", ".join(one.name for one in young)
            self._wait(
                engine, self._more(engine, needs), f"{names} has just been loaded and stays for {left:.0f} s more"
            )
            return
        device, size = next(iter(missing.items()))
        busy = sorted(name for name, sizes in self._held.items() if device in sizes and name != engine.name)
        self._wait(
            engine,
            self._more(engine, needs),
            f"{size / _GIB:.1f} GiB more are needed on {device}, which holds {', '.join(busy) or 'nothing'}",
        )

    def _wait(self, engine: Seen, devices: Set[str], reason: str) -> None:
        self.waits[engine.name] = reason
        self._promised |= devices

    def _short(self, engine: Seen, needs: Mapping[str, int]) -> dict[str, int]:
        """Bytes that are missing, by device. What it holds asleep becomes part of what it needs."""
        short = {}
        for device, size in needs.items():
            used = sum(sizes.get(device, 0) for name, sizes in self._held.items() if name != engine.name)
            if (lack := used + size - self.capacity[device]) > 0:
                short[device] = lack
        return short


def _worth(one: Seen) -> tuple[bool, bool, float]:
    """Who goes first: what has crashed, then what is idle, then what nobody has used for the longest."""
    return one.state is not EngineState.BACKOFF, one.in_work > 0, max(one.used, one.ready_at)


def _relieve(missing: dict[str, int], freed: Mapping[str, int]) -> None:
    for device, size in freed.items():
        if device in missing:
            missing[device] -= size
            if missing[device] <= 0:
                del missing[device]
