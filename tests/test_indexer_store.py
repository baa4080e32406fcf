"""The real indexer against the real routes and store: what is stored is what git lists, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from indexer_site import Site, git, many, put, repository


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with repository(tmp_path) as made:
        yield made


async def test_a_day_of_a_repository(site: Site) -> None:
    root = site.root
    put(root, {**many("main"), ".gitignore": "*.log\nbuild/\n", "noise.log": "x", "build/out.txt": "x"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "main")
    git(root, "checkout", "-qb", "other")
    put(root, {name: text for n, (name, text) in enumerate(many("other").items()) if n % 3})
    shutil.rmtree(root / "pkg3")
    (root / "pkg4").rename(root / "moved")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "other")
    git(root, "checkout", "-q", "main")

    site.watch()
    await site.equal()
    for branch in ("other", "main", "other"):
        git(root, "checkout", "-q", branch)
        await site.equal()
    git(root, "checkout", "-q", "main")
    await site.equal()
    sent = site.bodies
    git(root, "checkout", "-q", "other")
    await site.equal()
    assert site.bodies == sent, "a branch that was seen before is nothing but a manifest"

    # Folders renamed, nested, swapped, deleted and made again; a file becomes a folder, a folder a file.
    (root / "pkg5").rename(root / "aaa")
    (root / "pkg6").rename(root / "aaa/inner")
    shutil.rmtree(root / "pkg7")
    put(root, {"pkg7/again.py": "again"})
    for old, new in (("pkg8", "swap"), ("pkg9", "pkg8"), ("swap", "pkg9")):
        (root / old).rename(root / new)
    shutil.rmtree(root / "pkg10")
    put(root, {"pkg10": "now a file", "plain": "a file"})
    await site.equal()
    (root / "plain").unlink()
    put(root, {"plain/now/a/folder.py": "x = 1\n", "aaa/inner/late.py": "late"})
    await site.equal()

    # Editors that write beside and rename, only the case changes, another .gitignore.
    for n in range(20):
        put(root, {f"aaa/save{n}.py~": f"saved {n}"})
        (root / f"aaa/save{n}.py~").replace(root / f"aaa/save{n}.py")
    (root / "plain").rename(root / "PLAIN")
    put(root, {".gitignore": "*.py\n!save*.py\n"})
    await site.equal()
    put(root, {".gitignore": "*.log\n"})
    await site.equal()
    await site.unwatch()


async def test_the_gateway_restarts_while_files_change(site: Site) -> None:
    root = site.root
    put(root, many("main"))
    site.watch()
    await site.equal()
    for turn in range(2):
        await site.close()
        put(root, {f"pkg{turn}/while_away.py": f"{turn}", "pkg1/sub1/mod1.py": f"away {turn}"})
        (root / f"pkg{10 + turn}").rename(root / f"renamed{turn}")
        shutil.rmtree(root / f"pkg{20 + turn}")
        await asyncio.sleep(0.3)
        await site.open()
        await site.equal()
    await site.unwatch()


async def test_the_indexer_restarts_and_finds_what_changed_meanwhile(site: Site) -> None:
    root = site.root
    put(root, many("main"))
    for turn in range(2):
        site.watch()
        await site.equal()
        revision, sent = site.info.revision, site.bodies
        await site.unwatch()
        site.watch()
        await site.until(lambda: site.said[-1].phase == "watching")
        assert (site.info.revision, site.bodies) == (revision, sent), "nothing changed, nothing moves"
        await site.unwatch()
        put(root, {f"new{turn}.py": "new", f"pkg{turn}/sub1/x.py": "x"})
        (root / f"pkg{10 + turn}").rename(root / f"renamed{turn}")
        shutil.rmtree(root / f"pkg{20 + turn}")
    site.watch()
    await site.equal()
    await site.unwatch()


async def test_the_workspace_is_deleted_and_the_store_lost(site: Site) -> None:
    put(site.root, many("main", 300))
    site.watch()
    await site.equal()
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=f"{site.folder}/g.sock")) as client:
        answer = await client.delete("http://gateway/api/workspaces/w")
        assert answer.status_code == 204
    site.warm.tree.clear()
    put(site.root, {"after.py": "after"})
    await site.equal()
    await site.close()
    shutil.rmtree(site.folder / "store")
    site.warm.tree.clear()
    await site.open()
    put(site.root, {"later.py": "later"})
    await site.equal()
    await site.unwatch()


async def test_requests_and_answers_get_lost(site: Site) -> None:
    site.breaks = ["", "deaf", "", "", "lost", "", "", "deaf"]  # PUT, manifest, blobs, manifest; from PUT on again
    put(site.root, many("main", 600))
    site.watch()
    await site.equal()
    site.breaks = ["deaf"]
    put(site.root, many("next", 600))
    await site.equal()
    assert not site.breaks
    await site.unwatch()


@pytest.mark.parametrize("seed", range(2))
async def test_a_random_walk_under_full_load(site: Site, seed: int) -> None:
    """Nobody waits for anything: files and folders come, go, move and change while they are read and pushed."""
    chance, root = random.Random(seed), site.root
    put(root, many("main", 400))
    site.watch()
    for _ in range(90):
        await asyncio.sleep(chance.choice((0, 0, 0, 0.001, 0.01, 0.06)))
        walk_one_step(chance, root)
    await site.equal(60)
    await site.unwatch()


def walk_one_step(chance: random.Random, root: Path) -> None:
    places = [Path(folder) for folder, names, _ in os.walk(root) if ".git" not in Path(folder).parts]
    folder = chance.choice(places)
    files = [path for path in folder.iterdir() if path.is_file()]
    kind = chance.randrange(8)
    name = f"n{chance.randrange(40)}"
    with contextlib.suppress(OSError, shutil.Error):  # into itself, onto a folder, already there: never mind
        if kind <= 1:
            (folder / f"{name}.py").write_text("x" * chance.randrange(3000) + str(chance.random()))
        elif kind == 2 and files:
            chance.choice(files).rename(chance.choice(places) / f"{name}.py")
        elif kind == 3 and files:
            chance.choice(files).unlink()
        elif kind == 4 and folder != root:
            folder.rename(chance.choice(places) / name)
        elif kind == 5:
            (folder / name).mkdir()
            (folder / name / "deep.py").write_text(str(chance.random()))
        elif kind == 6 and folder != root and chance.random() < 0.2:
            shutil.rmtree(folder)
        elif kind == 7 and files:
            with chance.choice(files).open("a") as file:
                file.write(f"more {chance.random()}")


async def test_a_growing_and_a_flickering_file_end_at_what_they_are(site: Site) -> None:
    put(site.root, many("main", 50))
    site.watch()
    await site.equal()
    with (site.root / "grows.txt").open("w") as file:
        for number in range(200):
            file.write(f"line {number}\n")
            file.flush()
            (site.root / "flickers.py").write_text(str(number))
            if number % 3:
                (site.root / "flickers.py").unlink()
            await asyncio.sleep(0.005)
    await site.equal()
    await site.unwatch()


async def test_folders_from_outside_and_links_in_their_place(site: Site) -> None:
    root, outside = site.root, site.folder
    put(root, {"a.py": "1"})
    put(outside, {f"out/d{n}/f.py": f"{n}" for n in range(50)})
    site.watch()
    await site.equal()
    (outside / "out").rename(root / "in")
    await site.equal()
    put(root, {"in/d3/f.py": "later"})
    await site.equal()
    (root / "in").rename(outside / "away")
    (root / "in").symlink_to(outside / "away")
    put(outside, {"away/d3/f.py": "outside now"})
    await site.equal()
    (root / "in").unlink()
    (outside / "away").rename(root / "in")
    await site.equal()
    shutil.rmtree(root)
    await asyncio.sleep(0.3)
    root.mkdir()
    git(root, "init", "-q")
    put(root, {"n/new.py": "2"})
    await site.equal()
    put(root, {"n/watched.py": "2"})
    await site.equal()
    await site.unwatch()


async def test_an_indexer_that_ends_leaves_nothing_open(site: Site) -> None:
    put(site.root, {f"d{n}/a.py": "1" for n in range(20)})
    left = []
    for _ in range(5):
        site.watch()
        await site.equal()
        await site.unwatch()
        left.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert left[-1] <= (left[2][0] + 1, left[2][1] + 1)
