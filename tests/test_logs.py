"""What an engine prints, kept within bounds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psutil
import pytest

from aicockpit.engines.logs import LINE_LIMIT, LogSink

SECRET = "hf_abcdefghijklmnop"


def test_lines_are_put_together_from_pieces(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e")
    path = sink.begin()
    for piece in (b"on", b"e\ntwo\r", b"three\n\nfo", b"ur"):
        sink.feed(piece)
    assert sink.tail(10) == ["one", "two", "three"]
    sink.end()
    assert sink.tail(2) == ["three", "four"]
    assert path.read_text() == "one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize("cut", range(1, len(SECRET) + 8))
def test_a_secret_is_hidden_wherever_the_bytes_are_cut(tmp_path: Path, cut: int) -> None:
    sink = LogSink(tmp_path, "e", secrets=(SECRET,))
    path = sink.begin()
    text = f"token {SECRET} end\n".encode()
    sink.feed(text[:cut])
    sink.feed(text[cut:])
    sink.end()
    assert sink.tail(1) == ["token *** end"]
    assert SECRET not in path.read_text()


@pytest.mark.parametrize("offset", range(0, len(SECRET) + 4, 3))
def test_a_secret_is_hidden_in_an_endless_line(tmp_path: Path, offset: int) -> None:
    sink = LogSink(tmp_path, "e", secrets=(SECRET,))
    path = sink.begin()
    line = b"x" * (64 * 1024 - len(SECRET) + offset) + SECRET.encode() + b"y" * 70_000
    for start in range(0, len(line), 10_000):
        sink.feed(line[start : start + 10_000])
    sink.end()
    assert SECRET not in path.read_text().replace("\n", "")
    assert "***" in path.read_text().replace("\n", "")


def test_short_and_empty_secrets_hide_nothing(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e", secrets=("", "test"))
    sink.begin()
    sink.feed(b"a test\n")
    assert sink.tail(1) == ["a test"]


def test_memory_stays_bounded_in_a_flood(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e", lines=100, file_limit=1 << 20)
    sink.begin()
    before = psutil.Process().memory_info().rss
    for _ in range(400):
        sink.feed(b"a line of the flood\n" * 3000 + b"z" * 100_000)
    sink.end()
    assert psutil.Process().memory_info().rss - before < 30 << 20
    assert len(sink.tail(10_000)) == 100
    assert max(map(len, sink.tail(100))) <= LINE_LIMIT
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4 << 20


def test_the_head_of_a_start_is_never_rotated_away(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e", file_limit=1000)
    path = sink.begin()
    for number in range(1000):
        sink.feed(f"line {number}\n".encode())
    sink.end()
    assert path.read_text().startswith("line 0\n")
    assert path.with_suffix(".more.log").exists() or path.with_suffix(".more.log.1").exists()
    assert "line 999" in "".join(file.read_text() for file in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3


def test_each_start_has_its_file_and_the_oldest_go(tmp_path: Path) -> None:
    other = tmp_path / "e-two-20260101-000000.log"
    other.write_text("of an engine whose name begins alike")
    sink = LogSink(tmp_path, "e", keep=3)
    paths = []
    for number in range(12):
        paths.append(sink.begin())
        sink.feed(f"start {number}\n".encode())
        assert sink.tail(9) == [f"start {number}"]
    sink.end()
    assert [path.exists() for path in paths] == [False] * 9 + [True] * 3
    assert paths[-1].read_text() == "start 11\n"
    assert other.exists()


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "logs", "a/b ../c")
    old = os.umask(0)
    try:
        path = sink.begin()
    finally:
        os.umask(old)
    sink.end()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent == tmp_path / "logs"


def test_each_line_is_told_once(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e")
    seen: list[str] = []
    sink.on_line = seen.append
    sink.feed(b"before a start\n")
    sink.begin()
    sink.feed(b"a\nb")
    sink.note("ours")
    sink.end()
    assert seen == ["before a start", "a", "[aicockpit] ours", "b"]
    assert sink.tail(0) == []


def test_bytes_that_are_not_text_do_no_harm(tmp_path: Path) -> None:
    sink = LogSink(tmp_path, "e")
    sink.begin()
    sink.feed(b"\xff\xfe\x00\n")
    sink.end()
    assert sink.tail(1) == ["\ufffd\ufffd\x00"]
