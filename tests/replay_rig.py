"""Small made-up trees and short replays of them, for the tests of the replay benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import replay
from benchmarks.corpus import History
from benchmarks.replay import Plan
from benchmarks.replay_kit import Sizes
from benchmarks.replay_table import Case, Found

from aicockpit.prompts import fim
from tiny_tokenizers import of_family

SIZES = Sizes(pack=1_200, journal=256, neighbourhood=300, similar=292, before=64, after=4)


def module(number: int, functions: int = 14) -> str:
    lines = [f'"""Module {number}."""', "", f"from mod_{(number + 1) % 9} import handle_{(number + 1) % 9}_0", ""]
    for each in range(functions):
        lines += [
            f"def handle_{number}_{each}(request, response):",
            f'    """Handle {each}."""',
            f"    prepared_{each} = request.prepare(number={number}, each={each})",
            f"    answer_{each} = handle_{(number + 1) % 9}_0(prepared_{each}, response)",
            f"    return answer_{each} or response.default({each})",
            "",
        ]
    return "\n".join(lines) + "\n"


def measured(history: History, sizes: Sizes = SIZES) -> Found:
    """The history through every layout at one budget."""
    encoder = of_family("qwen")
    style, _ = fim.detect(encoder.specials)
    voice = replay.Voice(replay.Remembering(encoder), style)
    plan = Plan([history], voice, voice, [Case("small", sizes, 20_000)], 1, 65_536)
    with Progress(console=Console(quiet=True)) as progress:
        [(_, found)] = replay.run(plan, progress)
    return found
