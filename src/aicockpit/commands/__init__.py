"""Commands of `aicockpit` with more to show than a line: each file adds its parser and prints what it found."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol

from aicockpit.settings import Settings

Run = Callable[[Settings, argparse.Namespace], int]


class Commands(Protocol):
    """Adds a command of that name: what runs it, and its one-line help."""

    def __call__(self, name: str, run: Run, text: str, /) -> argparse.ArgumentParser: ...
