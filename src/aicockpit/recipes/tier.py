"""Where KV that leaves an engine's cache goes: from the wish (`KvTier`) and the platform to vLLM's flags, or why not.

Pure but for reading a model's files and, for files on GPUs, what they rest on (`kv_basis.py`). `command.py` builds with
it, `doctor` explains with it.
The JSON is that of vLLM 0.32 (`v1/kv_offload/tiering/spec.py`, `distributed/kv_transfer/`); `tests/test_tier.py` builds
vLLM's own config classes from it. docs/kv-tiers.md tells which one to choose.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import aicockpit
from aicockpit.errors import SettingError
from aicockpit.hardware import detect
from aicockpit.hardware.device import GIB
from aicockpit.kvdisk.keys import weights_stamp
from aicockpit.recipes import flags, kv_basis, lmcache
from aicockpit.settings import Settings
from aicockpit.types import KvTier

log = logging.getLogger(__name__)

Platform = Literal["cpu", "cuda", "rocm"]

# LMCache's multi-process connector was read at this version; others change keys without notice.
LMCACHE, LMCACHE_PORT = lmcache.VERSION, lmcache.PORT
OLDEST = (0, 32)  # vLLM whose tiers these flags are for
BUFFER = 8 * GIB  # of host memory in front of the files on GPUs: a request of 32,768 tokens of a 32B model
WRITING = GIB // 4  # of memory on the CPU: blocks that wait to be written
# With a connector vLLM keeps one core more from computing, for a network transfer that is not ours.
_CORES = ("VLLM_CPU_NUM_OF_RESERVED_CPU", "1")
_FLAG = "--kv-transfer-config"
_OWN = (_FLAG, "--kv-offloading-size", "--kv-offloading-backend")
_CONNECTOR = ("DiskPrefixConnector", "aicockpit.kvdisk.connector")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LENGTH = "--max-model-len"
_CARDS_S = 5.0  # a driver that hangs was waited for when the engines were placed
# Flags that change no number in the cache: whoever turns one finds the files again.
_HARMLESS = frozenset(
    {
        *("--max-num-seqs", "--max-num-batched-tokens", "--gpu-memory-utilization", "--seed"),
        *("--kv-cache-memory-bytes", "--num-gpu-blocks-override", "--enable-auto-tool-choice", "--tool-call-parser"),
        *("--reasoning-parser", "--chat-template", "--generation-config", "--enable-sleep-mode", "--disable-log-stats"),
        *("--kv-events-config", "--max-num-queued-reqs", "--max-num-queued-tokens", "--enforce-eager"),
        *("--no-enable-log-requests", "--enable-log-requests", "--enable-prompt-tokens-details", "--uds"),
        *("--shutdown-timeout", "--scheduling-policy", "--served-model-name", "--lora-modules"),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs. `vllm`, `lmcache`: versions there, "" when not installed, None when nobody knows (a
    command of the user's that does not tell). `beside`: the engine's Python is ours, so it finds our package itself."""

    platform: Platform
    vllm: str | None = None
    lmcache: str | None = None
    beside: bool = True


@dataclass(frozen=True, slots=True)
class Tier:
    """What makes the wish come true. `memory`: bytes of the host that the engine takes for it, `shared`: of them in
    /dev/shm. `ours`: the engine imports our package; `files`: where vLLM itself keeps them; `env`: what it needs unless
    the user set it. `reason`, `notes`: for people; `brief`: the reason without sizes and folders."""

    reason: str
    flags: tuple[str, ...] = ()
    memory: int = 0
    shared: int = 0
    ours: bool = False
    files: Path | None = None
    notes: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    brief: str = ""


@dataclass(frozen=True, slots=True)
class NoTier:
    """Why the wish cannot come true there, and what to ask for instead, "" where `why` says that too."""

    why: str
    instead: str = ""

    @property
    def told(self) -> str:
        """Both, up to the full stop."""
        return f"{self.why}. Instead, {self.instead}." if self.instead else f"{self.why}."


