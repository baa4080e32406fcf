"""`/api/workspaces` over ASGI: who sees what, what is refused, and what the warm side is told."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from aicockpit.errors import ApiError
from aicockpit.gateway import workspaces
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.intake import Intake
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import StoreLimits
from rig import engine_of
from workspaces_rig import ALL, LIMITS, Site, code, framed, post, push, site_in


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path / "store") as made:
        yield made


@pytest.fixture
async def key(site: Site) -> httpx.AsyncClient:
    client = site.client(Caller("laptop", False))
    await client.put("/tree")
    return client


async def test_a_tree_is_made_synced_looked_at_and_deleted(site: Site) -> None:
    client = site.client(Caller("laptop", False))
    made = await client.put("/tree")
    assert made.status_code == 201
    again = await client.put("/tree")
    assert (again.status_code, again.json()) == (200, made.json())
    status = made.json()
    assert 0 <= time.time() - status.pop("created") < 60
    assert 0 <= time.time() - status.pop("used") < 60
    context = {"epoch": f"of {site.store.list()[0].id}"}
    assert status == {"name": "tree", "owner": "laptop", "revision": 0, "files": 0, "bytes": 0, "context": context}

    tree = {f"src/f{number}.py": b"%d" % number for number in range(5)}
    answer = await post(client, tree)
    expected = [digest(tree[path]).hex() for path in sorted(tree)][:3]
    assert answer == {"applied": False, "revision": 0, "missing": expected, "missing_count": 5}
    assert site.warm.told == []
    assert (await push(client, framed(*tree.values()))).json() == {"stored": 5, "known": 0}
    assert (await push(client, framed(*tree.values()), packed=False)).json() == {"stored": 0, "known": 5}
    done = {"applied": True, "revision": 1, "missing": [], "missing_count": 0}
    assert await post(client, tree) == done
    assert await post(client, tree) == done
    assert (await client.get("/tree")).json()["files"] == 5
    assert (await post(client, {"new": b"1"}, 1, removed=["src/f0.py"]))["revision"] == 2
    number = site.store.list()[0].id
    assert site.warm.told == [("changed", number, sorted(tree)), ("changed", number, ["new", "src/f0.py"])]

    assert (await client.delete("/tree")).status_code == 204
    assert site.warm.told[-1] == ("deleted", number)
    for gone in (await client.get("/tree"), await client.delete("/tree"), await client.post("/tree/manifest")):
        assert code(gone) == (404, "workspace_not_found")


async def test_an_older_revision_is_told_the_current_one(key: httpx.AsyncClient) -> None:
    await push(key, framed(b"1"))
    assert (await post(key, {"a": b"1"}))["revision"] == 1
    error = (await post(key, {"b": b"1"}, 0))["error"]
    assert (error["code"], error["revision"], error["origin"]) == ("revision_conflict", 1, "gateway")
    assert (await key.post("/tree/manifest", json={"base": 3, "files": []})).status_code == 409


async def test_a_key_sees_its_own_and_the_servers_workspaces(site: Site) -> None:
    mine, other = site.client(Caller("a", False)), site.client(Caller("b", False))
    server, boss = site.client(CONTROL), site.client(Caller("boss", True))
    await mine.put("/secret")
    await server.put("/shared")
    assert (await server.get("/shared")).json()["owner"] == "server"

    async def seen(client: httpx.AsyncClient) -> list[str]:
        return [f"{found['owner']}/{found['name']}" for found in (await client.get(ALL)).json()["workspaces"]]

    assert await seen(mine) == ["a/secret", "server/shared"]
    assert await seen(other) == ["server/shared"]
    assert await seen(boss) == await seen(server) == ["a/secret", "server/shared"]
    for path in ("/secret", "/never"):
        for method, rest in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/manifest"),
            ("POST", "/blobs"),
            ("POST", "/focus"),
        ):
            assert code(await other.request(method, path + rest)) == (404, "workspace_not_found")
    assert (await other.post("/shared/focus", json={"path": "a.py"})).status_code == 202
    for method, rest in (("DELETE", ""), ("POST", "/manifest"), ("POST", "/blobs")):
        assert code(await other.request(method, "/shared" + rest)) == (403, "workspace_read_only")
    assert (await boss.post("/shared/manifest", json={"base": None, "files": []})).json()["applied"]
    for method, rest in (("DELETE", ""), ("POST", "/manifest"), ("POST", "/blobs")):
        assert code(await boss.request(method, "/secret" + rest)) == (404, "workspace_not_found")
    assert (await boss.get("/secret")).status_code == 200
    assert (await boss.delete("/shared")).status_code == 204


async def test_a_name_means_the_own_then_the_servers_then_the_only_one(site: Site) -> None:
    store = site.store
    owners = {owner: store.create(owner, "tree") for owner in ("a", "b", "server")}
    alone = store.create("a", "alone")
    assert workspaces.visible(store, Caller("a", False), "tree") == owners["a"]
    assert workspaces.visible(store, Caller("c", False), "tree") == owners["server"]
    assert workspaces.visible(store, Caller("c", True), "tree") == owners["server"]
    assert workspaces.visible(store, Caller("c", True), "alone") == alone
    assert workspaces.visible(store, Caller("c", False), "alone") is None
    store.delete(owners["server"].id)
    assert workspaces.visible(store, Caller("c", True), "tree") is None
    assert workspaces.visible(store, CONTROL, "alone") == alone


async def test_focus_reaches_the_warm_side(site: Site, key: httpx.AsyncClient) -> None:
    number = site.store.list()[0].id
    assert (await key.post("/tree/focus", json={"path": "a/b.py", "line": 7, "model": "m"})).json() == {}
    assert (await key.post("/tree/focus", json={"path": "c.py", "later": 1})).status_code == 202
    assert site.warm.told == [("focus", number, "a/b.py", 7, "m"), ("focus", number, "c.py", None, None)]
    assert code(await key.post("/tree/focus", json={"path": "../c"})) == (400, "bad_path")
    assert code(await key.post("/tree/focus", json={"path": "a", "line": -1})) == (400, "invalid_json")
    assert code(await key.post("/tree/focus", content=b'{"path": "' + b"x" * 70_000)) == (413, "body_too_large")


async def test_focus_knows_a_model_by_all_its_names_and_refuses_one_that_is_none(tmp_path: Path) -> None:
    directory = Directory([engine_of("http://127.0.0.1:9", names=("org/m", "m"))], {"gpt": "m"})
    async with site_in(tmp_path / "store", first_name=directory.first_name) as site:
        client = site.client(Caller("laptop", False))
        await client.put("/tree")
        for model in ("org/m", "m", "gpt", "m@tree"):
            assert (await client.post("/tree/focus", json={"path": "a.py", "model": model})).status_code == 202
        assert {told[4] for told in site.warm.told} == {"org/m"}
        refused = await client.post("/tree/focus", json={"path": "a.py", "model": "other"})
        assert code(refused) == (404, "model_not_found")
        assert "org/m, m, gpt" in refused.json()["error"]["message"]
        assert len(site.warm.told) == 4


async def test_limits_answer_with_their_names(site: Site, key: httpx.AsyncClient) -> None:
    async def refused(files: list[list[object]]) -> tuple[int, str]:
        return code(await key.post("/tree/manifest", json={"base": None, "files": files}))

    assert await refused([[f"{n}", digest(b"").hex(), 0, 1] for n in range(51)]) == (413, "too_many_files")
    assert await refused([["a", digest(b"").hex(), 20_001, 1]]) == (413, "file_too_large")
    gone = {"base": 0, "files": [], "removed": [f"{n}" for n in range(51)]}
    assert code(await key.post("/tree/manifest", json=gone)) == (413, "too_many_files")
    many = [[f"{n}", digest(b"%d" % n).hex(), 20_000, 1] for n in range(6)]
    assert await refused(many) == (413, "workspace_too_large")
    assert code(await push(key, framed(b"x" * 20_001))) == (413, "file_too_large")
    assert await refused([["x" * 4000, digest(b"").hex(), 0, n] for n in range(6)]) == (413, "body_too_large")
    for name in ("b", "c", "d"):
        assert (await key.put(f"/{name}")).status_code == 201
    assert code(await key.put("/e")) == (429, "too_many_workspaces")
    assert code(await key.put("/.e")) == (400, "bad_name")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (["../a", "0" * 32, 0, 1], "bad_path"),
        (["/a", "0" * 32, 0, 1], "bad_path"),
        (["a", "0" * 31, 0, 1], "bad_hash"),
        (["a", "0" * 30 + " 0", 0, 1], "bad_hash"),
        (["a", "g" * 32, 0, 1], "bad_hash"),
        (["a", "0" * 32, -1, 1], "invalid_json"),
        (["a", "0" * 32, 0, 2**63], "invalid_json"),
        (["a", "0" * 32, 0, 1.5], "invalid_json"),
        (["a", "0" * 32, 0], "invalid_json"),
        (["a", None, 0, 1], "invalid_json"),
        ("a", "invalid_json"),
    ],
)
async def test_manifests_that_are_none(key: httpx.AsyncClient, file: object, expected: str) -> None:
    assert code(await key.post("/tree/manifest", json={"base": None, "files": [file]})) == (400, expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"base":null}',
        b'{"base":-1,"files":[]}',
        b'{"base":"1","files":[]}',
        b'{"base":null,"files":[["\\ud800","' + b"0" * 32 + b'",0,1]]}',
        b'{"base":null,"files":[["\xff","' + b"0" * 32 + b'",0,1]]}',
        b"[" * 10_000,
    ],
)
async def test_bodies_that_are_no_manifest(key: httpx.AsyncClient, body: bytes) -> None:
    assert code(await key.post("/tree/manifest", content=body)) == (400, "invalid_json")


async def test_the_first_frames_of_a_broken_push_stay(site: Site, key: httpx.AsyncClient) -> None:
    assert code(await push(key, framed(b"1", b"2") + b"rest")) == (400, "broken_frame")
    assert code(await push(key, framed(b"3") + digest(b"4") + (1).to_bytes(4, "big") + b"5")) == (400, "wrong_hash")
    assert code(await push(key, framed(b"6") + digest(b"7") + (2**32 - 1).to_bytes(4, "big"))) == (400, "broken_frame")
    held = [data for data in (b"1", b"2", b"3", b"4", b"5", b"6", b"7") if site.store.blob(digest(data)) is not None]
    assert held == [b"1", b"2", b"3", b"6"]


async def test_gzip_bombs_and_broken_gzip_are_refused(key: httpx.AsyncClient) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(1024 * 1024)
    bomb = b"".join(packer.compress(piece) for _ in range(40)) + packer.flush()
    assert len(bomb) < LIMITS.push
    headers = {"content-encoding": "gzip"}
    for route in ("blobs", "manifest", "focus"):
        assert code(await key.post(f"/tree/{route}", content=bomb, headers=headers)) == (413, "body_too_large")
    whole = gzip.compress(framed(b"1"))
    for broken in (b"no gzip", b"", whole[:-1], whole + b"x", whole + whole):
        assert code(await key.post("/tree/blobs", content=broken, headers=headers)) == (400, "bad_gzip")
    other = await key.post("/tree/blobs", content=whole, headers={"content-encoding": "br"})
    assert code(other) == (415, "unsupported_content_encoding")


async def test_long_bodies_are_refused_before_and_while_they_come(key: httpx.AsyncClient) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 10_000
            yield bytes(10_000)

    assert code(await push(key, bytes(60_001), packed=False)) == (413, "body_too_large")
    assert code(await key.post("/tree/blobs", content=endless())) == (413, "body_too_large")
    assert taken <= 90_000


async def test_all_bodies_together_and_slow_ones_are_limited() -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    async def some() -> Any:
        return {"type": "http.request", "body": bytes(600), "more_body": False}

    async def left() -> Any:
        return {"type": "http.disconnect"}

    def request(receive: Any) -> Request:
        return Request({"type": "http", "method": "POST", "headers": []}, receive)

    intake = Intake(budget=1000, wait_s=0.05)
    async with intake.body(request(some), 800):
        for receive, status in ((some, 429), (never, 408), (left, 499)):
            with pytest.raises(ApiError) as refused:
                async with intake.body(request(receive), 800):
                    pass
            assert refused.value.status == status
    async with intake.body(request(some), 800) as body:
        assert body == bytes(600)


async def test_a_defect_of_the_warm_side_is_logged_and_the_sync_stands(
    site: Site, key: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    site.warm.broken = True
    await push(key, framed(b"1"))
    assert (await post(key, {"a": b"1"}))["applied"]
    assert "a defect of the warm side" in caplog.text
    assert (await key.get("/tree")).json()["revision"] == 1


async def test_a_client_that_leaves_while_it_syncs_leaves_no_revision_untold(
    site: Site, key: httpx.AsyncClient
) -> None:
    for number in range(20):
        data = b"%d" % number
        await push(key, framed(data))
        request = asyncio.create_task(post(key, {"a": data}))
        for _ in range(number):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
    info = site.store.list()[0]
    await post(key, {"b": b"1"})
    found = site.store.info(info.id)
    assert found
    assert found.revision == len(site.warm.told) > 0


async def test_a_large_manifest_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    held = 0.0

    async def watch() -> None:
        nonlocal held
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            held = max(held, time.perf_counter() - began - 0.005)

    tree = [[f"src/package{n % 97}/module{n}.py", digest(b"%d" % (n % 9)).hex(), 1, n] for n in range(30_000)]
    body = gzip.compress(json.dumps({"base": None, "files": tree}).encode(), 1)
    async with site_in(tmp_path / "store", StoreLimits()) as site:
        client = site.client(Caller("laptop", False))
        await client.put("/tree")
        await push(client, framed(*(b"%d" % n for n in range(9))))
        watching = asyncio.create_task(watch())
        began = time.monotonic()
        answer = await client.post("/tree/manifest", content=body, headers={"content-encoding": "gzip"}, timeout=30)
        spent = time.monotonic() - began
        watching.cancel()
        assert answer.json() == {"applied": True, "revision": 1, "missing": [], "missing_count": 0}
        # Collecting garbage may hold it for a moment, and on a busy machine for longer; the work itself must not.
        assert held < 0.75 * spent
