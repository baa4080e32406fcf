"""`aicockpit logs` finds each engine's newest log by the names that the engines' own sink gives."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from aicockpit.engines.logs import LogSink
from aicockpit.errors import AicockpitError
from aicockpit.logview import newest_logs, show


def write(folder: Path, name: str, text: str) -> None:
    sink = LogSink(folder, name)
    sink.begin()
    sink.feed(text.encode())
    sink.end()


def test_the_newest_log_of_each_engine_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "qwen-7b-0", "first start\n")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    write(tmp_path, "qwen-7b-0", "".join(f"line {number}\n" for number in range(100)))
    write(tmp_path, "other-0", "hello\n")
    assert set(newest_logs(tmp_path)) == {"qwen-7b-0", "other-0"}
    out = io.StringIO()
    show(tmp_path, "qwen-7b-0", 2, False, out)
    assert out.getvalue().splitlines()[1:] == ["line 98", "line 99"]


def test_an_unknown_engine_is_told_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path, "other-0", "hello\n")
    with pytest.raises(AicockpitError, match="other-0"):
        show(tmp_path, "nope", 2, False)
