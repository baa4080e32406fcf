"""Commands of `aicockpit` with more to show than a line: each file adds its parser and prints what it found."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aicockpit.settings import Settings

Run = Callable[[Settings, argparse.Namespace], int]


def actions_of(parser: argparse.ArgumentParser) -> Commands:
    """Adds actions to a command: `aicockpit models list`. `--env-file` counts in front of an action and behind it."""
    actions = parser.add_subparsers(metavar="ACTION")

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text)
        # Suppressed: the default of an action would overwrite what was given in front of it.
        made.add_argument("--env-file", type=Path, default=argparse.SUPPRESS, help="read settings from this file")
        made.set_defaults(run=run)
        return made

    return add


class Commands(Protocol):
    """Adds a command of that name: what runs it, and its one-line help."""

    def __call__(self, name: str, run: Run, text: str, /) -> argparse.ArgumentParser: ...
