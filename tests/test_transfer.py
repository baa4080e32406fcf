"""models/transfer.py: what a failing network, server or disk does to a download."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # exported lazily

import fake_hub
from aicockpit.errors import ModelError
from aicockpit.models import fetch
from aicockpit.models.hub import Hub, Patience, Unreachable, disk_trouble, explained
from aicockpit.models.locate import resolve_apart
from aicockpit.models.snapshots import WrongContent
from aicockpit.settings import load
from fake_hub import CONFIG, FILES, WEIGHTS, Fault, sha256
from hub_rig import QUICK, Told, environment, hub, pull, requests_for, server

__all__ = ["environment", "hub", "server"]
NAME = sha256(WEIGHTS)
ALL = len(WEIGHTS) + len(CONFIG) + 2
FOREVER = -1


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def part_of(hub: Hub) -> Path:
    folder = hub.storage("ok/m") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{NAME}.incomplete"


@pytest.mark.parametrize("times", [1, 3])
def test_a_cut_connection_goes_on_where_it_ended(hub: Hub, server: fake_hub.Hub, times: int) -> None:
    server.fault(Fault("GET /cdn", times, cut=500_000))
    assert weights(pull(hub)) == WEIGHTS
    assert server.sent == ALL


def test_what_an_earlier_process_left_is_not_fetched_again(hub: Hub, server: fake_hub.Hub) -> None:
    part_of(hub).write_bytes(WEIGHTS[:2_000_000])
    told = Told()
    assert weights(pull(hub, told=told)) == WEIGHTS
    assert server.sent == ALL - 2_000_000
    assert ("downloading", 2_000_000, ALL) in told.lines


@pytest.mark.parametrize("left", [b"x" * 2_000_000, b"x" * len(WEIGHTS), b"x" * 9_000_000])
def test_what_an_earlier_process_left_damaged_is_fetched_again(hub: Hub, server: fake_hub.Hub, left: bytes) -> None:
    part_of(hub).write_bytes(left)
    assert weights(pull(hub)) == WEIGHTS


def test_a_server_without_ranges_sends_all_again(hub: Hub, server: fake_hub.Hub) -> None:
    part_of(hub).write_bytes(WEIGHTS[:2_000_000])
    server.fault(Fault("GET /cdn", ranges=False))
    assert weights(pull(hub)) == WEIGHTS
    assert server.sent == ALL


def test_a_connection_that_is_always_cut_is_given_up(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /cdn", 1, cut=500_000))
    server.fault(Fault("GET /cdn", FOREVER, cut=0))
    with pytest.raises(Unreachable, match=r"not complete in the cache .*failed: .*a cut download goes on"):
        pull(hub)
    assert requests_for(server, "GET /cdn") == QUICK.tries  # the first of which brought something
    assert part_of(hub).stat().st_size == 500_000


@pytest.mark.parametrize(
    "where", ["GET /api/models/ok/m$", "GET /api.*tree", "GET /ok/m/resolve", "GET /cdn", "HEAD /ok"]
)
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: Hub, server: fake_hub.Hub, where: str, status: int) -> None:
    server.fault(Fault(where, 1, status=status))
    assert weights(pull(hub)) == WEIGHTS


def test_a_server_that_falls_silent_is_asked_again(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /cdn", 1, pause=1.5))
    assert weights(pull(hub, patience=replace(QUICK, silence_s=0.2))) == WEIGHTS


def test_retry_after_is_obeyed_and_told(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /cdn", 1, status=429, headers={"Retry-After": "1"}))
    began, told = time.monotonic(), Told()
    assert weights(pull(hub, told=told)) == WEIGHTS
    assert time.monotonic() - began >= 1
    assert "downloading (the Hub answered 429, asking again in 1 s):" in told.steps


def test_a_wait_that_is_too_long_is_told_instead(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /cdn", 1, status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(Unreachable, match=r"answered 429 for ok/m. It asks to wait 3600 s .*HF_TOKEN"):
        pull(hub)


def test_waits_grow_up_to_a_limit_and_end() -> None:
    patience = Patience(tries=6, first_s=1, most_s=5)
    waits = [patience.wait(ConnectionError(), n) for n in range(1, 7)]
    assert waits == [1, 2, 4, 5, 5, None]
    assert patience.wait(OSError(errno.ENOSPC, "full"), 1) is None
    assert patience.wait(PermissionError(), 1) is None


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"RateLimit": '"api";r=0;t=7'}, 7, 7),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
        ({"Retry-After": "soon"}, 1, 1),
        ({}, 1, 1),
    ],
)
def test_every_way_to_ask_for_a_wait(
    hub: Hub, server: fake_hub.Hub, headers: dict[str, str], least: float, most: float
) -> None:
    server.fault(Fault("GET /api", 1, status=429, headers=headers))
    with pytest.raises(OSError, match="429") as caught:
        hub.api.model_info("ok/m")
    wait = Patience(3).wait(caught.value, 1)
    assert wait is not None
    assert least <= wait <= most


def test_wrong_content_is_removed_and_told(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /cdn", FOREVER, wrong=True))
    with pytest.raises(WrongContent, match=rf"model.safetensors of ok/m has the wrong content.*{NAME[:12]}.*mirror"):
        pull(hub)
    assert list((hub.storage("ok/m") / "blobs").iterdir()) == []
    server.heal()
    assert weights(pull(hub)) == WEIGHTS


def test_wrong_content_of_a_small_file_is_removed_and_told(hub: Hub, server: fake_hub.Hub) -> None:
    server.fault(Fault("GET /ok/m/resolve/.*/tokenizer.json", FOREVER, wrong=True))
    with pytest.raises(WrongContent, match=r"tokenizer.json of ok/m has the wrong content"):
        pull(hub)
    server.heal()
    assert (pull(hub) / "tokenizer.json").read_bytes() == b"{}"
    assert server.sent < 2 * len(WEIGHTS)  # the weights were right, and stay


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, server: fake_hub.Hub) -> None:
    pull(replace(hub, token="hf_abc"))
    sent: dict[bool, set[str]] = {True: set(), False: set()}
    for _, path, token in server.requests:
        sent[path.startswith("/cdn")].add(token)
    assert sent == {False: {"Bearer hf_abc"}, True: {""}}


def test_xet_is_left_out(hub: Hub, server: fake_hub.Hub) -> None:
    server.xet = True
    assert weights(pull(hub)) == WEIGHTS
    assert requests_for(server, "/api/xet") == 0


async def test_what_xet_or_the_library_brings_is_hashed_afterwards(
    environment: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")
    environment.fault(Fault("GET /cdn", 1, wrong=True))
    settings = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})
    with pytest.raises(ModelError, match=r"model.safetensors of ok/m has the wrong content"):
        await resolve_apart("ok/m", settings)
    assert weights((await resolve_apart("ok/m", settings)).path) == WEIGHTS
    environment.xet = True
    environment.publish("ok/x", {**FILES, "model.safetensors": b"another"})
    with pytest.raises(ModelError, match="answered 404 for ok/x"):  # no such storage here
        await resolve_apart("ok/x", settings)
    assert requests_for(environment, "/api/xet") == 1


def test_what_the_library_left_of_a_killed_process_is_swept(hub: Hub, server: fake_hub.Hub) -> None:
    old, new = (part_of(hub).with_name(f"{NAME}.{mark}.incomplete") for mark in ("0a0b0c0d", "1a1b1c1d"))
    for left in (old, new):
        left.write_bytes(b"x")
    os.utime(old, (0, 0))
    pull(hub)
    assert not old.exists()
    assert new.exists()  # somebody may be writing it: not every file system knows locks


async def test_two_processes_at_once_fetch_it_once(environment: fake_hub.Hub, tmp_path: Path) -> None:
    environment.fault(Fault("GET /cdn", FOREVER, pace=1_500_000))
    settings = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})
    found = await asyncio.gather(*(resolve_apart("ok/m", settings) for _ in range(2)))
    assert found[0].path == found[1].path
    assert weights(found[0].path) == WEIGHTS
    assert requests_for(environment, "GET /cdn") == 1


def test_what_another_process_brings_is_waited_for(hub: Hub, server: fake_hub.Hub) -> None:
    part, told = part_of(hub), Told()
    hub.locks("ok/m").mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, WeakFileLock(hub.locks("ok/m") / f"{NAME}.lock"):
        part.write_bytes(WEIGHTS[:1_000_000])
        ours = pool.submit(pull, hub, told=told)
        while "(another process brings the same files)" not in told.steps and not ours.done():
            time.sleep(0.05)
        part.write_bytes(WEIGHTS)
        part.rename(part.with_name(NAME))
        server.requests.clear()
    assert weights(ours.result()) == WEIGHTS
    assert requests_for(server, "GET /cdn") == 0
    assert ("downloading", 1_000_000, ALL) in told.lines


async def test_a_killed_download_goes_on_in_the_next_process(environment: fake_hub.Hub, tmp_path: Path) -> None:
    environment.fault(Fault("GET /cdn", 1, pace=2_000_000))
    settings = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})
    first = asyncio.create_task(resolve_apart("ok/m", settings))
    while environment.sent < 1_000_000 and not first.done():
        await asyncio.sleep(0.02)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0.2)
    before = environment.sent
    assert weights((await resolve_apart("ok/m", settings)).path) == WEIGHTS
    assert environment.sent - before < ALL - 300_000


async def test_a_file_system_that_takes_no_large_file_is_told(environment: fake_hub.Hub, tmp_path: Path) -> None:
    settings = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # the child inherits it
    try:
        with pytest.raises(ModelError, match=r"A file of ok/m is larger than .* takes: .*ulimit -f"):
            await resolve_apart("ok/m", settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert weights((await resolve_apart("ok/m", settings)).path) == WEIGHTS


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is too full: writing o/m failed"),
        (errno.EDQUOT, "The disk is too full"),
        (errno.EACCES, "may not be written by this user"),
        (errno.EROFS, "may not be written by this user"),
        (errno.EIO, "The disk of .* failed"),
    ],
)
def test_a_disk_s_trouble_is_told(hub: Hub, number: int, words: str) -> None:
    error = OSError(number, os.strerror(number), "/x")
    with pytest.raises(ModelError, match=words):
        raise explained(hub, "o/m", error)
    assert disk_trouble(hub, "o/m", OSError(errno.ENOENT, "x")) is None


@pytest.mark.parametrize("left", [0, 2_900_000])
def test_space_is_looked_at_first_and_counts_what_is_there(hub: Hub, server: fake_hub.Hub, left: int) -> None:
    part_of(hub).write_bytes(WEIGHTS[:left])
    with pytest.raises(ModelError, match=r"too full: ok/m needs [0-9.]+ MB more, 0.2 GB are free .*HF_HOME"):
        fetch.download(hub, "ok/m", free=lambda folder: 200_000_000 + ALL - left - 1)
    assert server.sent == 0
    fetch.download(hub, "ok/m", free=lambda folder: 200_000_000 + ALL - left)


def test_odd_names_arrive(hub: Hub, server: fake_hub.Hub) -> None:
    odd = {"größe [1] 日本*.json": b"{}", "sub dir/ü?.txt": b"x", "mödel-00001-of-00001.safetensors": WEIGHTS[:5000]}
    rest = {name: FILES[name] for name in ("config.json", "tokenizer.json")}
    server.publish("ok/m", {**rest, **odd})
    folder = pull(hub)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {*rest, *odd}
