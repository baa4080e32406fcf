"""Which engine gets which GPUs, and how much of each. Pure: values in, seats with reasons out, or a refusal.

Called with what fitting says each engine needs at least. Engines whose GPUs were named come first, then those that are
pinned, then those that make way for others; of these first those over several GPUs, and then the order of the file
counts. An engine gets empty GPUs while there are any, several that NVLink joins if it can; then GPUs on which it fits
beside what is there; one that makes way may also take turns with others that do. What the least needs of a GPU leave
goes in equal parts to the engines that generate: their KV cache grows with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.hardware import topology
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.machine import Pair

# Roles that hold no KV cache worth enlarging.
_FLAT = ("embedding", "rerank")
# Of a GPU's memory; the rest is left to the driver and to what engines do not count.
UTILISATION = 0.92


@dataclass(frozen=True, slots=True)
class Tenant:
    """One engine. `least`: bytes that it needs on each of its GPUs, `fixed`: bytes that its user gave it there.

    `gpus`: how many it wants; `ids`: which, if somebody said; `kind`: the name of the card that its flags are for;
    `asleep`: bytes that it keeps on each of them while it sleeps, 0 for one that ends to make way.
    """

    name: str
    gpus: int
    least: int
    ids: tuple[str, ...] = ()
    fixed: int | None = None
    role: str = "chat"
    pinned: bool = True
    kind: str = ""
    asleep: int = 0

    @property
    def need(self) -> int:
        return self.least if self.fixed is None else self.fixed


@dataclass(frozen=True, slots=True)
class Slot:
    """A GPU under the id that the engine's CUDA_VISIBLE_DEVICES will name. `island`: the numbers of the GPUs that reach
    each other by NVLink or xGMI, itself among them; None where nobody knows."""

    id: str
    device: Device
    island: tuple[int, ...] | None = None

    @property
    def busy(self) -> bool:
        """Programs that are not ours hold some of what an engine would take."""
        return self.device.free is not None and self.device.free < int(self.device.memory * UTILISATION)

    @property
    def usable(self) -> int:
        """Bytes for engines."""
        return self.device.free or 0 if self.busy else int(self.device.memory * UTILISATION)


def slots(
    devices: Sequence[Device], pairs: Sequence[Pair] | None, taken: Mapping[str, int] | None = None
) -> list[Slot]:
    """These GPUs. `taken`: bytes by id that engines of ours hold and may give back."""
    numbers = [device.index for device in devices if device.index is not None]
    groups = topology.islands(numbers, pairs) if pairs else ()
    islands = {number: group for group in groups for number in group}
    found = []
    for device in devices:
        # A MIG instance has no number of its own.
        name = device.uuid or "" if device.index is None else str(device.index)
        ours = (taken or {}).get(name, 0)
        free = None if device.free is None else min(device.memory, device.free + ours)
        found.append(Slot(name, replace(device, free=free), islands.get(-1 if device.index is None else device.index)))
    return found


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an engine goes: `share` is bytes on each of its GPUs while it is in memory."""

    tenant: str
    gpus: tuple[str, ...]
    share: int
    why: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Seats in the order of the tenants; with `refused`, nothing may be started."""

    seats: tuple[Seat, ...] = ()
    refused: tuple[str, ...] = ()

    def seat(self, name: str) -> Seat:
        return next(seat for seat in self.seats if seat.tenant == name)


@dataclass(slots=True)
class _Gpu:
    slot: Slot
    stays: list[Tenant] = field(default_factory=list)
    turns: list[Tenant] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return self.slot.usable

    @property
    def empty(self) -> bool:
        return not self.stays and not self.turns

    @property
    def pinned(self) -> int:
        return sum(one.need for one in self.stays)

    @property
    def all(self) -> int:
        return self.pinned + sum(one.need for one in self.turns)

    @property
    def rests(self) -> int:
        """Bytes of those who sleep while others have their turn; 0 where there is no room for them to sleep."""
        rests = sum(_rest(one) for one in self.turns)
        return rests if self.pinned + rests + self.largest(rests) <= self.usable else 0

    def largest(self, rests: int) -> int:
        """What the largest turn takes beyond the rests, of which its own is one."""
        return max((one.need - (_rest(one) if rests else 0) for one in self.turns), default=0)

    @property
    def slack(self) -> int:
        """Bytes beyond the least needs of those who are in memory at once."""
        if self.all <= self.usable:
            return self.usable - self.all
        return self.usable - self.pinned - self.rests - self.largest(self.rests)

    def sleeps_beside(self, one: Tenant) -> bool:
        """Can `one` take turns here, everybody else asleep?"""
        turns = [*self.turns, one]
        rests = sum(map(_rest, turns))
        return self.pinned + rests + max(other.need - _rest(other) for other in turns) <= self.usable

    def describe(self) -> str:
        held = " + ".join(f"{_gib(one.need)} for {one.name}" for one in (*self.stays, *self.turns)) or "nothing"
        return f"GPU {self.slot.id} ({self.slot.device.name}, {_gib(self.usable)} usable) has {held}"


def place(tenants: Sequence[Tenant], slots: Sequence[Slot]) -> Placement:
    """A seat for every tenant, or why not. GPUs that other programs use come last."""
    gpus = {slot.id: _Gpu(slot) for slot in sorted(slots, key=lambda slot: slot.busy)}
    found: dict[str, tuple[tuple[_Gpu, ...], str]] = {}
    refused = []
    for one in sorted(tenants, key=lambda one: (not one.ids, not one.pinned, one.gpus == 1)):
        chosen, why = _seat(one, gpus)
        if not chosen:
            refused.append(f"{one.name}: {why}")
            continue
        found[one.name] = chosen, why
        for gpu in chosen:
            (gpu.stays if one.pinned else gpu.turns).append(one)
    seats = [
        Seat(one.name, tuple(gpu.slot.id for gpu in chosen), _share(one, chosen), why)
        for one in tenants
        if one.name in found
        for chosen, why in [found[one.name]]
    ]
    return Placement(tuple(seats), tuple(refused))


def _seat(one: Tenant, gpus: dict[str, _Gpu]) -> tuple[tuple[_Gpu, ...], str]:
    """The GPUs of one tenant and why these; none and why not."""
    if one.ids:
        return _named(one, gpus)
    kind = [gpu for gpu in gpus.values() if one.kind in ("", gpu.slot.device.name)]
    if one.gpus > len(gpus):
        return (), f"it wants {one.gpus} GPUs, and {len(gpus)} can be used here"
    rules: tuple[tuple[Callable[[_Gpu], bool], str], ...] = (
        (lambda gpu: gpu.empty and one.need <= gpu.usable, "the first that are free"),
        (lambda gpu: gpu.all + one.need <= gpu.usable, "it fits beside what is there"),
        (lambda gpu: not one.pinned and gpu.sleeps_beside(one), "it takes turns with others there"),
        (
            lambda gpu: not one.pinned and gpu.pinned + one.need <= gpu.usable,
            "it takes turns with others there, and what sleeps ends where its rest is in the way",
        ),
    )
    for fits, why in rules:
        if chosen := _alike([gpu for gpu in kind if fits(gpu)], one.gpus):
            return chosen, why + _linked(chosen)
    return (), _refusal(one, list(gpus.values()))


def _named(one: Tenant, gpus: dict[str, _Gpu]) -> tuple[tuple[_Gpu, ...], str]:
    chosen = []
    for id in one.ids:
        gpu = gpus.get(id) or next((gpu for gpu in gpus.values() if gpu.slot.device.uuid == id), None)
        if gpu is None:
            return (), f"there is no GPU {id!r} that can be used; there are {', '.join(gpus) or 'none'}"
        chosen.append(gpu)
    for gpu in chosen:
        if (gpu.pinned if not one.pinned else gpu.all) + one.need > gpu.usable:
            return (), f"it needs {_gib(one.need)} on each GPU; {gpu.describe()}"
    return tuple(chosen), "named by its user" + _linked(chosen).partition(", since")[0]


def _alike(gpus: list[_Gpu], count: int) -> tuple[_Gpu, ...]:
    """`count` GPUs of one kind, the first that there are; engines over unlike cards run at the slowest one's size.

    Several come from one island if they can, the smallest that has enough: a larger one stays whole for others.
    """
    for kind in dict.fromkeys(gpu.slot.device.name for gpu in gpus):
        same = [gpu for gpu in gpus if gpu.slot.device.name == kind]
        if len(same) < count:
            continue
        quiet = [gpu for gpu in same if not gpu.slot.busy]
        same = quiet if len(quiet) >= count else same
        islands = {island: [gpu for gpu in same if gpu.slot.island == island] for island in _islands(same)}
        joined = [together for together in islands.values() if len(together) >= count]
        return tuple(min(joined, key=len)[:count] if joined and count > 1 else same[:count])
    return ()


def _islands(gpus: Sequence[_Gpu]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(gpu.slot.island for gpu in gpus if gpu.slot.island is not None))


def _linked(chosen: Sequence[_Gpu]) -> str:
    """How several GPUs of an engine reach each other, where that is known."""
    if len(chosen) < 2 or any(gpu.slot.island is None for gpu in chosen):
        return ""
    fast = "xGMI" if chosen[0].slot.device.vendor == "amd" else "NVLink"
    if len(_islands(chosen)) == 1:
        return f", joined by {fast}"
    return f", over PCIe, since no {len(chosen)} of those that could be taken are joined by {fast}"


def _refusal(one: Tenant, gpus: list[_Gpu]) -> str:
    told = f"it needs {_gib(one.need)} on {'one GPU' if one.gpus == 1 else f'each of {one.gpus} GPUs'}"
    held = "; ".join(gpu.describe() for gpu in gpus) or "no GPU can be used here"
    others = sorted({other.name for gpu in gpus for other in gpu.stays} - {one.name})
    advice = f". `pin: false` on {' or '.join([one.name, *others][:4])} lets models take turns" if others else ""
    return f"{told}; {held}{advice}"


def _share(one: Tenant, chosen: Sequence[_Gpu]) -> int:
    """The least need, and an equal part of what is left on the GPU that has the least left."""
    if one.fixed is not None:
        return one.fixed
    if one.role in _FLAT:
        return one.least
    parts = []
    for gpu in chosen:
        growing = [tenant for tenant in gpu.stays if _grows(tenant)]
        turning = [tenant for tenant in gpu.turns if _grows(tenant)]
        # Those that take turns share one part: only one of them is in memory at a time.
        count = len(growing) + (len(turning) if gpu.all <= gpu.usable else min(1, len(turning)))
        room = gpu.slack // max(1, count)
        if not one.pinned and gpu.all > gpu.usable:  # its turn may be that of a larger one
            room += gpu.largest(gpu.rests) - (one.need - (_rest(one) if gpu.rests else 0))
        parts.append(room)
    return one.least + min(parts)


def _rest(tenant: Tenant) -> int:
    return min(tenant.asleep, tenant.need)


def _grows(tenant: Tenant) -> bool:
    return tenant.fixed is None and tenant.role not in _FLAT


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
