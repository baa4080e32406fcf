"""What the gateway's disk loses comes back from the indexer, without a restart and without a change of a file."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from aicockpit.workspace.blobs import digest, read
from indexer_site import Site, many, put, repository

SOON_S, NEVER_S = 0.2, 3600.0


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with repository(tmp_path) as made:
        put(made.root, many("main", 60))
        yield made


def damage(site: Site, count: int) -> None:
    """Files of the store are cut, and a reader finds out."""
    assert site.store is not None
    for file in site.store.files(site.info.id)[:count]:
        name = file.hash.hex()
        os.truncate(site.store.blob_folder / name[:2] / name, 3)
        assert read(site.store.blob_folder, file.hash) is None


async def whole(site: Site) -> None:
    """Every content of the tree is in the store again. No reader helps: one that reads a lost one would tell."""
    wanted = {digest(data) for data in site.on_disk().values()}

    def there() -> bool:
        assert site.store is not None
        folder = site.store.blob_folder
        return all((folder / hash.hex()[:2] / hash.hex()).exists() for hash in wanted)

    await site.until(there)
    await site.equal()


async def watched(site: Site, ask_s: float) -> None:
    site.watch(ask_s=ask_s)
    await site.equal()
    await site.until(lambda: site.said[-1].phase == "watching")


async def test_damage_heals_while_nobody_saves(site: Site) -> None:
    await watched(site, SOON_S)
    damage(site, 5)
    await site.until(lambda: site.info.revision == 2)
    await whole(site)
    await site.until(lambda: (site.said[-1].phase, site.said[-1].revision) == ("watching", 2))
    told = len(site.said)
    await asyncio.sleep(3 * SOON_S)
    assert site.info.revision == 2, "asked once more, nothing moves"
    assert len(site.said) == told, "and nothing is said of it"


async def test_damage_heals_with_the_next_save(site: Site) -> None:
    await watched(site, NEVER_S)
    damage(site, 60)
    put(site.root, {"new.py": "a save"})
    await whole(site)


async def test_a_database_without_its_blobs_heals(site: Site) -> None:
    await watched(site, SOON_S)
    await site.close()
    shutil.rmtree(site.folder / "store/blobs")
    await site.open()
    await whole(site)


async def test_blobs_that_vanish_while_it_runs_heal_after_the_collection(site: Site) -> None:
    await watched(site, SOON_S)
    assert site.store is not None
    shutil.rmtree(site.store.blob_folder)
    await asyncio.to_thread(site.store.collect)
    await whole(site)


async def test_an_indexer_that_starts_heals_what_was_found_while_it_was_away(site: Site) -> None:
    await watched(site, NEVER_S)
    await site.unwatch()
    damage(site, 3)
    assert site.store is not None
    await asyncio.to_thread(site.store.collect)
    site.watch(ask_s=NEVER_S)
    await whole(site)


async def test_a_gateway_whose_disk_is_one_of_yesterday_is_told_again(site: Site) -> None:
    await watched(site, SOON_S)
    await site.close()
    shutil.copytree(site.folder / "store", site.folder / "backup")
    kept = dict(site.warm.tree)
    await site.open()
    put(site.root, {"later.py": "after the backup"})
    await site.equal()
    await site.close()
    shutil.rmtree(site.folder / "store")
    (site.folder / "backup").rename(site.folder / "store")
    site.warm.tree = kept
    await site.open()
    await whole(site)


async def test_asking_does_not_make_a_deleted_workspace_again(site: Site) -> None:
    await watched(site, SOON_S)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=f"{site.folder}/g.sock")) as client:
        assert (await client.delete("http://gateway/api/workspaces/w")).status_code == 204
    end = time.monotonic() + 4 * SOON_S
    while time.monotonic() < end:
        assert site.store is not None
        assert site.store.list() == []
        await asyncio.sleep(0.02)
    site.warm.tree.clear()
    put(site.root, {"new.py": "a save makes it again"})
    await site.equal()
