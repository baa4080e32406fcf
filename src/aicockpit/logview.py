"""`aicockpit logs`: the newest log of each engine, and what is written to it from now on."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from aicockpit.errors import AicockpitError

_LOOK_S = 0.3
_NAME = re.compile(r"(?P<engine>.+)-\d{8}-\d{6}(-\d+)*(\.more)?\.log")


def show(folder: Path, engine: str | None, lines: int, follow: bool, out: TextIO = sys.stdout) -> int:
    """Print the end of each newest log; with `follow` go on until interrupted. Raises when there is none."""
    newest = newest_logs(folder)
    if engine is not None:
        newest = {name: path for name, path in newest.items() if name == engine}
    if not newest:
        known = ", ".join(newest_logs(folder)) or "none yet"
        raise AicockpitError(f"no log{f' of {engine!r}' if engine else ''} in {folder}; engines with logs: {known}")
    for name, path in newest.items():
        print(f"==> {name}: {path}", file=out)
        with path.open(errors="replace") as file:
            out.writelines(deque(file, maxlen=max(1, lines)))
    if follow:
        _follow(newest, out)
    return 0


def newest_logs(folder: Path) -> dict[str, Path]:
    """Engine name -> the file written last. `engines/logs.py` names them."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime):
        if match := _NAME.fullmatch(path.name):
            found[match["engine"]] = path
    return found


def _follow(files: dict[str, Path], out: TextIO) -> None:
    places = {path: path.stat().st_size for path in files.values()}
    while True:
        for path, place in list(places.items()):
            try:
                with path.open("rb") as file:
                    file.seek(place if path.stat().st_size >= place else 0)
                    data = file.read()
                    places[path] = file.tell()
            except FileNotFoundError:
                del places[path]
                continue
            out.write(data.decode(errors="replace"))
        out.flush()
        time.sleep(_LOOK_S)
