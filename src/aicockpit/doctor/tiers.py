"""Which tiers for KV are possible here and why, and whether there is room for the one that is asked for. It looks at
folders and asks nobody; `recipes/tier.py` decides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aicockpit.console import size
from aicockpit.doctor.finding import Finding, Mark
from aicockpit.hardware.machine import Host, Snapshot
from aicockpit.recipes import tier
from aicockpit.recipes.fleet import ROLES_WITHOUT_KV, FleetModel
from aicockpit.settings import Settings
from aicockpit.types import KvTier

_NOMINAL = 16 << 30  # any size: what is possible does not depend on it
_KINDS = (KvTier("cpu", _NOMINAL), KvTier("disk", _NOMINAL), KvTier("lmcache"))


def findings(settings: Settings, models: Sequence[FleetModel], machine: Snapshot) -> Iterator[Finding]:
    """The row `kv-tier`, and `kv-tier.room` where one is asked for and its room is short."""
    asked = [(m, wish) for m in models if (wish := _wish(m, settings)).kind != "none"]
    here = _place(settings, bool(machine.gpus), machine)
    if not asked:
        yield Finding("kv-tier", "KV tier", "ok", _possible(settings, here))
        return
    told, fixes, memory, shared = [], [], 0, 0
    for m, wish in asked:
        place = _place(settings, m.gpus != 0 and bool(machine.gpus), machine)
        why = tier.conflict(wish, (*settings.engine_args, *m.args))
        found = tier.NoTier(why, "see docs/kv-tiers.md") if why else tier.decide(wish, place, tier.folder(settings))
        if isinstance(found, tier.NoTier):
            told.append(f"{wish} for {m.served}: {found.why}")
            fixes.append(found.instead)
            continue
        told.append(f"{wish.kind} for {m.served}: {found.reason}")
        memory, shared = memory + m.replicas * found.memory, shared + m.replicas * found.shared
    mark: Mark = "bad" if fixes else "ok"
    yield Finding("kv-tier", "KV tier", mark, "; ".join(dict.fromkeys(told)), "; ".join(dict.fromkeys(fixes)))
    short = [*_memory(machine.host, memory, shared), *_folders(settings, [wish for _, wish in asked])]
    if short:
        lacks, fixes = [lack for lack, _ in short], list(dict.fromkeys(fix for _, fix in short))
        yield Finding("kv-tier.room", "KV tier's room", "warn", "; ".join(lacks), "; ".join(fixes))


def _wish(m: FleetModel, settings: Settings) -> KvTier:
    if m.kv_tier is not None:
        return m.kv_tier
    return (None if m.role in ROLES_WITHOUT_KV else settings.kv_tier) or KvTier()


def _place(settings: Settings, on_gpu: bool, machine: Snapshot) -> tier.Place:
    place = tier.place(settings, on_gpu)
    amd = on_gpu and machine.gpus[0].vendor == "amd"
    return replace(place, platform="rocm") if amd else place


def _possible(settings: Settings, place: tier.Place) -> str:
    """`none asked for; possible on the CPU: disk (...); not: cpu (...), lmcache (...)`."""
    can, cannot = [], []
    for wish in _KINDS:
        found = tier.decide(wish, place, tier.folder(settings))
        if isinstance(found, tier.NoTier):
            cannot.append(f"{wish.kind} ({found.why})")
        else:
            can.append(wish.kind)
    where = {"cpu": "on the CPU", "cuda": "on CUDA", "rocm": "on ROCm"}[place.platform]
    return f"none asked for; possible {where}: {', '.join(can) or 'none'}" + (
        f"; not {', '.join(cannot)}" * bool(cannot)
    )


def _memory(host: Host | None, memory: int, shared: int) -> Iterator[tuple[str, str]]:
    """(what lacks, what to do)."""
    if host is None:
        return
    free, shm = host.memory.free, host.kernel.shm_free
    if memory and free is not None and free < memory:
        yield f"{size(memory)} of memory are asked for, {size(free)} are free", "ask for less in `kv_tier`"
    if shared and shm is not None and shm < shared:
        fix = "docker run --shm-size (or mount -o remount,size=... /dev/shm)"
        yield f"vLLM keeps {size(shared)} in /dev/shm, which has {size(shm)}", fix


def _folders(settings: Settings, wishes: Sequence[KvTier]) -> Iterator[tuple[str, str]]:
    for folder, room in tier.folders(wishes, settings).items():
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            yield f"{folder} cannot be written", "name a folder of yours: disk:SIZE:FOLDER"
            continue
        held = sum(_sizes(folder))
        free = shutil.disk_usage(there).free
        if held > room:
            yield (
                f"{folder} holds {size(held)} of {size(room)}",
                "a running server removes what is unused the longest",
            )
        elif free < room - held:
            yield f"{folder} may grow to {size(room)}, and {size(free)} are free", "ask for less in `kv_tier`"


def _sizes(folder: Path) -> Iterator[int]:
    """Files that go while they are looked at count nothing."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
