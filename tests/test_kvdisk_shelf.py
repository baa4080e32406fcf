"""Folders that are ours alone, a cap that holds, and eviction that eats prefixes from their ends."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aicockpit.kvdisk import files
from aicockpit.kvdisk.keys import Identity, adapter_stamp, block_name, weights_stamp, written_since
from aicockpit.kvdisk.shelf import PARTIAL_LIMIT_S, PrivateError, held, make_private, make_root, sweep
from kvdisk_rig import PAYLOAD, name_of, shelf_in, store

SIZE = files.room(PAYLOAD)
NOW = 1_800_000_000.0
IDENTITY = Identity(
    model="/models/Some Model_7B",
    revision=None,
    weights="files 1",
    load_format="auto",
    settings="settings",
    dtype="bfloat16",
    kv_dtype="auto",
    quantization=None,
    block_tokens=32,
    hash_algorithm="sha256",
    layers=(("layer.0", (24576, 3, 64), "bfloat16"),),
    backend="cpu",
    engine="0.32.0",
    ranks=1,
)


def test_folders_are_made_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    make_private(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    make_private(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "key").symlink_to("elsewhere")
    with pytest.raises(PrivateError, match="folder of its own"):
        make_private(str(tmp_path / "key"))
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755


def test_a_root_that_others_may_write_in_is_refused_and_an_own_one_stays_as_it_is(tmp_path: Path) -> None:
    make_root(str(tmp_path / "new" / "kv"))
    assert (tmp_path / "new" / "kv").stat().st_mode & 0o777 == 0o700
    root = tmp_path / "home"
    root.mkdir()
    (tmp_path / "link").symlink_to("home")
    cases = ((0o755, ""), (0o775, "its group"), (0o2775, "its group"), (0o1775, ""), (0o1777, ""), (0o777, "everyone"))
    for mode, who in cases:
        root.chmod(mode)
        for way in (root, tmp_path / "link"):
            if who:
                with pytest.raises(PrivateError, match=f"{who} may write in .*chmod go-w"):
                    make_root(str(way))
            else:
                make_root(str(way))
        assert root.stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize(("mode", "owner", "fine"), [(0o775, 65534, False), (0o755, 65534, False), (0o755, 0, True)])
def test_a_root_of_another_user_is_refused(tmp_path: Path, mode: int, owner: int, fine: bool) -> None:
    if os.geteuid():
        pytest.skip("only root gives folders away")
    root = tmp_path / "theirs"
    root.mkdir()
    root.chmod(mode)
    os.chown(root, owner, owner)
    shelf = replace(shelf_in(tmp_path), folder=str(root / "model" / "r0"))
    if fine:
        store(shelf, name_of(1))
        return
    for way in (root, tmp_path / "link"):
        if way != root:
            way.symlink_to("theirs")
        with pytest.raises(PrivateError, match=rf"{way} belongs to another user \(uid 65534\).*folder of its own"):
            make_root(str(way))
    with pytest.raises(PrivateError):
        store(shelf, name_of(1))
    assert not list(root.iterdir()), "nothing is written where they could take it"
    make_root(str(root / "kv"))
    assert ((root / "kv").stat().st_uid, (root / "kv").stat().st_mode & 0o777) == (0, 0o700)


def test_a_folder_that_its_owner_exchanges_is_not_written_into(tmp_path: Path) -> None:
    """Someone who may rename our root puts one of theirs in its place while an engine runs."""
    if os.geteuid():
        pytest.skip("only root gives folders away")
    root = tmp_path / "kv"
    shelf = shelf_in(root)
    store(shelf, name_of(1))
    root.rename(tmp_path / "kept")
    planted = shelf_in(root)
    os.chown(root, 65534, 65534)
    with pytest.raises(PrivateError, match="belongs to another user"):
        store(planted, name_of(2))
    assert not list(root.rglob("*.kv"))


def test_what_counts_is_told_without_a_look_at_other_things(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    for number in range(3):
        store(shelf, name_of(number))
    (tmp_path / "letter.txt").write_bytes(bytes(9 * SIZE))
    assert held(str(tmp_path)) == sweep(str(tmp_path), 100 * SIZE).held == 3 * SIZE
    assert held(str(tmp_path / "missing")) == 0


def test_below_the_cap_nothing_is_removed(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    for number in range(5):
        store(shelf, name_of(number))
    swept = sweep(str(tmp_path), 5 * SIZE)
    assert (swept.held, swept.removed) == (5 * SIZE, 0)


def test_the_longest_unused_goes_first_and_a_prefix_from_its_end(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    for number in range(10):
        store(shelf, name_of(number), depth=number, now=NOW - 100)
    for number in range(10, 20):
        store(shelf, name_of(number), depth=number - 10, now=NOW - 500)
    swept = sweep(str(tmp_path), 10 * SIZE, keep_share=0.7)
    assert (swept.held, swept.removed, swept.removed_bytes) == (7 * SIZE, 13, 13 * SIZE)
    assert [number for number in range(20) if shelf.has(name_of(number))] == list(range(7))


def test_a_touch_makes_young(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    for number in range(4):
        store(shelf, name_of(number), now=time.time() - 1000 + number)
    assert shelf.touch(name_of(0), 0)
    assert not shelf.touch(name_of(9), 0)
    sweep(str(tmp_path), 2 * SIZE, keep_share=1.0)
    assert [number for number in range(4) if shelf.has(name_of(number))] == [0, 3]


def test_where_the_room_is_a_few_blocks_there_is_some_for_one_more(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    for number in range(5):
        store(shelf, name_of(number), now=NOW + number)
    assert sweep(str(tmp_path), int(5.4 * SIZE), want=SIZE).held == 4 * SIZE
    assert sweep(str(tmp_path), int(1.1 * SIZE), want=SIZE).held == 0


def test_a_file_that_cannot_be_removed_stays_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = shelf_in(tmp_path)
    stuck, gone = (store(shelf, name_of(number), now=NOW - 100 + number) for number in range(2))
    partial = Path(f"{stuck}.{'12' * 8}.tmp")
    partial.write_bytes(bytes(10))
    os.utime(partial, (NOW - 9999, NOW - 9999))
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == gone:
            unlink(path)  # by another, a moment ago
        elif str(path).startswith(stuck):
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    swept = sweep(str(tmp_path), 1, now=NOW)
    assert (swept.held, swept.removed, swept.removed_bytes) == (SIZE + 10, 0, 0)


def test_other_ranks_and_older_keys_count_and_go(tmp_path: Path) -> None:
    old = tmp_path / ("yesterday-" + "ab" * 16) / "r0"
    first, second = shelf_in(tmp_path), shelf_in(tmp_path, rank=1)
    stale = replace(first, folder=str(old))
    store(stale, name_of(1), now=NOW - 9999)
    store(first, name_of(2), now=NOW)
    store(second, name_of(2), now=NOW)
    swept = sweep(str(tmp_path), 2 * SIZE, keep_share=1.0)
    assert swept.removed == 1
    assert not stale.has(name_of(1))


def test_what_is_not_ours_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = Path(store(shelf, name_of(1), now=NOW - 9999))
    others = [
        tmp_path / "letter.txt",
        tmp_path / "photos" / "r0" / "ab" / f"{'ab' * 32}.kv",
        path.parent / "notes.kv",
        path.parent.parent / "speed.json",
        path.parent / f"{'ab' * 32}.kv.bak",
    ]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(bytes(9 * SIZE))
        os.utime(other, (1, 1))
    swept = sweep(str(tmp_path), 1)
    assert (swept.held, swept.removed) == (0, 1)
    assert all(other.exists() for other in others)


def test_a_dead_writers_partial_file_goes_and_a_live_ones_stays(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = store(shelf, name_of(1), now=NOW)
    dead, live = Path(f"{path}.{'12' * 8}.tmp"), Path(f"{path}.{'34' * 8}.tmp")
    for partial, age in ((dead, PARTIAL_LIMIT_S + 1), (live, 1)):
        partial.write_bytes(bytes(10))
        os.utime(partial, (NOW - age, NOW - age))
    swept = sweep(str(tmp_path), 100 * SIZE, now=NOW)
    assert (swept.removed, swept.held) == (1, SIZE + 10)
    assert not dead.exists()
    assert live.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "main"},
        {"weights": "files 2"},
        {"load_format": "mistral"},
        {"settings": "other"},
        {"dtype": "float16"},
        {"kv_dtype": "fp8"},
        {"quantization": "gptq"},
        {"block_tokens": 64},
        {"hash_algorithm": "sha256_cbor"},
        {"layers": (("layer.0", (24576, 4, 64), "bfloat16"),)},
        {"backend": "cpu amx"},
        {"engine": "0.33.0"},
        {"ranks": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_block_depends_on_changes_its_folder(change: dict[str, object]) -> None:
    other = replace(IDENTITY, **change)  # type: ignore[arg-type]
    assert other.folder != IDENTITY.folder
    assert other.digest != IDENTITY.digest
    assert IDENTITY.folder.startswith("Some-Model_7B-")


def test_a_stamp_follows_the_weights_and_not_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "tokenizer.json").write_text("{}")
    stamps = [weights_stamp(str(tmp_path), None)]
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert weights_stamp(str(tmp_path), None) == stamps[0]
    (tmp_path / "model.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "model.safetensors", (5, 5))
    assert weights_stamp(str(tmp_path), None) != stamps[0]


def test_weights_that_were_written_while_the_engine_began_are_told(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"old")
    started = time.time() + 0.001
    time.sleep(0.02)
    (tmp_path / "tokenizer.json").write_bytes(b"new")
    assert not written_since(str(tmp_path), started)
    assert not written_since("someone/some-model", started)
    (tmp_path / "model.safetensors").write_bytes(b"new")
    os.utime(tmp_path / "model.safetensors", (5, 5))  # as `cp -p` and archives leave it
    assert written_since(str(tmp_path), started)
    assert not written_since(str(tmp_path), time.time() + 1)


def test_a_blob_of_the_hubs_cache_is_what_its_name_says_and_only_its_link_tells(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "model.safetensors"
    (tmp_path / "blobs" / "deadbeef").write_bytes(b"weights")
    link.symlink_to(tmp_path / "blobs" / "deadbeef")
    started = time.time() + 0.001
    time.sleep(0.02)
    (tmp_path / "blobs" / "deadbeef").chmod(0o400)
    assert not written_since(str(tmp_path / "snapshot"), started)
    link.unlink()
    link.symlink_to(tmp_path / "blobs" / "deadbeef")
    assert written_since(str(tmp_path / "snapshot"), started)


def test_links_into_the_hubs_cache_are_known_by_content(tmp_path: Path) -> None:
    stamps: list[str | None] = []
    for place in ("one", "two"):
        blobs, snapshot = tmp_path / place / "blobs", tmp_path / place / "snapshots" / "abc"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (blobs / "deadbeef").write_bytes(b"weights")
        os.utime(blobs / "deadbeef", (len(stamps), len(stamps)))
        (snapshot / "model.safetensors").symlink_to(blobs / "deadbeef")
        stamps.append(weights_stamp(str(snapshot), None))
    assert stamps[0] is not None
    assert stamps[0] == stamps[1]


def test_weights_that_cannot_be_told_have_no_stamp(tmp_path: Path) -> None:
    assert weights_stamp("someone/some-model", None) is None
    assert weights_stamp("someone/some-model", "abc") == "commit abc"
    assert weights_stamp(str(tmp_path), None) is None


def test_an_adapter_trained_anew_under_its_name_has_other_blocks(tmp_path: Path) -> None:
    later = time.time() + 60
    assert adapter_stamp(str(tmp_path / "missing"), later) is None
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    before = adapter_stamp(str(tmp_path), later)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"22")
    after = adapter_stamp(str(tmp_path), later)
    assert before != after
    assert len({name_of(1), block_name(name_of(1), before), block_name(name_of(1), after)}) == 3
    assert block_name(name_of(1), None) == name_of(1)


def test_an_adapter_that_was_written_while_the_engine_runs_is_not_kept(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter_model.safetensors"
    adapter.write_bytes(b"old")
    started = time.time() + 0.001
    time.sleep(0.02)
    assert adapter_stamp(str(tmp_path), started) is not None
    adapter.write_bytes(b"new")
    os.utime(adapter, (5, 5))  # as `cp -p` and archives leave it
    assert adapter_stamp(str(tmp_path), started) is None, "the engine may still compute with the old one"
    assert adapter_stamp(str(tmp_path), time.time() + 1) is not None, "after a restart it does not"