_UNTOLD = NoTier(
    "which vLLM AICOCKPIT_VLLM_COMMAND starts cannot be told from its first word, and the files of one version are not "
    "another's",
    "name the `vllm` or the Python of its own environment by its path, or say cpu:SIZE",
)


def decide(wish: KvTier, place: Place, folder: Path, mark: str = "") -> Tier | NoTier:
    """`folder` is for a wish that names none; `mark` tells models apart whose files vLLM itself would mix up."""
    if wish.kind == "none":
        return Tier("none: what leaves the cache is computed again")
    if old := _too_old(place):
        return old
    if place.platform == "cpu":
        return _on_cpu(wish, place, folder)
    notes = () if place.vllm else (f"which vLLM this is cannot be told: it must be {_dotted(OLDEST)} or newer",)
    if wish.kind == "cpu":
        return _in_memory(wish, place, notes)
    if wish.kind == "disk":
        if place.vllm is None:
            return _UNTOLD
        return _on_disk(wish, (wish.path or folder) / mark if mark else wish.path or folder, notes)
    return _lmcache(place, folder, notes)


def _too_old(place: Place) -> NoTier | None:
    told = re.match(r"(\d+)\.(\d+)", place.vllm or "")
    if told is None or (int(told[1]), int(told[2])) >= OLDEST:
        return None
    return NoTier(
        f"vLLM {place.vllm} is older than {_dotted(OLDEST)}, whose tiers these are",
        "update vLLM, or leave `kv_tier` out",
    )


def _on_cpu(wish: KvTier, place: Place, folder: Path) -> Tier | NoTier:
    if wish.kind == "cpu":
        return NoTier(
            "vLLM offloads to memory from GPUs only; on the CPU the cache is in memory already",
            "give it more with --kv-cache-memory-bytes, or say disk:SIZE",
        )
    if wish.kind == "lmcache":
        return NoTier("LMCache has no connector for vLLM's CPU build", "say disk:SIZE")
    name, module = _CONNECTOR
    extra = {"folder": str(wish.path or folder), "bytes": wish.bytes, "buffer_bytes": WRITING}
    config = _transfer(name, extra, module)
    reason = f"AiCockpit's own connector keeps blocks in {wish.path or folder}: vLLM's file tier refuses the CPU"
    told = "the vLLM is a command of yours: a start gives its Python our package by PYTHONPATH"
    notes = () if place.beside else (told,)
    brief = "AiCockpit's own connector, as vLLM's file tier refuses the CPU"
    return Tier(reason, (_FLAG, config), WRITING, ours=True, notes=notes, env=(_CORES,), brief=brief)


def _in_memory(wish: KvTier, place: Place, notes: tuple[str, ...]) -> Tier:
    """vLLM keeps it in /dev/shm on CUDA, in pinned memory of the workers on ROCm (`kv_offload/cpu/spec.py`)."""
    return Tier(
        f"vLLM's own tier of {wish.bytes / GIB:.1f} GiB of the host's memory; it ends with the engine",
        ("--kv-offloading-size", f"{wish.bytes / GIB:.6g}", "--kv-offloading-backend", "native"),
        wish.bytes,
        wish.bytes if place.platform == "cuda" else 0,
        notes=notes,
        brief="vLLM's own tier, gone when the engine ends",
    )


def _on_disk(wish: KvTier, folder: Path, notes: tuple[str, ...]) -> Tier:
    buffer = min(BUFFER, wish.bytes)
    extra = {
        "spec_name": "TieringOffloadingSpec",
        "cpu_bytes_to_use": buffer,
        "secondary_tiers": [{"type": "fs", "root_dir": str(folder)}],
    }
    return Tier(
        f"vLLM's own file tier in {folder}, behind {buffer / GIB:.1f} GiB of the host's memory",
        (_FLAG, _transfer("OffloadingConnector", extra)),
        buffer,
        buffer,
        files=folder,
        notes=notes,
        brief="vLLM's own file tier, which outlives the engine",
    )


