"""models/cache.py and models/prune.py: what lies in a cache, sound or broken, and what may go."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported lazily
from hypothesis import given, settings
from hypothesis import strategies as st

import fake_hub
from aicockpit.errors import ModelError
from aicockpit.models import cache, prune, records, smollm2
from aicockpit.models.cache import DAY_S, Entry, Listing
from aicockpit.models.hub import Hub
from aicockpit.models.locate import resolve
from aicockpit.models.records import Records
from aicockpit.models.snapshots import cached
from aicockpit.settings import load
from fake_hub import CONFIG, FILES, SHA, WEIGHTS, Fault, sha256
from hub_rig import QUICK, hub, pull, server

__all__ = ["hub", "server"]
NEXT = "b" * 40
SIZE = len(WEIGHTS) + len(CONFIG) + 2
NAME = sha256(WEIGHTS)


def look(hub: Hub, now: float | None = None) -> Listing:
    return cache.listing(hub, hub.cache.parent / "state", now)


def only(hub: Hub) -> Entry:
    (entry,) = look(hub).entries
    return entry


def update(hub: Hub, server: fake_hub.Hub) -> None:
    """`ok/m` at two revisions, which share the weights."""
    pull(hub)
    server.publish("ok/m", {**FILES, "config.json": CONFIG + b" "}, NEXT)
    pull(hub)


def test_a_machine_without_models(hub: Hub) -> None:
    assert look(hub) == Listing(hub.cache, (), (), 0)


def test_a_model_is_listed_with_what_is_known(hub: Hub) -> None:
    began = time.time()
    folder = pull(hub)
    entry = only(hub)
    assert (entry.model, entry.revision, entry.refs, entry.path) == ("ok/m", SHA, ("main",), folder)
    assert (entry.size, look(hub).size, entry.lack, entry.sound) == (SIZE, SIZE, "", True)
    assert entry.used is None
    assert entry.modified is not None
    assert entry.hashed is not None
    assert min(entry.modified, entry.hashed) > began - 5


def test_last_used_is_when_a_server_started_with_it_and_not_when_its_files_were_read(hub: Hub) -> None:
    folder = pull(hub)
    os.utime(folder / "model.safetensors", (time.time() + 100, 0))
    assert only(hub).used is None
    began = time.time()
    resolve("ok/m", load(environ={}), hub=hub)
    used = only(hub).used
    assert used is not None
    assert began - 1 < used <= time.time()
    os.utime(folder / "model.safetensors", (0, 0))
    resolve(str(folder), load(environ={}), hub=hub)  # the same revision, by its folder
    assert (only(hub).used or 0) > used
    assert only(hub).touched == only(hub).used


def test_two_revisions_share_what_they_share(hub: Hub, server: fake_hub.Hub) -> None:
    update(hub, server)
    new, old = sorted(look(hub).entries, key=lambda entry: entry.refs, reverse=True)
    assert (new.revision, new.refs, old.refs) == (NEXT, ("main",), ())
    assert look(hub).size == SIZE + len(CONFIG) + 1
    assert prune.alone([old], [new]) == len(CONFIG)
    assert prune.alone([old, new], []) == look(hub).size
    prune.remove(hub, [old])
    assert only(hub) == replace(new, accessed=only(hub).accessed)
    assert (new.path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_copy_of_a_repository_has_its_commits_and_is_left_alone(hub: Hub) -> None:
    pull(hub, "ok/m")
    pull(hub, "ok/copy")
    (entry,) = [entry for entry in look(hub).entries if entry.model == "ok/m"]
    prune.remove(hub, [entry])
    assert only(hub).model == "ok/copy"
    assert not hub.storage("ok/m").exists()


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
def test_a_dangling_link_is_listed_found_mended_and_removed(hub: Hub, lost: str) -> None:
    folder = pull(hub)
    (folder / lost).resolve().unlink()
    entry = only(hub)
    assert (entry.lack, entry.sound, entry.refs) == (f"1 of 3 files (such as {lost})", False, ("main",))
    assert entry.size == SIZE - len(FILES[lost])
    assert cache.verify(hub, entry).lack == entry.lack
    pull(hub)
    assert only(hub).lack == ""
    (folder / lost).resolve().unlink()
    prune.remove(hub, [only(hub)])
    assert look(hub).entries == ()
    assert not hub.storage("ok/m").exists()


def test_one_broken_revision_of_two_is_removed_alone(hub: Hub, server: fake_hub.Hub) -> None:
    update(hub, server)
    (hub.storage("ok/m") / "snapshots" / SHA / "config.json").resolve().unlink()
    found = {entry.revision: entry for entry in look(hub).entries}
    assert (found[SHA].lack, found[NEXT].lack) == ("1 of 3 files (such as config.json)", "")
    prune.remove(hub, [found[SHA]])
    assert (only(hub).revision, only(hub).sound) == (NEXT, True)
    assert cached(hub, "ok/m").lack == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["rm", "prune"])
def test_a_cut_download_is_listed_with_what_is_missing(hub: Hub, server: fake_hub.Hub, way: str) -> None:
    server.fault(Fault("GET /cdn", 1, cut=1_000_000))
    server.fault(Fault("GET /cdn", -1, cut=0))
    with pytest.raises(ModelError):
        pull(hub)
    entry = only(hub)
    assert (entry.model, entry.revision, entry.size) == ("ok/m", SHA, 1_000_000)
    assert entry.lack == "2.1 MB of 3.1 MB (a cut download)"
    lock = hub.locks("ok/m") / f"{NAME}.lock"
    with WeakFileLock(lock):
        assert (only(hub).lack, only(hub).busy) == ("2.1 MB of 3.1 MB (being downloaded)", True)
        assert look(hub, time.time() + 2 * DAY_S).leftovers == ()
    assert look(hub).leftovers == ()  # it may be gone on with for a day
    (left,) = look(hub, time.time() + 2 * DAY_S).leftovers
    assert (left.path.name, left.why) == (f"{NAME}.incomplete", "part of a cut download")
    if way == "rm":
        prune.remove(hub, [entry])
    else:
        prune.remove(hub, [], [left])
    assert look(hub).entries == ()
    assert not hub.storage("ok/m").exists()


def test_a_cut_update_is_listed_beside_the_revision_that_it_updates(hub: Hub, server: fake_hub.Hub) -> None:
    pull(hub)
    server.publish("ok/m", {**FILES, "model.safetensors": WEIGHTS[::-1]}, NEXT)
    server.fault(Fault("GET /cdn", -1, cut=100_000))
    server.fault(Fault("GET /cdn", -1, cut=0))
    with pytest.raises(ModelError):
        pull(hub, patience=replace(QUICK, tries=1))
    found = {entry.revision: entry for entry in look(hub).entries}
    assert found[SHA].lack == ""
    assert found[NEXT].lack == "3.0 MB of 3.1 MB (a cut download)"
    assert look(hub).size == SIZE + 100_000
    prune.remove(hub, [found[NEXT]])
    assert only(hub).revision == SHA
    assert look(hub).size == SIZE


def test_another_program_s_remains_are_listed(hub: Hub) -> None:
    blobs = hub.storage("o/cut") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{NAME}.0a0b0c0d.incomplete").write_bytes(b"x" * 500)
    assert only(hub).lack == "nobody knows how much (a cut download)"
    assert only(hub).size == 500
    (blobs / f"{NAME}.0a0b0c0d.incomplete").unlink()
    assert only(hub).lack == "everything: an empty folder"
    prune.remove(hub, [only(hub)])
    assert look(hub).entries == ()


def test_a_branch_that_names_a_revision_that_never_came(hub: Hub) -> None:
    pull(hub)
    (hub.storage("ok/m") / "refs" / "main").write_text(NEXT)  # the library then skips the whole model
    assert (only(hub).lack, only(hub).revision, only(hub).sound) == ("", SHA, False)


def test_blobs_of_no_revision_are_left_over_after_a_day(hub: Hub) -> None:
    pull(hub)
    blobs = hub.storage("ok/m") / "blobs"
    (blobs / ("f" * 64)).write_bytes(b"x" * 700)
    assert look(hub).leftovers == ()
    (left,) = look(hub, time.time() + 2 * DAY_S).leftovers
    assert (left.size, left.why) == (700, "in no revision")
    prune.remove(hub, [], [left])
    assert look(hub, time.time() + 2 * DAY_S).leftovers == ()
    assert cached(hub, "ok/m").lack == ""  # type: ignore[union-attr]


def test_what_is_no_model_is_counted_and_left_alone(hub: Hub) -> None:
    folder = hub.cache / "datasets--o--d" / "snapshots" / SHA
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(b"x" * 900)
    (hub.cache / "notes.txt").touch()
    found = look(hub)
    assert (found.entries, found.leftovers, found.others) == ((), (), 900)


def test_gguf_alone_is_said(hub: Hub) -> None:
    folder = hub.storage("o/gguf") / "snapshots" / SHA
    folder.mkdir(parents=True)
    (folder / "m.Q4.gguf").write_bytes(b"x")
    assert only(hub).lack == "weights in a format of vLLM's (GGUF only)"


def test_converted_models_are_listed_and_removed(hub: Hub) -> None:
    folder = hub.cache.parent / "state" / "models" / "SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(FILES[name])
    entry = only(hub)
    assert (entry.model, entry.kind, entry.used) == (smollm2.REPO_ID, "converted", None)
    assert entry.size == len(WEIGHTS) + len(CONFIG)
    assert cache.verify(hub, entry) == cache.Checked(0, (), 2, "")
    records.note_converted_used(folder)
    assert only(hub).used is not None
    prune.remove(hub, [entry])
    assert list(folder.parent.iterdir()) == []


def test_verify_reads_everything_and_leaves_no_time_of_access(hub: Hub) -> None:
    folder = pull(hub)
    for note in (hub.storage("ok/m") / ".aicockpit" / "hashed").iterdir():
        note.unlink()
    assert only(hub).hashed is None
    blob = (folder / "model.safetensors").resolve()
    os.utime(blob, (1000, 2000))
    told: list[int] = []
    assert cache.verify(hub, only(hub), told.append) == cache.Checked(3, (), 0, "")
    assert told == sorted(told)
    assert told[-1] == SIZE
    assert only(hub).hashed is not None
    assert blob.stat().st_atime == 1000
    with blob.open("r+b") as file:
        file.write(b"x")
    checked = cache.verify(hub, only(hub))
    assert (checked.right, checked.wrong, checked.good) == (2, (folder / "model.safetensors",), False)
    assert only(hub).hashed is None  # what was noted was of another time


def test_verify_of_another_program_s_copy_needs_no_note(hub: Hub) -> None:
    folder = pull(hub)
    (hub.storage("ok/m") / ".aicockpit").rename(hub.cache / "gone")
    assert only(hub).hashed is None
    (folder / "tokenizer.json").resolve().write_bytes(b"[]")
    assert cache.verify(hub, only(hub)).wrong == (folder / "tokenizer.json",)


def test_damaged_notes_are_as_none(hub: Hub) -> None:
    pull(hub)
    for note in (hub.storage("ok/m") / ".aicockpit").rglob("*.json"):
        note.write_text("[1")
    assert (only(hub).lack, only(hub).hashed, only(hub).used) == ("", None, None)
    assert Records(hub.storage("ok/m")).intents() == {}


def test_what_cannot_be_removed_is_told(hub: Hub) -> None:
    folder = pull(hub)
    (folder / "config.json").resolve().unlink()
    entry = only(hub)
    prune.remove(hub, [entry])
    with pytest.raises(ModelError, match=r"could not be removed: No such file"):
        prune.remove(hub, [entry])


def nobody(entry: Entry) -> str:
    return ""


def entry(name: str, used: float, *blobs: tuple[str, int]) -> Entry:
    files = frozenset((Path(blob), size) for blob, size in blobs)
    return Entry(name, "cache", SHA, (), Path(name), files, modified=0.0, used=used)


def test_age_and_space_choose_the_longest_unused_and_say_why() -> None:
    now = 100 * DAY_S
    old, mid, new = (entry(f"o/{n}", n * 30 * DAY_S, (f"b{n}", 10**9)) for n in (0, 1, 3))
    found = Listing(Path("x"), (new, old, mid), (), 0)
    by_age = prune.choose(found, nobody, now, older_than=60 * DAY_S)
    assert by_age.doomed == ((old, "not used for 100 days"), (mid, "not used for 70 days"))
    assert by_age.freed == 2 * 10**9
    by_size = prune.choose(found, nobody, now, keep=2 * 10**9)
    assert by_size.doomed == ((old, "to keep 2.0 GB; not used for 100 days"),)
    busy = prune.choose(found, lambda one: "process 7" * (one is old), now, keep=2 * 10**9)
    assert (busy.doomed[0][0], busy.spared) == (mid, ((old, "process 7"),))
    assert prune.choose(found, nobody, now).doomed == ()


def test_a_time_of_access_keeps_a_model_that_only_others_use() -> None:
    read = replace(entry("o/a", 0.0, ("a", 5)), used=None, accessed=99 * DAY_S)
    assert prune.choose(Listing(Path("x"), (read,), (), 0), nobody, 100 * DAY_S, older_than=30 * DAY_S).doomed == ()


def test_what_is_left_over_is_not_counted_twice() -> None:
    cut = entry("o/cut", 5.0, ("part", 4), ("blob", 1))
    found = Listing(Path("x"), (cut, entry("o/m", 9.0, ("a", 6))), (cache.Leftover(Path("part"), 4, "x"),), 0)
    assert found.size == 11
    assert prune.choose(found, nobody, 10.0).freed == 4
    assert prune.choose(found, nobody, 10.0, keep=7).doomed == ()
    all_of_it = prune.choose(found, nobody, 10.0, keep=6)
    assert ([one.model for one, _ in all_of_it.doomed], all_of_it.leftovers, all_of_it.freed) == (["o/cut"], (), 5)


BLOBS = st.lists(st.sampled_from("abcdefgh"), max_size=4, unique=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), BLOBS, st.booleans()), max_size=6), st.integers(0, 60))
def test_pruning_ends_below_the_limit_and_frees_what_it_says(
    rows: list[tuple[int, list[str], bool]], keep: int
) -> None:
    entries = tuple(
        entry(f"o/{n}", float(used), *((blob, ord(blob) - 90) for blob in blobs))
        for n, (used, blobs, _) in enumerate(rows)
    )
    busy = {f"o/{n}" for n, row in enumerate(rows) if row[2]}
    found = Listing(Path("x"), entries, (), 0)
    choice = prune.choose(found, lambda one: "x" if one.model in busy else "", 1000.0, keep=keep)
    doomed = [one for one, _ in choice.doomed]
    left = replace(found, entries=tuple(one for one in entries if one not in doomed))
    assert not busy & {one.model for one in doomed}
    assert found.size - left.size == choice.freed
    assert left.size <= keep or {one.model for one in left.entries if one.size} <= busy | {
        one.model for one in left.entries if prune.alone([one], [o for o in left.entries if o is not one]) == 0
    }
