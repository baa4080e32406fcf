"""Paths: none leaves its workspace, none is a file and a folder at once, whatever a client sends."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.errors import BadRequest
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.manifest import check
from aicockpit.workspace.store import Applied, File, Info, Store, StoreLimits


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """In memory where the system has a place for it: hundreds of commits, and the disk is not what is tested."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        made = Store(Path(folder))
        made.put_blobs([(digest(data), data) for data in (b"", b"1", b"2")])
        yield made
        made.close()


@pytest.fixture
def info(store: Store) -> Iterator[Info]:
    made = store.create("key", "tree")
    yield made
    store.delete(made.id)


def file(path: str, data: bytes = b"") -> File:
    return File(path, digest(data), len(data), 1)


def contents(store: Store, info: Info) -> dict[str, bytes | None]:
    return {found.path: store.blob(found.hash) for found in store.files(info.id)}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "a\0b",
        "x" * 4097,
        "ä" * 2049,
        "\ud800",
        "a/\udfff",
    ],
)
def test_paths_that_cannot_be(store: Store, info: Info, path: str) -> None:
    for files, removed in (([file(path)], []), ([], [path])):
        with pytest.raises(BadRequest) as refused:
            store.propose(info.id, 0, files, removed)
        assert refused.value.code == "bad_path"
        refused.value.message.encode()


def test_paths_are_checked_in_little_memory(store: Store, info: Info) -> None:
    deep = "/".join(["a" * 30] * 128)
    with pytest.raises(BadRequest, match="129 parts"):
        store.propose(info.id, None, [file(f"{deep}/b")])
    files = [file(f"{number:030d}{deep[30:]}") for number in range(200)]
    tracemalloc.start()
    check(files, (), True, StoreLimits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    with pytest.raises(BadRequest, match="file and a folder"):
        check([file("a/b/c"), file("a-"), file("a/b-"), file("a/b")], (), True, StoreLimits())


def test_backslashes_drives_and_odd_characters_are_part_of_a_name(store: Store, info: Info) -> None:
    """Only `/` parts a path; a name that is not UTF-8 is written with backslashes by the indexer."""
    names: dict[str, bytes] = dict.fromkeys(["..\\..\\etc", "C:\\x", "\\xff.py", "a\nb", " "], b"1")
    assert store.propose(info.id, None, [file(path, data) for path, data in names.items()])
    assert contents(store, info) == names


def test_a_path_is_named_once(store: Store, info: Info) -> None:
    for files, removed in (([file("a"), file("a", b"1")], []), ([file("a")], ["a"]), ([], ["a", "a"])):
        with pytest.raises(BadRequest, match="more than once"):
            store.propose(info.id, 0, files, removed)
    with pytest.raises(BadRequest, match="removes none"):
        store.propose(info.id, None, [], ["a"])


Step = tuple[tuple[bool, dict[str, bytes]], list[str]]
PLAIN = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3)
NAMES = st.sampled_from(["a", "c.py", "\\", "..\\", "ü", "%2e%2e", "..", ".", "", "\0", "\ud800", "x" * 4000])
ODD = st.lists(NAMES, min_size=1, max_size=4)
PATHS = st.one_of(PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, ODD, st.lists(st.text(max_size=4))).map("/".join)
TREES = st.dictionaries(PATHS, st.sampled_from([b"", b"1", b"2"]), max_size=2)
ASKED = st.tuples(st.sampled_from([True, False, False, False]), TREES)
STEPS = st.lists(st.tuples(ASKED, st.just([]) | st.lists(PATHS, max_size=2)), min_size=3, max_size=8)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_whatever_is_sent_the_tree_is_one_that_a_folder_could_hold(store: Store, steps: list[Step]) -> None:
    """Every manifest is applied as it says or changes nothing; no path leaves, no file stands in a file."""
    info = store.create("key", "fuzz")
    model: dict[str, bytes] = {}
    revision = 0
    for (complete, tree), removed in steps:
        asked = [] if complete else removed
        try:
            result = store.propose(
                info.id, None if complete else revision, [file(path, data) for path, data in tree.items()], asked
            )
        except BadRequest as error:
            error.message.encode()
        else:
            assert isinstance(result, Applied)
            kept = {} if complete else {path: data for path, data in model.items() if path not in asked}
            assert (result.revision > revision) == ({**kept, **tree} != model)
            model, revision = {**kept, **tree}, result.revision
        assert contents(store, info) == model
        for path in model:
            assert os.path.normpath(f"/root/{path}") == f"/root/{path}"
            assert not any(other.startswith(f"{path}/") for other in model)
    found = store.info(info.id)
    assert found
    assert (found.revision, found.files, found.bytes) == (revision, len(model), sum(map(len, model.values())))
    store.delete(info.id)
