"""The process that reads a source, as the library sees it: started, followed, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from aicockpit.documents.values import Limits, Source
from aicockpit.settings import keyless

logger = logging.getLogger(__name__)

# Exit code of one that was ended since it took too long.
TOO_LONG = -1
_GRACE_S = 30.0
_LINES = 50
_PIECE = 65_536


async def read(path: Path, source: Source, limits: Limits) -> tuple[int, str]:
    """Read a source into the database; its exit code, and the last line that it wrote."""
    defaults = asdict(Limits())
    other = {name: value for name, value in asdict(limits).items() if value != defaults[name]}
    command = (sys.executable, "-m", "aicockpit.documents.worker", str(path), source.id, json.dumps(other))
    async with _running(command, keyless(os.environ)) as child:
        limit = max(1.0, limits.time_s - source.spent_s) + _GRACE_S
        try:
            async with asyncio.timeout(limit):
                return await _follow(child)
        except TimeoutError:
            return TOO_LONG, f"it did not end within {limit:.0f} s"


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child in a session of its own, which is killed at the end: what it has written is complete at any moment."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, env=environ, stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe, start_new_session=True
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def _follow(child: asyncio.subprocess.Process) -> tuple[int, str]:
    last = ""
    assert child.stderr is not None
    for _ in range(_LINES):
        try:
            line = await child.stderr.readline()
        except ValueError:  # a line without end
            break
        if not line:
            break
        last = line.decode("utf-8", "replace").strip()[:300]
        logger.info("documentation reader: %s", last)
    while await child.stderr.read(_PIECE):
        pass
    return await child.wait(), last
