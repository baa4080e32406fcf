"""`GET /v1/models` with a caller's own workspaces in it."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx

from aicockpit.gateway import admin, workspaces
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.metrics import EngineCollector, Metrics
from aicockpit.gateway.records import Records
from aicockpit.workspace.store import Store, StoreLimits
from rig import Fleet, engine_of

ME, OTHER = Caller("me", False), Caller("other", False)


async def test_a_key_is_listed_its_own_workspaces_and_the_servers(tmp_path: Path) -> None:
    store = Store(tmp_path, StoreLimits())
    for owner, name in ((ME.id, "mine"), (OTHER.id, "theirs"), (workspaces.SERVER, "shared"), (ME.id, "shared")):
        store.create(owner, name)
    assert sorted(workspaces.names(store, ME)) == ["mine", "shared"]
    assert workspaces.names(store, CONTROL) == ["shared"]
    engine = engine_of("http://127.0.0.1:9", names=("org/m@2", "m"))
    fleet, directory = Fleet([engine]), Directory([engine], {})
    collector = EngineCollector(fleet.engines, lambda: [])
    app = admin.build(
        fleet,
        directory,
        Metrics(),
        collector,
        Records(),
        lambda: None,
        workspaces=lambda one: workspaces.names(store, one),
    )

    async def called(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, "aicockpit.caller": ME, "aicockpit.request_id": "test"}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(called), base_url="http://gateway") as client:
        listed = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        found = [(await client.get(f"/v1/models/{name}")).json().get("workspace", "-") for name in listed]
        missing = [(await client.get(f"/v1/models/{name}")).status_code for name in ("m@theirs", "nope@mine", "@mine")]
    store.close()
    assert listed[:2] == ["org/m@2", "m"]
    assert sorted(listed[2:]) == ["org/m@2@mine", "org/m@2@shared"]
    assert found[:2] == ["-", "-"]
    assert sorted(found[2:]) == ["mine", "shared"]
    assert missing == [404, 404, 404]
