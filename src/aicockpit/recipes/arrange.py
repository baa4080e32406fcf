"""From what is asked for, and what each model needs, to a plan: which engines, where, and which of them first. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from aicockpit.errors import SettingError
from aicockpit.hardware.device import GIB
from aicockpit.recipes import flags, tier
from aicockpit.recipes.command import EngineShape
from aicockpit.recipes.fleet import ROLES_WITHOUT_KV, Asked, FleetModel
from aicockpit.recipes.place import Placement, Seat, Slot, Tenant, place
from aicockpit.types import Address, KvTier, Residence

CPU = "cpu"
_PART = "--gpu-memory-utilization"
_LONGEST_NAME = 32  # it becomes the name of a socket


@dataclass(frozen=True, slots=True)
class Sized:
    """What one engine of a model needs. `gpus` 0: it runs on the CPU, and `least` is bytes of the host's memory.

    `least`: bytes on each of its GPUs for one request of `window` tokens, its context where it shares a GPU. `model`:
    the repository to serve, where selection chose a variant. `reasons`: why so, for people. `kind`: the name of the
    card that all of it is for, "" for any. `kv_tier`: what its recipe says, where that is possible.
    `host`: bytes of the host's memory that weights of an engine on GPUs take. Asleep, all its weights take
    `asleep_host` bytes more there, and `asleep` bytes stay on each GPU.
    """

    gpus: int = 0
    least: int = 0
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    role: str = "chat"
    model: str = ""
    reasons: tuple[str, ...] = ()
    window: int | None = None
    kind: str = ""
    kv_tier: KvTier | None = None
    host: int = 0
    asleep_host: int = 0
    asleep: int = 0


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model to find the files of, and the engines to build for it. `name` "" is: the model's own."""

    model: str
    name: str
    shapes: tuple[EngineShape, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, what to reach, and aliases (other name -> served name) over all of it.

    `capacity`: bytes by device for all engines there; `first`: engines that are started at once, the others when a
    request asks for them; `reasons`: where each engine is, and why.
    """

    models: tuple[PlannedModel, ...] = ()
    external: tuple[Address, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    capacity: Mapping[str, int] = field(default_factory=dict)
    first: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()

    @property
    def shapes(self) -> tuple[EngineShape, ...]:
        return tuple(shape for model in self.models for shape in model.shapes)


def arrange(
    asked: Asked, sized: Sequence[Sized], slots: Sequence[Slot], cores: Sequence[int], host_memory: int | None
) -> Plan:
    """`sized` goes with `asked.models`; `slots` and `cores` may be used. Raises SettingError with the arithmetic."""
    memory = asked.memory or host_memory
    engines, awake = _rested(_engines(asked, sized, cores), memory)
    placed = place([one.tenant for one in engines if one.tenant.gpus], slots)
    if placed.refused:
        raise SettingError("the models do not fit on the GPUs here:\n  " + "\n  ".join(placed.refused))
    _check_host(engines, memory)
    by_id = {slot.id: slot for slot in slots}
    capacity = {slot.id: slot.usable for slot in slots}
    if memory is not None:
        capacity[CPU] = memory
    made = [_made(one, placed, by_id) for one in engines]
    models = tuple(
        PlannedModel(
            size.model or m.model,
            m.name or (size.model and m.model),
            tuple(shape for one, shape in made if one.model is m),
        )
        for m, size in zip(asked.models, sized, strict=True)
    )
    shapes = [shape for _, shape in made]
    reasons = [_reason(seat, placed, engines, by_id) for seat in placed.seats]
    return Plan(models, asked.external, asked.aliases, capacity, _first(shapes, capacity), (*reasons, *awake))


def _reason(seat: Seat, placed: Placement, engines: Sequence[_Engine], slots: Mapping[str, Slot]) -> str:
    """`coder-0: GPU 0; the first that are free: 39.6 of 43.6 GiB usable, 30.0 at least; there too: embed-0 4.0`."""
    by_name = {one.tenant.name: one for one in engines}
    tenant = by_name[seat.tenant].tenant
    usable = min(slots[gpu].usable for gpu in seat.gpus)
    told = f"{seat.share / GIB:.1f} of {usable / GIB:.1f} GiB usable" + " on each" * (len(seat.gpus) > 1)
    told += ", as its user gave it" if tenant.fixed is not None else f", {tenant.least / GIB:.1f} at least"
    others = [
        f"{other.tenant} {other.share / GIB:.1f}" + " (makes way)" * (not by_name[other.tenant].tenant.pinned)
        for other in placed.seats
        if other is not seat and set(other.gpus) & set(seat.gpus)
    ]
    beside = f"; there too: {', '.join(others)}" if others else ""
    kept = f"; asleep it keeps {tenant.asleep / GIB:.1f}" if tenant.asleep else ""
    return f"{seat.tenant}: GPU {', '.join(seat.gpus)}; {seat.why}: {told}{beside}{kept}"


@dataclass(frozen=True, slots=True)
class _Engine:
    model: FleetModel
    size: Sized
    tenant: Tenant
    aliases: tuple[str, ...]
    cpus: str
    kv_tier: KvTier
    sleeps: bool = False

    @property
    def host(self) -> int:
        """Bytes of the host's memory."""
        on_gpu = bool(self.tenant.gpus)
        return tier.memory(self.kv_tier, on_gpu) + (self.size.host if on_gpu else self.tenant.need)

    @property
    def host_asleep(self) -> int:
        """The same while it sleeps: its process lives, and so does its KV tier."""
        return self.host + self.size.asleep_host


def _engines(asked: Asked, sized: Sequence[Sized], cores: Sequence[int]) -> list[_Engine]:
    models = asked.models
    on_cpu = sum(m.replicas for m, size in zip(models, sized, strict=True) if not size.gpus)
    cpus = share(cores, on_cpu) if on_cpu > 1 else [""]
    taken: set[str] = set()
    found = []
    for m, size, aliases in zip(models, sized, _aliases(models), strict=True):
        ids = m.gpus if isinstance(m.gpus, tuple) else ()
        for number in range(m.replicas):
            mine = ids[number * size.gpus : (number + 1) * size.gpus]
            tenant = Tenant(
                _engine_name(m, taken), size.gpus, size.least, mine, m.memory, m.role or size.role, m.pinned, size.kind
            )
            kept = wish(m.kv_tier, tenant.role, asked.kv_tier, size.kv_tier)
            found.append(_Engine(m, size, tenant, aliases, "" if size.gpus else cpus.pop(0), kept, m.sleep))
    return found


def _rested(engines: Sequence[_Engine], memory: int | None) -> tuple[list[_Engine], list[str]]:
    """Who may sleep, with what it keeps on its GPUs; and why not, where the host has too little for its weights beside
    what is always there."""
    pinned = sum(one.host for one in engines if one.tenant.pinned)
    found, told = [], []
    for one in engines:
        if one.sleeps and memory is not None and pinned + one.host_asleep > memory:
            told.append(
                f"{one.tenant.name}: it ends instead of sleeping, since asleep it would take "
                f"{one.host_asleep / GIB:.1f} GiB of the host's memory, and {max(0, memory - pinned) / GIB:.1f} GiB "
                "may be used for that"
            )
            one = replace(one, sleeps=False)
        if one.sleeps:
            one = replace(one, tenant=replace(one.tenant, asleep=one.size.asleep))
        found.append(one)
    return found, told


def wish(own: KvTier | None, role: str, general: KvTier | None, recipes: KvTier | None) -> KvTier:
    """The tier that counts: the model's `own`, the setting's (`general`), the recipe's. What keeps nothing between
    requests gets one only by name. `doctor` and `recipes explain` ask it too."""
    told = (own, *(() if role in ROLES_WITHOUT_KV else (general, recipes)))
    return next((one for one in told if one is not None), KvTier())


def _made(one: _Engine, placed: Placement, slots: Mapping[str, Slot]) -> tuple[_Engine, EngineShape]:
    m, tenant = one.model, one.tenant
    extra: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    needs: tuple[tuple[str, int], ...] = ((CPU, one.host),)
    if tenant.gpus:
        seat = placed.seat(tenant.name)
        gpus, needs = seat.gpus, tuple((gpu, seat.share) for gpu in seat.gpus)
        needs += ((CPU, one.host),) if one.host else ()
        alone = all(sum(gpu in other.gpus for other in placed.seats) == 1 for gpu in gpus)
        busy = any(slots[gpu].busy for gpu in gpus) and flags.value(one.size.flags, _PART) is None
        if m.memory is not None or not alone or busy:
            part = (_PART, f"{min(_thousandths(tenant, seat.share, slots[gpu]) for gpu in gpus) / 1000:.3f}")
            if flags.value(m.args, _PART) is not None:
                raise SettingError(
                    f"{m.model}: on a GPU that engines share, and beside `memory`, {_PART} in `args` has no place. "
                    "Say with `memory` how much each of its GPUs gives it."
                )
            if one.size.window is not None:
                extra = ("--max-model-len", str(one.size.window))
    asleep = ((CPU, one.host_asleep), *((gpu, one.tenant.asleep) for gpu in gpus)) if one.sleeps else ()
    residence = Residence(m.pinned, m.ttl, needs, one.sleeps, tuple(pair for pair in asleep if pair[1]))
    shape = EngineShape(
        tenant.name,
        one.aliases,
        gpus,
        one.cpus,
        m.args,
        tuple((dict(one.size.env) | m.env).items()),
        flags.merge(one.size.flags, extra),
        residence,
    )
    adapters = None if m.lora is None else tuple(m.lora.items())
    # A recipe's role is the first of several: only one that generates nothing says what it is not for.
    role = m.role or (tenant.role if tenant.role in ROLES_WITHOUT_KV else "")
    shape = replace(shape, context=m.context, part=part, kv_tier=one.kv_tier, sleep=m.sleep, role=role)
    return one, replace(shape, lora=adapters)


def _thousandths(tenant: Tenant, share: int, slot: Slot) -> int:
    """Of the GPU's memory: rounded down, but never below what it needs at least."""
    told = share * 1000 // slot.device.memory
    return told if tenant.fixed is not None else max(told, -(-tenant.least * 1000 // slot.device.memory))


def _check_host(engines: Sequence[_Engine], memory: int | None) -> None:
    """Pinned engines on the CPU and KV tiers of pinned ones on GPUs must fit together, each other one beside them."""
    here = [one for one in engines if one.host]
    pinned = [one for one in here if one.tenant.pinned]
    together = sum(one.host for one in pinned)
    for turn in (None, *(one for one in here if not one.tenant.pinned)):
        need = together + (turn.host if turn else 0)
        if memory is not None and need > memory:
            who = [*pinned, *([turn] if turn else [])]
            terms = " + ".join(f"{one.host / GIB:.1f} GiB for {_called(one)}" for one in who)
            tiers = any(one.tenant.gpus and one.host > one.size.host for one in who)
            moved = any(one.size.host for one in who)
            kinds = f"models {'and KV tiers ' * tiers}{'and weights of GPUs ' * moved}"
            less = "make `kv_tier` smaller, " * tiers + "lower --cpu-offload-gb, " * moved
            raise SettingError(
                f"the {kinds}on the CPU do not fit: {terms} = {need / GIB:.1f} GiB, and {memory / GIB:.1f} GiB may be "
                f"used. Serve fewer of them, {less}set `pin: false` so that they take turns, or raise `memory` in the "
                "fleet file if the estimate is wrong."
            )


def _called(one: _Engine) -> str:
    if not one.tenant.gpus:
        return one.tenant.name
    parts = ["the kv_tier"] * (one.host > one.size.host) + ["weights"] * bool(one.size.host)
    return f"{' and '.join(parts)} of {one.tenant.name}"


def _first(shapes: Sequence[EngineShape], capacity: Mapping[str, int]) -> frozenset[str]:
    """Pinned engines, and of the others as many as fit beside them, in the order of the file."""
    free = dict(capacity)
    started = []
    for shape in sorted(shapes, key=lambda shape: not shape.residence.pinned):
        needs = shape.residence.needs
        if shape.residence.pinned or all(size <= free.get(device, size) for device, size in needs):
            started.append(shape.name)
            for device, size in needs:
                free[device] = free.get(device, size) - size
    return frozenset(started)


def _aliases(models: Sequence[FleetModel]) -> list[tuple[str, ...]]:
    """Each model's aliases, with the part of its name after the slash where no other model has that name."""
    short = [m.served.partition("@")[0].rstrip("/").rpartition("/")[2] for m in models]
    counts = Counter([*short, *(alias for m in models for alias in m.aliases)])
    return [(*((base,) if counts[base] == 1 else ()), *m.aliases) for m, base in zip(models, short, strict=True)]


def share(cores: Sequence[int], parts: int) -> list[str]:
    """Cores for each of `parts` engines, as lists like `0,1`; engines share a core when there are too few."""
    if parts > len(cores):
        return [str(cores[i % len(cores)]) if cores else "" for i in range(parts)]
    bounds = [i * len(cores) // parts for i in range(parts + 1)]
    return [",".join(str(core) for core in cores[start:end]) for start, end in pairwise(bounds)]


def _engine_name(model: FleetModel, taken: set[str]) -> str:
    """A short name for logs and the socket: `smollm2-135m-instruct-0`."""
    last = model.served.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    stem = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:_LONGEST_NAME] or "engine"
    number = 0
    while (name := f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    return name
