"""Folders that the server indexes itself: who may ask, which folder it is, and the life of the indexers."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response

from aicockpit import watch
from aicockpit.errors import ApiError, Conflict, Overloaded
from aicockpit.gateway import envelope, folders, workspaces
from aicockpit.gateway.auth import ANYONE, CONTROL, Caller
from aicockpit.gateway.exchange import Exchange
from aicockpit.gateway.records import Records
from aicockpit.types import Lane
from aicockpit.workspace.store import Store
from fake_client import start_fake
from serving import serving
from workspaces_rig import Asked, code

ADMIN = Caller("boss", True)
LOCAL = ("127.0.0.1", 50000)
# Notes each start; says what an indexer says; ends when its stdin does, or at once.
INDEXER = """
import os, sys
with open({log!r}, "a") as log:
    print(os.getpid(), *sys.argv[1:], "KEY" if "AICOCKPIT_API_KEY" in os.environ else "", file=log)
print("looking for files", flush=True)
if {dies}:
    print("the state folder cannot be written", flush=True)
    sys.exit(1)
print("in sync: 3 files at revision 1", flush=True)
sys.stdin.read()
"""


@dataclass
class Rig:
    folder: Path
    store: Store
    kept: folders.Folders
    app: FastAPI
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, caller: Caller = ADMIN, address: tuple[str, int] | None = LOCAL) -> httpx.AsyncClient:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            more = {"aicockpit.caller": caller, "aicockpit.request_id": "test", "client": address}
            await self.app({**scope, **more}, receive, send)

        made = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway/api/workspaces")
        self.clients.append(made)
        return made

    def tree(self, name: str = "tree") -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def started(self) -> list[list[str]]:
        log = self.folder / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def asked(folder: Path, **other: Any) -> dict[str, Any]:
    seen = folder.stat()
    return {"path": str(folder), "device": seen.st_dev, "inode": seen.st_ino, **other}


def indexer(folder: Path, dies: bool = False) -> tuple[str, ...]:
    return sys.executable, "-c", INDEXER.format(log=str(folder / "log"), dies=dies)


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setenv("AICOCKPIT_API_KEY", "a secret of the server's")
    app = FastAPI()

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return Response(envelope.body(error, "test"), error.status, media_type="application/json")

    store = Store(tmp_path / "store")
    kept = folders.Folders(tmp_path, folders.FolderLimits(folders=2, again_s=0.02, end_s=5.0), indexer(tmp_path))
    workspaces.add(app, store, Asked(), folders=kept)
    folders.add(app, store, kept)
    made = Rig(tmp_path, store, kept, app)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.aclose()
        await kept.close()
        store.close()


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def state(rig: Rig, name: str = "tree") -> str:
    return str((rig.kept.told(name) or {}).get("state"))


async def test_an_admin_of_this_machine_has_a_folder_indexed_and_asking_twice_is_the_same(rig: Rig) -> None:
    tree, client = rig.tree(), rig.client()
    made = await client.put("/tree/folder", json=asked(tree))
    assert (made.status_code, made.json()["folder"]["path"]) == (201, str(tree))
    assert (await client.put("/tree/folder", json=asked(tree))).status_code == 200
    await until(lambda: state(rig) == "synced")
    ((_, *words),) = rig.started()
    assert words == ["watch", str(tree), "--until-eof", "--name", "tree"], "and no key of the server's"
    found = (await client.get("/tree")).json()
    told = {"path": str(tree), "state": "synced", "told": "in sync: 3 files at revision 1"}
    assert (found["owner"], found["folder"]) == ("server", told)
    assert "folder" not in (await rig.client(Caller("laptop", False)).get("/tree")).json()


async def test_leaving_a_folder_ends_its_indexer_and_keeps_the_workspace(rig: Rig) -> None:
    client = rig.client()
    await client.put("/tree/folder", json=asked(rig.tree()))
    await until(lambda: state(rig) == "synced")
    process = psutil.Process(int(rig.started()[0][0]))
    assert (await client.delete("/tree/folder")).status_code == 204
    assert not process.is_running()
    assert (await client.delete("/tree/folder")).status_code == 204, "also when there is none"
    assert "folder" not in (await client.get("/tree")).json()


async def test_deleting_the_workspace_ends_the_indexer_that_would_make_it_anew(rig: Rig) -> None:
    client = rig.client()
    await client.put("/tree/folder", json=asked(rig.tree()))
    await until(lambda: state(rig) == "synced")
    assert (await client.delete("/tree")).status_code == 204
    assert rig.kept.told("tree") is None
    assert (await client.get("/tree")).status_code == 404


@pytest.mark.parametrize(
    ("caller", "address", "headers", "status"),
    [
        (ADMIN, LOCAL, {}, 201),
        (ADMIN, ("::1", 1), {}, 201),
        (ADMIN, ("::ffff:127.0.0.1", 1), {}, 201),
        (ANYONE, LOCAL, {}, 201),
        (CONTROL, None, {}, 201),
        (Caller("laptop", False), LOCAL, {}, 403),
        (ADMIN, ("192.0.2.7", 1), {}, 403),
        (ADMIN, ("fe80::1%eth0", 1), {}, 403),
        (ADMIN, ("localhost.example.org", 1), {}, 403),
        (ADMIN, None, {}, 403),
        (ADMIN, LOCAL, {"x-forwarded-for": "192.0.2.7"}, 403),
        (ADMIN, LOCAL, {"forwarded": "for=192.0.2.7"}, 403),
        (ADMIN, LOCAL, {"via": "1.1 proxy"}, 403),
    ],
)
async def test_only_admins_of_this_machine_may_ask(
    rig: Rig, caller: Caller, address: tuple[str, int] | None, headers: dict[str, str], status: int
) -> None:
    client = rig.client(caller, address)
    answer = await client.put("/tree/folder", json=asked(rig.tree()), headers=headers)
    assert answer.status_code == status, answer.text
    assert bool(rig.kept.told("tree")) == (status == 201)
    if status == 403:
        assert code(answer) == (403, "folder_not_allowed")
        assert code(await client.delete("/tree/folder", headers=headers)) == (403, "folder_not_allowed")


async def test_a_folder_that_client_and_server_do_not_see_alike_is_refused(rig: Rig) -> None:
    client, tree = rig.client(), rig.tree()
    file = tree / "file"
    file.write_text("x")
    for wrong in (
        asked(tree, inode=tree.stat().st_ino + 1),
        asked(tree, device=tree.stat().st_dev + 1),
        asked(tree, path=str(tree / "gone")),
        asked(file),
    ):
        assert code(await client.put("/tree/folder", json=wrong)) == (409, "folder_not_here"), wrong
    assert code(await client.put("/tree/folder", json=asked(tree, path="tree"))) == (400, "bad_path")
    assert code(await client.put("/tree/folder", json=asked(tree, path=f"{tree}\0"))) == (400, "bad_path")
    assert code(await client.put("/tree/folder", json={"path": str(tree)})) == (400, "invalid_json")
    assert code(await client.put("/tree/folder", json=asked(Path("/")))) == (403, "folder_not_allowed")
    assert code(await client.put("/-bad/folder", json=asked(tree))) == (400, "bad_name")
    assert rig.kept.told("tree") is None


async def test_numbers_too_large_for_a_client_s_language_may_come_as_strings(rig: Rig) -> None:
    tree = rig.tree()
    seen = tree.stat()
    body = asked(tree, device=str(seen.st_dev), inode=str(seen.st_ino))
    assert (await rig.client().put("/tree/folder", json=body)).status_code == 201


async def test_a_symlink_is_the_folder_it_leads_to(rig: Rig) -> None:
    link = rig.folder / "link"
    link.symlink_to(rig.tree())
    answer = await rig.client().put("/tree/folder", json=asked(link))
    assert answer.json()["folder"]["path"] == str(rig.tree().resolve())


async def test_a_name_stands_for_one_folder_and_there_is_a_limit(rig: Rig) -> None:
    client = rig.client()
    await client.put("/tree/folder", json=asked(rig.tree()))
    assert code(await client.put("/tree/folder", json=asked(rig.tree("other")))) == (409, "folder_taken")
    await client.put("/other/folder", json=asked(rig.tree("other")))
    assert code(await client.put("/third/folder", json=asked(rig.tree("third")))) == (429, "too_many_folders")
    await client.delete("/other/folder")
    assert (await client.put("/third/folder", json=asked(rig.tree("third")))).status_code == 201


async def test_a_workspace_of_the_key_s_own_is_not_hidden_behind_the_server_s(rig: Rig) -> None:
    client = rig.client()
    await client.put("/tree")
    assert code(await client.put("/tree/folder", json=asked(rig.tree()))) == (409, "workspace_exists")
    assert (await client.get("/tree")).json()["owner"] == "boss"


async def test_the_server_s_own_tree_is_not_ended_and_has_precedence(rig: Rig) -> None:
    client, tree = rig.client(), rig.tree()
    assert rig.kept.begin(tree, "tree")
    assert not rig.kept.begin(tree, "tree", fixed=True)
    assert (await client.put("/tree/folder", json=asked(tree))).status_code == 200
    assert code(await client.delete("/tree/folder")) == (403, "folder_not_allowed")
    rig.kept.begin(rig.tree("two"), "two")
    with pytest.raises(Overloaded):
        rig.kept.begin(rig.tree("three"), "three")
    assert rig.kept.begin(rig.tree("three"), "three", fixed=True)
    with pytest.raises(Conflict):
        rig.kept.begin(rig.tree("two"), "three")


async def test_an_indexer_that_dies_begins_again_later_each_time_and_says_why(tmp_path: Path) -> None:
    limits = folders.FolderLimits(again_s=0.02, longest_s=0.1)
    kept = folders.Folders(tmp_path, limits, indexer(tmp_path, dies=True))
    rig = Rig(tmp_path, None, kept, None)  # type: ignore[arg-type]
    kept.begin(rig.tree(), "tree")
    try:
        await until(lambda: len(rig.started()) >= 3 and state(rig) == "failed")
        assert (kept.told("tree") or {})["told"] == "the state folder cannot be written"
    finally:
        await kept.close()
    count = len(rig.started())
    await asyncio.sleep(0.2)
    assert len(rig.started()) == count


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    kept = folders.Folders(tmp_path, command=(str(tmp_path / "nothing"),))
    kept.begin(tmp_path, "tree")
    await until(lambda: (kept.told("tree") or {})["state"] == "failed")
    assert "No such file" in (kept.told("tree") or {})["told"]
    await kept.close()


def test_every_phase_of_an_indexer_has_a_state() -> None:
    assert set(watch._WORDS.values()) == set(folders.STATES)


def test_a_record_tells_how_long_a_request_waited_at_the_gateway() -> None:
    records, began = Records(), time.monotonic() - 2.0
    for request_id, sent in (("sent", began + 0.5), ("never", None)):
        made = Exchange(b"POST", b"/", "/", "/", [], b"", "fake", Lane.INTERACTIVE, request_id, [])
        made.sent, made.first_byte_s = sent, 0.25 if sent else 0.0
        records.add(made, "boss", 200, began)
    sent_, never = (record.shown() for record in reversed(records.newest("boss", False, 2)))
    assert sent_["waited_s"] == 0.5
    assert 2.2 < sent_["first_byte_s"] < 2.5, "all begin at the arrival"
    assert sent_["total_s"] >= 2.0
    assert (never["waited_s"], never["first_byte_s"]) == (None, 0.0)


@pytest.mark.timeout(120)
def test_a_real_server_indexes_a_folder_and_its_indexer_ends_with_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "app.py").write_text("print(1)\n")
    with start_fake(tmp_path) as fake, serving(tmp_path, AICOCKPIT_ENGINE_URLS=f"unix:{fake.uds}") as server:
        server.until_ready()
        headers = {"authorization": "Bearer k"}
        url = f"http://127.0.0.1:{server.port}/api/workspaces/tree"
        answer = httpx.put(f"{url}/folder", headers=headers, json=asked(tree), timeout=30)
        assert answer.status_code == 201, answer.text
        end = time.monotonic() + 60
        while server.get("/api/workspaces/tree").json()["folder"]["state"] != "synced":
            assert time.monotonic() < end, server.log.read_text()
            time.sleep(0.05)
        assert server.get("/api/workspaces/tree").json()["files"] == 1
        done = server.post("/v1/completions", model="fake", prompt="x", max_tokens=1)
        record = server.get(f"/api/requests/{done.headers['x-request-id']}").json()
        assert 0 < record["waited_s"] < record["first_byte_s"] <= record["total_s"]
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert [one for one in children if "watch" in one.cmdline()]
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert os.listdir(tree) == ["app.py"]