def _lmcache(place: Place, folder: Path, notes: tuple[str, ...]) -> Tier | NoTier:
    if place.platform == "rocm":
        return NoTier("LMCache's packages are for CUDA", "say cpu:SIZE or disk:SIZE")
    if place.lmcache is not None and place.lmcache != LMCACHE:
        found = f"LMCache {place.lmcache} is installed" if place.lmcache else "LMCache is not installed"
        return NoTier(
            f"{found}, and this connects to {LMCACHE}",
            f"install lmcache=={LMCACHE} beside vLLM, or say cpu:SIZE or disk:SIZE",
        )
    command = lmcache.Server(None, None, folder.parent / "lmcache").command
    extra = {"lmcache.mp.host": "tcp://localhost", "lmcache.mp.port": LMCACHE_PORT}
    return Tier(
        f"LMCache's server on port {LMCACHE_PORT}, which is yours to start",
        (_FLAG, _transfer("LMCacheMPConnector", extra)),
        notes=(*notes, f"an engine does not start without it (`aicockpit doctor` puts sizes for GIB): {command}"),
        brief="by its own server, which is yours to start",
    )


def _transfer(connector: str, extra: dict[str, Any], module: str = "") -> str:
    """A block that cannot be loaded is computed; vLLM's default fails the request."""
    outside = {"kv_connector_module_path": module} if module else {}
    return json.dumps(
        {
            "kv_connector": connector,
            **outside,
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": extra,
        }
    )


def conflict(wish: KvTier, given: Sequence[str]) -> str:
    """Why the user's flags and the tier cannot both hold, or ""."""
    if wish.kind == "none":
        return ""
    for flag in _OWN:
        if flags.value(given, flag) is not None:
            return f"{flag} among the engine's flags says it another way: leave out one of the two"
    hashing = flags.value(given, "--prefix-caching-hash-algo") or ""
    if wish.kind == "disk" and hashing.startswith("xxhash"):
        return f"--prefix-caching-hash-algo {hashing} names blocks anew at each start: leave it out"
    return ""


def judged(
    wish: KvTier, place: Place, folder: Path, given: Sequence[str], mark: str = "", layers: Collection[str] = ()
) -> Tier | NoTier:
    """`decide` for an engine with the flags `given`, whose model has such `layers` (`ModelShape.layer_kinds`)."""
    if why := conflict(wish, given):
        return NoTier(why)
    if place.platform == "cpu" and wish.kind == "disk" and "linear" in layers:
        why = "vLLM does not start a model with linear attention and a connector like ours"
        return NoTier(why, "say kv_tier: none for this model")
    found = decide(wish, place, folder, mark)
    alone = flags.value(given, "--tensor-parallel-size") in (None, "1")
    return found if alone or isinstance(found, NoTier) else replace(found, env=())


def wanted(
    name: str, wish: KvTier, place: Place, folder: Path, given: Sequence[str], mark: str, layers: Collection[str] = ()
) -> Tier:
    """The tier of the engine `name`. Raises SettingError when the wish cannot come true there."""
    found = judged(wish, place, folder, given, mark, layers)
    if isinstance(found, NoTier):
        raise SettingError(f"{name}: kv_tier {wish} cannot be had: {found.told}")
    return found


def memory(wish: KvTier, on_gpu: bool) -> int:
    """Bytes of the host that one engine takes for its tier."""
    if not on_gpu:
        return WRITING if wish.kind == "disk" else 0
    if wish.kind not in ("cpu", "disk"):
        return 0
    return wish.bytes if wish.kind == "cpu" else min(BUFFER, wish.bytes)


