"""Uploaded archives: every kind is read, and none of the hostile ones does harm."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.documents.archive import ArchiveError, Member, pages, wanted
from aicockpit.documents.values import Limits

FILES = {"docs/a.md": b"# A\n\ntext", "docs/b.html": b"<h1>B</h1>", "docs/c.rst": b"C\n=\n", "docs/d.txt": b"d"}


def zipped(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", links: tuple[tuple[str, str], ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def read(tmp_path: Path, raw: bytes, name: str = "docs.zip", limits: Limits | None = None) -> list[Member]:
    path = tmp_path / "upload"
    path.write_bytes(raw)
    return list(pages(path, name, limits or Limits()))


@pytest.mark.parametrize("raw", [zipped(FILES), *(tarred(FILES, mode) for mode in ("w", "w:gz", "w:xz", "w:bz2"))])
def test_every_kind_of_archive_is_read(tmp_path: Path, raw: bytes) -> None:
    found = read(tmp_path, raw)
    assert {member.path: member.raw for member in found} == FILES


def test_a_document_alone_is_one_page(tmp_path: Path) -> None:
    assert read(tmp_path, b"# Hi", "notes/guide.md") == [Member("guide.md", b"# Hi")]


@pytest.mark.parametrize("name", ["x.exe", "photo.png", ""])
def test_what_is_neither_is_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="neither an archive"):
        read(tmp_path, b"MZ\x90\x00", name)


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/x.md",
        "/etc/x.md",
        "C:\\x.md",
        "a/../../x.md",
        ".git/x.md",
        "node_modules/y/README.md",
        "_sources/a.rst.txt",
        "a/b.py",
        "a/requirements.txt",
        "genindex.html",
        "",
        "a\x00.md",
        "__MACOSX/a.md",
    ],
)
def test_paths_that_lead_out_and_files_for_tools_are_passed_over(tmp_path: Path, path: str) -> None:
    assert wanted(path) == ""
    assert read(tmp_path, tarred({path or "x": b"# X", "ok.md": b"# Y"})) == [Member("ok.md", b"# Y")]


def test_links_are_not_followed(tmp_path: Path) -> None:
    found = read(tmp_path, tarred({"a.md": b"# A"}, links=(("passwd.md", "/etc/passwd"),)))
    assert [(member.path, bool(member.raw)) for member in found] == [("a.md", True), ("passwd.md", False)]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.md")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "link" in read(tmp_path, out.getvalue())[0].reason


@pytest.mark.parametrize("make", [zipped, tarred])
def test_bombs_end_at_the_limits(tmp_path: Path, make: object) -> None:
    assert callable(make)
    big = {f"{number}.md": b"a" * 1_000_000 for number in range(30)}
    raw = make(big)
    with pytest.raises(ArchiveError, match="times its size"):
        read(tmp_path, raw)
    with pytest.raises(ArchiveError, match=r"more than (5000000 bytes|is allowed)"):
        read(tmp_path, raw, limits=Limits(ratio=10**9, unpacked=5_000_000))
    many = make({f"{number}.md": b"x" for number in range(40)})
    with pytest.raises(ArchiveError, match="more than 10 documents"):
        read(tmp_path, many, limits=Limits(files=10))
    with pytest.raises(ArchiveError, match="files"):
        read(tmp_path, many, limits=Limits(members=10))
    found = read(tmp_path, make({"big.md": b"a" * 3000, "ok.md": b"x"}), limits=Limits(page=1000))
    assert [(member.path, member.reason) for member in found] == [("big.md", "larger than 1000 bytes"), ("ok.md", "")]


def test_a_size_that_a_header_only_claims_costs_nothing(tmp_path: Path) -> None:
    raw = bytearray(zipped({"a.md": b"a" * 100_000}))
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = raw.index(mark) + at
        raw[start : start + 4] = (10).to_bytes(4, "little")
    try:
        found = read(tmp_path, bytes(raw), limits=replace(Limits(), page=1000))
    except ArchiveError:
        return
    assert all(len(member.raw) <= 1000 for member in found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.sampled_from([zipped(FILES), tarred(FILES), tarred(FILES, "w")]), st.data())
def test_a_damaged_archive_is_read_or_refused(tmp_path: Path, raw: bytes, data: st.DataObject) -> None:
    broken = bytearray(raw[: data.draw(st.integers(4, len(raw)))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(tmp_path, bytes(broken), limits=Limits(page=10_000, unpacked=100_000))
    except ArchiveError:
        return


def test_a_header_that_asks_for_all_the_memory_is_refused(tmp_path: Path) -> None:
    """A long name in a tar is read whole: a child with little memory says so, and does not end."""
    block = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"L"
    block[124:136] = f"{900 * 1024 * 1024:011o}\0".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    raw = gzip.compress(bytes(block) + bytes(64 * 1024 * 1024), 1)
    (tmp_path / "docs.tar.gz").write_bytes(raw)
    code = (
        "import resource, sys, pathlib\n"
        "from aicockpit.documents.archive import ArchiveError, pages\n"
        "from aicockpit.documents.values import Limits\n"
        "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n"
        "try: list(pages(pathlib.Path(sys.argv[1]), 'docs.tar.gz', Limits()))\n"
        "except ArchiveError as error: print(error)\n"
    )
    command = (sys.executable, "-c", code, str(tmp_path / "docs.tar.gz"))
    told = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert told.returncode == 0, told.stderr
    assert "damaged" in told.stdout
