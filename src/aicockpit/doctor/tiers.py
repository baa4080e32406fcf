"""Which tiers for KV are possible here and why, whether there is room for the one that is asked for, and whether its
folder or its server can be used. `recipes/tier.py` decides, `kvdisk` judges folders: as a start does,
but nothing is made.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aicockpit.console import size
from aicockpit.doctor.finding import Finding, Mark
from aicockpit.doctor.lmcache import look
from aicockpit.errors import AicockpitError, SettingError
from aicockpit.hardware import detect, shape
from aicockpit.hardware.machine import Host, Snapshot
from aicockpit.hardware.shape import ShapeUnknown
from aicockpit.kvdisk import shelf
from aicockpit.kvdisk.ledger import Ledger
from aicockpit.models import kv_files, remote
from aicockpit.models.hub import Hub
from aicockpit.models.locate import is_path
from aicockpit.recipes import arrange, filters, lmcache, load, tier
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.fleet import FleetModel
from aicockpit.recipes.schema import Recipe
from aicockpit.settings import Settings
from aicockpit.types import KvTier

_NOMINAL = 16 << 30  # any size: what is possible does not depend on it
_KINDS = (KvTier("cpu", _NOMINAL), KvTier("disk", _NOMINAL), KvTier("lmcache"))


@dataclass(frozen=True, slots=True)
class _Ask:
    """What one model wants, and where it runs."""

    model: FleetModel
    wish: KvTier
    place: tier.Place

    @property
    def on_gpu(self) -> bool:
        return self.place.platform != "cpu"

    def folder(self, settings: Settings) -> Path:
        return self.wish.path or tier.folder(settings)


@dataclass(frozen=True, slots=True)
class _Told:
    """Of one model, or of what several use. `fix`: what to do unless it is ok."""

    found: str
    mark: Mark = "ok"
    fix: str = ""


def findings(settings: Settings, models: Sequence[FleetModel], machine: Snapshot) -> Iterator[Finding]:
    """The row `kv-tier`, and `kv-tier.room` where one is asked for and its room is short."""
    recipes = _recipes(settings) if models else ()
    gpus = bool(detect.usable_gpus(machine, settings.cuda_visible))
    places = [_place(settings, gpus and m.gpus != 0, machine) for m in models]
    wishes = [_wish(m, settings, place, recipes) for m, place in zip(models, places, strict=True)]
    asked = [
        _Ask(m, wish, place)
        for m, wish, place in zip(models, wishes, places, strict=True)
        if isinstance(wish, KvTier) and wish.kind != "none"
    ]
    told = [wish for wish in wishes if isinstance(wish, _Told)]
    if not asked:
        none = [one.found for one in told] or ["none asked for"]
        possible = _possible(settings, _place(settings, gpus, machine))
        yield Finding("kv-tier", "KV tier", "ok", _joined([*none, possible]))
        return
    used: list[_Ask] = []
    memory, shared = 0, 0
    for ask in asked:
        m, wish = ask.model, ask.wish
        found = _decided(ask, settings)
        if isinstance(found, tier.NoTier):
            fix = found.instead or "see docs/kv-tiers.md"
            told.append(_Told(f"{wish} for {m.served}: {found.why}", "bad", fix))
            continue
        told.append(_Told(f"{wish.kind} for {m.served}: {found.reason}"))
        used.append(ask)
        memory, shared = memory + m.replicas * found.memory, shared + m.replicas * found.shared
    told += [*_refused(settings, used), *_server(settings, used, machine)]
    marks = {one.mark for one in told}
    mark: Mark = "bad" if "bad" in marks else "warn" if "warn" in marks else "ok"
    yield Finding("kv-tier", "KV tier", mark, _joined(one.found for one in told), _joined(one.fix for one in told))
    short = [*_memory(machine.host, memory, shared), *_rooms(settings, used)]
    if short:
        lacks, fixes = _joined(lack for lack, _ in short), _joined(fix for _, fix in short)
        yield Finding("kv-tier.room", "KV tier's room", "warn", lacks, fixes)


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(text for text in dict.fromkeys(texts) if text)


def _decided(ask: _Ask, settings: Settings) -> tier.Tier | tier.NoTier:
    """As a start decides it, without the model's own folder."""
    ours = ask.wish.kind == "disk" and not ask.on_gpu
    layers = _layers(ask.model.model, settings) if ours else ()
    return tier.judged(ask.wish, ask.place, tier.folder(settings), _given(ask.model, settings), layers=layers)


def _given(m: FleetModel, settings: Settings) -> tuple[str, ...]:
    """The user's own flags for its engines."""
    return (*settings.engine_args, *m.args)


def _layers(model: str, settings: Settings) -> Collection[str]:
    """Kinds of the model's layers as files on this machine tell them; none where they do not: the start will know."""
    try:
        if is_path(model):
            return shape.local(Path(os.path.expanduser(model))).layer_kinds
        name, _, revision = model.partition("@")
        hub = replace(Hub.of_environment(settings.hf_token), offline=True)
        return remote.look(hub, name, revision, settings.state_dir / "shapes").shape.layer_kinds
    except (AicockpitError, ShapeUnknown, OSError):
        return ()


def _refused(settings: Settings, asked: Sequence[_Ask]) -> Iterator[_Told]:
    """Folders that an engine cannot use, or others can change, each once."""
    seen = set()
    for ask in asked:
        folder = ask.folder(settings)
        if ask.wish.kind == "disk" and (folder, ask.on_gpu) not in seen:
            seen.add((folder, ask.on_gpu))
            yield from _flaw(folder, ask)


