"""The exact command of one engine. It reads the model's files and makes the folders of a KV tier; `engines/` runs
what comes out."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aicockpit.errors import SettingError
from aicockpit.hardware import fit
from aicockpit.hardware import shape as dimensions
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.recipes import flags, lora, tier
from aicockpit.settings import Settings
from aicockpit.types import EngineSpec, KvEventsAddress, KvTier, Residence

log = logging.getLogger(__name__)

# The gateway has drained before SIGTERM; this is for what reaches the engine past it. Less than the wait for SIGKILL.
SHUTDOWN_S = 5
CPU_MODULE = "vllm.entrypoints.launchers.api_server.entry"
CORES = "VLLM_CPU_OMP_THREADS_BIND"
CPU_KV_BYTES = 500_000_000
CPU_BLOCK = 32  # the finest that the CPU backend takes, and its fastest when the prefix is warm


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What differs between the engines of a fleet. No GPU ids: it runs on the CPU, on `cpus` when given (`0-3`).

    `flags` are what its recipe and its place ask for; `args`, the user's own, win over them. `lora`: adapters as
    (name, folder); empty allows them at run time, None does not. `context`: tokens, None for what fits. `part`:
    flags for its share of a GPU; those that the user gave for all engines know nothing of it. `kv_tier`: see `tier.py`.
    `sleep`: it can be asked to sleep; whether it will is `residence.sleeps`, which follows the memory that is free.
    `role`: what its model is for, "" when nobody said.
    """

    name: str
    aliases: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    cpus: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    residence: Residence = field(default_factory=Residence)
    lora: tuple[tuple[str, str], ...] | None = None
    context: int | None = None
    part: tuple[str, ...] = ()
    kv_tier: KvTier = field(default_factory=KvTier)
    sleep: bool = False
    role: str = ""


def build(shape: EngineShape, path: Path, served_name: str, settings: Settings) -> EngineSpec:
    """The command, environment and socket of one engine. Raises SettingError."""
    names = tuple(dict.fromkeys((served_name, *shape.aliases)))
    reader = flags.reader(settings)
    warnings = flags.refuse(settings.engine_args, "AICOCKPIT_ENGINE_ARGS", reader)
    for warning in (*warnings, *flags.refuse(shape.args, f"args of {shape.name}", reader)):
        log.warning("%s", warning)
    asked = ("--max-model-len", str(shape.context)) if shape.context else ()
    general = flags.merge(flags.merge(shape.flags, settings.engine_args), shape.part)
    theirs = flags.merge(flags.merge(general, asked), shape.args)
    uds = str(settings.run_dir / f"{shape.name}.sock")
    device = _gpu_flags(shape, theirs) if shape.gpus else _cpu_flags(_shape(path), theirs)
    trust = ("--trust-remote-code",) if settings.trust_remote_code else ()
    ours = (
        *("--served-model-name", *names),
        *("--uds", uds),
        *("--shutdown-timeout", str(SHUTDOWN_S)),
        "--enable-prompt-tokens-details",
        *("--scheduling-policy", "priority"),
        *trust,
        *device,
    )
    events = _kv_events(shape.name, settings, theirs)
    ours += (*_kv_events_flags(events), *_lora(shape), *(("--enable-sleep-mode",) if shape.sleep else ()))
    kept = _tier(shape, path, settings, flags.merge(device, theirs))
    argv = (*command(settings), *_model(settings, path), *flags.merge((*ours, *kept.flags), theirs))
    names = tuple(dict.fromkeys((*names, *lora.modules(argv))))
    env = _environment(shape, tier.prepare(kept, settings), kept)
    return EngineSpec(
        shape.name, str(path), names, argv, uds, env, shape.gpus, events, shape.residence, role=shape.role
    )


def _tier(shape: EngineShape, path: Path, settings: Settings, given: Sequence[str]) -> tier.Tier:
    """Raises SettingError where the wish cannot come true."""
    place = tier.place(settings, bool(shape.gpus))
    mark = (
        tier.mark(path, place.vllm, given, shape.env, shape.gpus) if shape.kv_tier.kind == "disk" and shape.gpus else ""
    )
    known = None if shape.gpus else _shape(path)
    layers = known.layer_kinds if known else ()
    found = tier.wanted(shape.name, shape.kv_tier, place, tier.folder(settings), given, mark, layers)
    for note in found.notes:
        log.warning("%s: %s", shape.name, note)
    return found


def _lora(shape: EngineShape) -> tuple[str, ...]:
    """Adapters at the start, and room to add more at run time."""
    if shape.lora is None:
        return ()
    modules = tuple(f"{name}={Path(folder).expanduser().absolute()}" for name, folder in shape.lora)
    return (lora.ENABLE, *(("--lora-modules", *modules) if modules else ()))


def _kv_events(name: str, settings: Settings, theirs: Sequence[str]) -> KvEventsAddress | None:
    """Sockets beside the engine's own. None when they are off, or the user configured their own."""
    if not settings.kv_events or flags.value(theirs, "--kv-events-config") is not None:
        return None
    folder = settings.run_dir
    return KvEventsAddress(f"ipc://{folder}/{name}.kv", f"ipc://{folder}/{name}.kvr")


