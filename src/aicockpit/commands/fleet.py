"""`aicockpit fleet explain`: what a fleet file would start, where each model would go and why, or what is refused."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from aicockpit.commands import Commands, actions_of, judging
from aicockpit.errors import SettingError
from aicockpit.hardware import detect
from aicockpit.recipes import fleet, place
from aicockpit.settings import Settings


def add(commands: Commands) -> None:
    """Register the command and its action; without one it explains."""
    text = "what the fleet file would start: where each model goes, why, and with how many bytes"
    parser = commands("fleet", _explain, text)
    parser.set_defaults(gpu="", file=None)
    made = actions_of(parser)("explain", _explain, f"{text}; the Hub is not asked")
    made.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: the one of AICOCKPIT_FLEET")
    made.add_argument("--gpu", default="", help='"A6000:2", "H100:8" or "cpu"; default: the machine here')


def _explain(loaded: Settings, arguments: argparse.Namespace) -> int:
    """Print a row for each model; the exit code is 1 when a start would be refused."""
    from aicockpit.doctor import everything, finding, plans  # which take a while to import

    if arguments.file is not None:
        loaded = replace(loaded, fleet=arguments.file)
    asked = fleet.ask(loaded)
    if not asked.models:
        raise SettingError("No model is asked for: name a fleet file, or set AICOCKPIT_FLEET or MODEL_NAME.")
    if arguments.gpu:
        machine = judging.machine(loaded, arguments.gpu)
        slots = place.slots([replace(device, index=n) for n, device in enumerate(machine.devices)], None)
        rows = list(plans.judge(loaded, asked, slots, machine.memory, machine.cpu))
    else:
        rows = list(plans.findings(loaded, detect.inspect(), everything.ours))
    for row in rows:
        judging.emit(f"{row.mark:4} {row.what}: {row.found}")
        if row.fix:
            judging.emit(f"     {row.fix}")
    return finding.verdict(rows)
