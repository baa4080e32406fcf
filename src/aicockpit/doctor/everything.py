"""Looks at everything a start needs and puts the rows together. A failing probe never raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
from huggingface_hub import constants

from aicockpit.doctor import around, drivers, gpus, plans, service, tiers, torches
from aicockpit.doctor.finding import Finding, Mark, Wanted, worst
from aicockpit.engines.orphans import MARK
from aicockpit.hardware import detect
from aicockpit.hardware.machine import Snapshot
from aicockpit.recipes.fleet import FleetModel
from aicockpit.settings import Settings

VERSION = 1  # of the form of `Report.to_dict`; docs/doctor.schema.json describes it


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the doctor found. `verdict` is the worst mark of all rows."""

    findings: tuple[Finding, ...]
    snapshot: Snapshot

    @property
    def verdict(self) -> Mark:
        return worst(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "version": VERSION,
            "verdict": self.verdict,
            "findings": [msgspec.to_builtins(finding) for finding in self.findings],
            "snapshot": self.snapshot.to_dict(),
        }


def examine(settings: Settings) -> list[Finding]:
    """The rows alone."""
    return list(report(settings).findings)


def report(settings: Settings, limit: float = detect.GPU_LIMIT_S) -> Report:
    """Look at everything; `limit` is how many seconds the drivers of the GPUs may take."""
    # Where models lie is the library's to say: it reads HF_HOME and HF_HUB_CACHE itself.
    folders = {around.STATE: settings.state_dir, around.MODELS: Path(constants.HF_HUB_CACHE)}
    machine = detect.inspect(folders, limit)
    fleet_row, models = service.models(settings)
    wanted = wanted_of(models, bool(detect.usable_gpus(machine, settings.cuda_visible)))
    vllm, words = service.engine(settings)
    context = gpus.Context(wanted, ours)
    findings = (
        *around.findings(machine, wanted, settings.max_inflight),
        *drivers.findings(machine, wanted),
        *gpus.findings(machine, context, settings.cuda_visible),
        *fleet_row,
        vllm,
        *torches.findings(torches.find(words[0]) if words else None, machine, wanted),
        *tiers.findings(settings, models, machine),
        *plans.findings(settings, machine, ours),
        service.port(settings),
        service.token(settings),
        *(Finding("unknown", note.what, "warn", f"unknown: {note.why}", note.consequence) for note in machine.notes),
    )
    return Report(findings, machine)


def wanted_of(models: Sequence[FleetModel], gpus_here: bool) -> Wanted:
    """What a start of these models asks of the machine. `auto` means a GPU where there is one, else the CPU."""
    counts, engine, cpu = [0], [0], False
    named: list[str] = []
    for model in models:
        if isinstance(model.gpus, tuple):
            count = len(model.gpus)
            named += model.gpus
        else:
            count = int(gpus_here) if model.gpus == "auto" else model.gpus
        counts.append(count)
        engine.append(math.ceil(count / model.replicas))
        cpu = cpu or not count
    return Wanted(max(counts), cpu, max(engine), tuple(dict.fromkeys(named)))


def ours(pid: int) -> bool:
    """Is it an engine of AiCockpit, or a worker of one? They carry a mark in their environment."""
    try:
        return MARK in psutil.Process(pid).environ()
    except (psutil.Error, OSError, ValueError):
        return False
