"""`aicockpit doctor`: the rows as a table, or everything as JSON."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from aicockpit import console
from aicockpit.commands import Commands
from aicockpit.settings import Settings

if TYPE_CHECKING:
    from aicockpit.doctor import Report

_NARROW = 90
_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands("doctor", run, "look at this machine: what is there, what is wrong, what to do")
    parser.add_argument("--json", action="store_true", help="everything that was found, for programs")


def run(loaded: Settings, arguments: argparse.Namespace) -> int:
    """Print what was found; the exit code is 1 when a start would fail."""
    from aicockpit import doctor as examiner  # what it looks at takes a while to import; other commands need none of it

    report = examiner.report(loaded)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        show(report, Console(highlight=False))
    return examiner.verdict(report.findings)


def show(report: Report, out: Console) -> None:
    """A table where there is room for one; else a paragraph for each row, and a line where nobody looks (a log)."""
    if out.width >= _NARROW:
        rows = [(finding.mark, finding.what, finding.found, finding.fix) for finding in report.findings]
        out.print(console.table("", ("", "what", "found", "what to do"), rows))
    elif out.is_terminal:
        grid = Table.grid(Column(), Column(overflow="fold"), padding=(0, 1))
        for finding in report.findings:
            grid.add_row(Text(finding.mark, _STYLES[finding.mark]), Text(f"{finding.what}: {finding.found}"))
            if finding.fix:
                grid.add_row("", Text(f"-> {finding.fix}"))
        out.print(grid)
    else:
        for finding in report.findings:
            fix = f" -> {finding.fix}" if finding.fix else ""
            out.print(f"{finding.mark:<4} {finding.what}: {finding.found}{fix}", markup=False, soft_wrap=True)
    counts = [f"{number} {mark}" for mark in ("bad", "warn") if (number := _count(report, mark))]
    out.print(f"{', '.join(counts)} of {len(report.findings)} rows" if counts else "nothing is wrong")


def _count(report: Report, mark: str) -> int:
    return sum(1 for finding in report.findings if finding.mark == mark)