def mark(
    model: Path, vllm: str | None, given: Sequence[str], env: Sequence[tuple[str, str]], gpus: Sequence[str] = ()
) -> str:
    """A folder's name for all that makes KV differ and that vLLM's file names do not tell: the weights, vLLM's version,
    the cards (by which it orders the bytes), flags (RoPE, quantisation, backend) and variables. vLLM's own part has
    dtype, parallelism, block size. `gpus`: ids of the engine's cards; none stand for all of the machine.

    A snapshot of the Hugging Face cache is known by its commit, so that machines share; another folder by its files.
    Raises SettingError when it cannot be told for which of several kinds of cards it is.
    """
    commit = model.name if _COMMIT.fullmatch(model.name) else ""
    skipped = _HARMLESS if kv_basis.length(model, given) else {*_HARMLESS, _LENGTH}
    named = dict(env).get("CUDA_VISIBLE_DEVICES")
    ids = tuple(part.strip() for part in named.split(",")) if named else tuple(gpus)
    cards, known = kv_basis.cards(ids, detect.snapshot(_CARDS_S))
    if not known:
        log.warning(
            "%s: what its GPU is cannot be read, so the KV on disk is not found after the next boot", model.name
        )
    told = [commit or weights_stamp(str(model), None) or f"unread {model}", vllm or "", cards]
    told += [" ".join(words) for flag, words in flags.split(given) if flag not in skipped]
    told += kv_basis.variables(env)
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]


def place(settings: Settings, on_gpu: bool) -> Place:
    """Where an engine of these settings runs. Which GPUs vLLM is built for stands in its version: `0.32.0+rocm700`."""
    own = bool(settings.vllm_command)
    version = kv_basis.version_of(settings.vllm_command) if own else _installed("vllm") or _installed("vllm-cpu")
    platform: Platform = "cpu" if not on_gpu else "rocm" if "rocm" in (version or "") else "cuda"
    return Place(platform, version, None if own else _installed("lmcache"), not own)


def folder(settings: Settings) -> Path:
    """For a wish that names none."""
    return settings.state_dir / "kv"


def folders(wishes: Iterable[KvTier], settings: Settings) -> dict[Path, int]:
    """Folders of disk tiers, and the bytes that each may hold: the most that anyone who shares it asks for."""
    found: dict[Path, int] = {}
    for wish in wishes:
        if wish.kind == "disk":
            where = wish.path or folder(settings)
            found[where] = max(wish.bytes, found.get(where, 0))
    return found


def _installed(distribution: str) -> str:
    """The version beside us, "" without one."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def prepare(found: Tier, settings: Settings) -> str:
    """Make the folders that the engine needs, for this user alone: vLLM would let everyone read its files.

    Returns what its PYTHONPATH needs, "" for nothing: a folder that holds our package alone, for an engine of another
    Python, since all of our `site-packages` would stand before its own. Raises SettingError when one cannot be made.
    """
    if found.files:
        _private(found.files, "name another folder: kv_tier disk:SIZE:FOLDER")
    if not (found.ours and settings.vllm_command):
        return ""
    package = Path(aicockpit.__file__).parent
    home = _private(settings.state_dir / "python", "set AICOCKPIT_STATE_DIR")
    link = home / package.name
    try:
        if not (link.is_symlink() and link.resolve() == package.resolve()):
            fresh = home / f"{package.name}.new"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(package)
            fresh.replace(link)
    except OSError as error:
        raise SettingError(f"{home} cannot be written: {error.strerror}. Set AICOCKPIT_STATE_DIR.") from error
    return str(home)


def _private(made: Path, instead: str) -> Path:
    """A folder that is this user's own and closed to others. What stands there may be a link, or another user's: either
    could hand an engine files that it did not write."""
    try:
        made.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        above = made.parent.stat().st_mode
        if above & stat.S_IWOTH and not above & stat.S_ISVTX:
            flaw, remedy = f"everyone may write in {made.parent}", f"Take that right away (chmod o-w) or {instead}"
        elif made.is_symlink():
            flaw, remedy = "it is a symbolic link", f"Remove it or {instead}"
        else:
            made.mkdir(exist_ok=True, mode=0o700)
            flaw, remedy = _close(made), f"Remove it or {instead}"
    except OSError as error:
        flaw, remedy = str(error.strerror), instead[0].upper() + instead[1:]
    if flaw:
        raise SettingError(f"{made} cannot be made for this user alone: {flaw}. {remedy}.")
    return made


def _close(made: Path) -> str:
    """0700, by a handle: what is looked at is what is changed. Returns why not, or ""."""
    handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(handle).st_uid
        if owner != os.geteuid():
            return f"it is a folder of another user (uid {owner})"
        os.fchmod(handle, 0o700)
    finally:
        os.close(handle)
    return ""


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