def _flaw(folder: Path, ask: _Ask) -> Iterator[_Told]:
    fix = "name a new folder of yours: disk:SIZE:FOLDER"
    there = _nearest(folder)
    if not os.path.isdir(there):
        yield _Told(f"{there} is not a folder", "bad", fix)
        return
    if there == folder:
        try:
            shelf.check_root(str(folder))
            if not ask.on_gpu and os.path.lexists(folder / ".lock"):  # else the check would make it
                Ledger(str(folder), ask.wish.bytes).check()
        except OSError as error:
            # On GPUs a start refuses only what everyone may write in; with the rest it works, for others too.
            yield _Told(str(error), "warn" if ask.on_gpu and not _open_to_all(folder) else "bad", fix)
            return
    if not os.access(there, os.R_OK * (there == folder) | os.W_OK | os.X_OK):
        if not ask.on_gpu and there == folder and shelf.held(str(folder)):
            yield _Told(f"{folder} can be read and not written: nothing new is stored", "warn", fix)
        else:
            yield _Told(f"{folder} cannot be written", "bad", fix)


def _open_to_all(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there, as far as this user can see."""
    return next((one for one in (folder, *folder.parents) if os.path.lexists(one)), Path("/"))


def _server(settings: Settings, asked: Sequence[_Ask], machine: Snapshot) -> Iterator[_Told]:
    """LMCache's, which all engines of this machine use."""
    if not any(ask.wish.kind == "lmcache" for ask in asked):
        return
    memory = machine.host.memory if machine.host else None
    known = [one for one in (memory.total, memory.limit) if one is not None] if memory else []
    there = _nearest(settings.state_dir)
    free = shutil.disk_usage(there).free if os.path.isdir(there) else None
    server = lmcache.server(settings.state_dir / "lmcache", min(known, default=None), free, settings.port)
    fix = f"start lmcache=={lmcache.VERSION} before the engines: {server.command}"
    answer = look(server)
    yield _Told(answer.found, answer.mark, "" if answer.mark == "ok" else fix)


def _recipes(settings: Settings) -> tuple[Recipe, ...]:
    try:
        return load.library(settings.recipes).recipes
    except SettingError:  # the row `model` tells it
        return ()


def _wish(m: FleetModel, settings: Settings, place: tier.Place, recipes: Sequence[Recipe]) -> KvTier | _Told:
    """What a start asks for, with the role and the tier of the recipe that names the model; why it leaves that out."""
    named = Wish(m.model.partition("@")[0], role=m.role or "")
    recipe = next((one for one in recipes if filters.named(named, one) and not filters.of_recipe(named, one)), None)
    role: str = m.role or next(iter(recipe.roles if recipe else ()), "chat")
    theirs = recipe.aicockpit.kv_tier if recipe else None
    wish = arrange.wish(m.kv_tier, role, settings.kv_tier, theirs)
    if theirs is None or wish is not theirs:
        return wish
    found = tier.judged(theirs, place, tier.folder(settings), _given(m, settings))
    if not isinstance(found, tier.NoTier):
        return wish
    return _Told(f"its recipe's {theirs} is left out for {m.served}: {found.why}")


def _place(settings: Settings, on_gpu: bool, machine: Snapshot) -> tier.Place:
    place = tier.place(settings, on_gpu)
    amd = on_gpu and machine.gpus[0].vendor == "amd"
    return replace(place, platform="rocm") if amd else place


def _possible(settings: Settings, place: tier.Place) -> str:
    """`possible on the CPU with vLLM 0.32.0: disk (...); not cpu (...), lmcache (...)`."""
    can, cannot = [], []
    for wish in _KINDS:
        found = tier.decide(wish, place, tier.folder(settings))
        if isinstance(found, tier.NoTier):
            cannot.append(f"{wish.kind} ({found.why})")
        else:
            can.append(f"{wish.kind} ({found.brief})")
    where = {"cpu": "on the CPU", "cuda": "on CUDA", "rocm": "on ROCm"}[place.platform]
    oldest = ".".join(map(str, tier.OLDEST))
    where += f" with vLLM {place.vllm}" if place.vllm else f" if vLLM is {oldest} or newer"
    return f"possible {where}: {', '.join(can) or 'none'}" + f"; not {', '.join(cannot)}" * bool(cannot)


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


def _rooms(settings: Settings, asked: Sequence[_Ask]) -> Iterator[tuple[str, str]]:
    """Engines on GPUs and those on the CPU each keep to the size by their own files; other things in the folder count
    nothing, and stay."""
    grown: dict[Path, tuple[int, int]] = {}
    for on_gpu in (False, True):
        wishes = [ask.wish for ask in asked if ask.on_gpu == on_gpu]
        for folder, room in tier.folders(wishes, settings).items():
            held = _held(folder, on_gpu)
            if held > room:
                fix = "a running server removes what is unused the longest"
                yield f"{folder} holds {size(held)} of {size(room)}", fix
            most, more = grown.get(folder, (0, 0))
            grown[folder] = most + room, more + max(room - held, 0)
    for folder, (most, more) in grown.items():
        there = _nearest(folder)
        if not os.path.isdir(there):
            continue
        free = shutil.disk_usage(there).free
        if free < more:
            other = sum(_sizes(folder)) - sum(_held(folder, on_gpu) for on_gpu in (False, True))
            beside = f"; other things in it take {size(other)}, which stays" if other >= 1 << 20 else ""
            yield f"{folder} may grow to {size(most)}, and {size(free)} are free{beside}", "ask for less in `kv_tier`"


def _held(folder: Path, on_gpu: bool) -> int:
    """Bytes that count and that a server removes where they are too many."""
    if on_gpu:
        # Of an endless size and before all time, so that nothing goes.
        return kv_files.trim(folder, sys.maxsize, -math.inf).held
    return shelf.held(str(folder))


def _sizes(folder: Path) -> Iterator[int]:
    """Files that go while they are looked at count nothing."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(place, name), follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