def _kv_events_flags(events: KvEventsAddress | None) -> tuple[str, ...]:
    if events is None:
        return ()
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": events.publish,
        "replay_endpoint": events.replay,
        "topic": "kv",
    }
    return ("--kv-events-config", json.dumps(config))


def command(
    settings: Settings, installed: Callable[[str], bool] | None = None, python: str = sys.executable
) -> tuple[str, ...]:
    """The words that start vLLM: the setting, or what is installed. Raises SettingError when nothing is.

    The CPU build's `vllm` script asks for a distribution named `vllm` and fails; its module is the same program.
    """
    if settings.vllm_command:
        return settings.vllm_command
    has = installed or _installed
    if has("vllm"):
        script = Path(python).with_name("vllm")
        return (str(script) if script.exists() else "vllm", "serve")
    if has("vllm-cpu"):
        return (python, "-m", CPU_MODULE)
    raise SettingError(
        "vLLM is not installed beside AiCockpit. Install the extra aicockpit[cpu] or aicockpit[gpu] (`make start-dev` "
        "does it), name a vLLM with AICOCKPIT_VLLM_COMMAND, or use engines that run already with AICOCKPIT_ENGINE_URLS."
    )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _model(settings: Settings, path: Path) -> tuple[str, ...]:
    """`vllm serve` wants the model as its first word, a module as a flag; a command of the user's says by `serve`."""
    words = command(settings)
    return (str(path),) if words[-1] == "serve" else ("--model", str(path))


def _gpu_flags(shape: EngineShape, theirs: Sequence[str]) -> tuple[str, ...]:
    """Tensor parallelism over the GPUs that pipeline and data parallelism of the user leave."""
    count = len(shape.gpus)
    others = {flag: _positive(theirs, flag) for flag in ("--pipeline-parallel-size", "--data-parallel-size")}
    used = math.prod(others.values())
    given = flags.value(theirs, "--tensor-parallel-size")
    tensor = _positive(theirs, "--tensor-parallel-size") if given is not None else max(1, count // used)
    if tensor * used != count:
        sizes = " x ".join([f"--tensor-parallel-size {tensor}", *(f"{f} {n}" for f, n in others.items() if n > 1)])
        raise SettingError(
            f"{shape.name} has {count} GPU{'s' * (count > 1)} (GPU_COUNT / replicas), but its flags ask for {sizes} = "
            f"{tensor * used}. Make the two equal."
        )
    return ("--tensor-parallel-size", str(tensor))


def _positive(args: Sequence[str], flag: str) -> int:
    """The size asked for, 1 when absent."""
    text = flags.value(args, flag)
    size = 1 if text is None else flags.number(text) or 0
    if size < 1:
        raise SettingError(f"{flag} must be a whole number of 1 or more, not {text!r}.")
    return size


def _cpu_flags(known: ModelShape | None, theirs: Sequence[str]) -> tuple[str, ...]:
    """Quick to start and small: no compilation, fine blocks, a KV cache that holds one longest request.

    Unknown dimensions leave the length to vLLM, which then says what fits.
    """
    asked = flags.number(flags.value(theirs, "--max-model-len"))
    kv = max(CPU_KV_BYTES, fit.cpu_cache(known, asked, CPU_BLOCK) if known and asked else 0)
    length: tuple[str, ...] = ()
    if known and known.max_len:
        size = flags.number(flags.value(theirs, "--kv-cache-memory-bytes")) or kv
        length = ("--max-model-len", str(fit.cpu(known, size, CPU_BLOCK, fit.Ask()).max_model_len))
    return (
        "--enforce-eager",
        *("--block-size", str(CPU_BLOCK)),
        *("--kv-cache-memory-bytes", str(kv)),
        *length,
    )


def _shape(path: Path) -> ModelShape | None:
    """None for a config whose KV cache is not understood: vLLM will say what is wrong with it."""
    try:
        config: Any = json.loads((path / "config.json").read_text(encoding="utf-8"))
        found = dimensions.read(config)
        fit.cpu_cache(found, CPU_BLOCK, CPU_BLOCK)
    except (OSError, ValueError, ShapeUnknown, SettingError):
        return None
    return found


def _environment(shape: EngineShape, ours: str, kept: tier.Tier) -> tuple[tuple[str, str], ...]:
    """Added to the engine's environment. The files are local, so it has no business on the network. `ours`: a folder
    to find our package in, for a Python that has it not; `kept`: its KV tier."""
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if shape.gpus:
        # NVML's numbers are in PCI order; CUDA's own default order is by speed.
        env |= {"CUDA_VISIBLE_DEVICES": ",".join(shape.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    else:
        env["CUDA_VISIBLE_DEVICES"] = ""  # a CUDA build would take a GPU that is another engine's
    if shape.cpus:
        env[CORES] = shape.cpus
    env |= {name: value for name, value in kept.env if name not in os.environ}
    if shape.lora is not None:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # on its private socket, for our own route
    if shape.sleep:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # which has the routes of sleep mode, on its private socket
    flags.refuse_variables(dict(shape.env), f"env of {shape.name}")
    env |= dict(shape.env)
    if ours:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, env.get("PYTHONPATH"))))
    return tuple(env.items())
