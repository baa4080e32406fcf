"""`/api/workspaces`: what no caller reaches, and what no body makes the gateway hold."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.workspace.store import StoreLimits
from workspaces_rig import LIMITS, Site, code, framed, post, push, site_in


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path / "store") as made:
        yield made


async def test_an_admin_whose_workspace_is_gone_does_not_write_into_another_keys(site: Site) -> None:
    bob, clients = site.client(Caller("bob", False)), (site.client(Caller("boss", True)), site.client(CONTROL))
    await bob.put("/tree")
    await push(bob, framed(b"bob's"))
    await post(bob, {"a.py": b"bob's"})
    for client in clients:
        await client.put("/tree")
        assert (await client.delete("/tree")).status_code == 204
        assert (await post(client, {}))["error"]["code"] == "workspace_not_found"
        assert code(await push(client, framed(b"x"))) == (404, "workspace_not_found")
        assert code(await client.delete("/tree")) == (404, "workspace_not_found")
    info = site.store.find("bob", "tree")
    assert info
    assert (info.revision, info.files) == (1, 1)


@pytest.mark.parametrize("packed", [True, False])
async def test_far_too_many_names_are_refused_before_they_are_decoded(tmp_path: Path, packed: bool) -> None:
    body = b'{"base":0,"files":[],"removed":[' + b",".join([b'"x"'] * 1_000_000) + b"not even JSON"
    async with site_in(tmp_path / "store", StoreLimits(files=1000)) as site:
        client = site.client(Caller("laptop", False))
        await client.put("/tree")
        headers = {"content-encoding": "gzip" if packed else "identity"}
        content = gzip.compress(body, 1) if packed else body
        assert code(await client.post("/tree/manifest", content=content, headers=headers)) == (413, "too_many_files")


def test_a_manifest_may_be_as_long_as_its_files_need() -> None:
    assert StoreLimits().manifest_body == 64 * 1024 * 1024
    assert StoreLimits(files=1_000_000).manifest_body == 256_000_000
    assert LIMITS.manifest_body == 20_000
