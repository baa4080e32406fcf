"""`/api/docs` with real child processes: add, search, cancel, refresh, remove, whose is whose, kill and restart."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from aicockpit.documents.values import Limits
from aicockpit.errors import BadGateway
from aicockpit.gateway.auth import CONTROL
from documents_rig import ADMIN, OTHER, QUICK, USER, Answering, Page, api_in, code, page, serving, until
from real import ROOT
from test_documents_archive import FILES, tarred, zipped


async def upload(client: httpx.AsyncClient, raw: bytes, name: str = "Guide", file: str = "docs.zip") -> httpx.Response:
    return await client.post("/upload", params={"name": name, "file": file}, content=raw)


async def search(client: httpx.AsyncClient, query: str, *sources: str, limit: int = 6) -> dict[str, Any]:
    answer = await client.post("/search", json={"query": query, "sources": list(sources), "limit": limit})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def readers() -> list[int]:
    """The reading children of this process that live."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "aicockpit.documents.worker" in one.cmdline():
                found.append(one.pid)
    return found


async def test_a_site_is_added_read_and_searched(tmp_path: Path) -> None:
    queue = page("Queues", "/", body="A queue is joined with <code>queue.join()</code>, which waits for all items.")
    pages: dict[str, Answering] = {"/": page("Home", "/queues", "/dead"), "/queues": queue}
    with serving(pages) as site:
        async with api_in(tmp_path) as api:
            client = api.client(ADMIN)
            answer = await client.post("", json={"name": "Queues", "url": site.url})
            assert answer.status_code == 201
            made = answer.json()
            assert made["state"] in ("queued", "fetching")
            assert {"id", "name", "from", "state", "pages", "chunks", "problems", "error", "progress"} <= made.keys()
            done = await until(client, made["id"])
            assert (done["state"], done["pages"], done["error"]) == ("ready", 2, None)
            assert done["problems"] == [f"{site.url}/dead: answered 404"]
            assert done["progress"]["known"] == 3
            assert (await client.get("")).json()["docs"] == [done]
            found = await search(client, "how do I wait for a queue?", "queues", limit=3)
            first = found["hits"][0]
            assert (first["source"], first["url"], first["title"]) == ("Queues", f"{site.url}/queues", "Queues")
            assert "`queue.join()`" in first["text"]
            assert (found["ranked_by"], found["why"]) == ("words", "no embedding model is served")
            assert (await client.delete(f"/{made['id']}")).status_code == 204
            assert (await client.get("")).json() == {"docs": []}
            assert (await search(client, "queue"))["hits"] == []
    assert (tmp_path / "documents.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("raw", [zipped(FILES), tarred(FILES), gzip.compress(tarred(FILES, "w"))])
async def test_an_archive_is_uploaded_and_cited_by_its_paths(tmp_path: Path, raw: bytes) -> None:
    async with api_in(tmp_path) as api:
        client = api.client(USER)
        made = await upload(client, raw)
        assert made.status_code == 201
        done = await until(client, made.json()["id"])
        assert (done["state"], done["kind"], done["from"], done["pages"]) == ("ready", "upload", "docs.zip", 3)
        assert [hit["url"] for hit in (await search(client, "text"))["hits"]] == ["docs/a.md"]
        assert code(await client.post(f"/{done['id']}/refresh")) == (400, "documents_not_a_site")
    assert [path.name for path in tmp_path.iterdir() if "upload" in path.name] == []


@pytest.mark.parametrize(
    ("raw", "file", "told"),
    [
        (b"PK\x03\x04 and nothing else", "x.zip", "damaged"),
        (zipped({"a.py": b"x = 1"}), "x.zip", "no document was found"),
        (b"\x7fELF", "x.bin", "neither an archive"),
        (zipped({"a.md": b"a" * 50_000_000}), "x.zip", "no document was found"),
    ],
)
async def test_a_useless_upload_fails_in_words(tmp_path: Path, raw: bytes, file: str, told: str) -> None:
    async with api_in(tmp_path) as api:
        client = api.client(USER)
        made = (await upload(client, raw, file=file)).json()
        done = await until(client, made["id"])
        assert done["state"] == "failed"
        assert told in done["error"]


async def test_each_key_sees_its_own_and_the_server_s(tmp_path: Path) -> None:
    async with api_in(tmp_path) as api:
        server, user, other, admin = (api.client(caller) for caller in (CONTROL, USER, OTHER, ADMIN))
        shared = (await upload(server, b"# Shared\n\nAbout apples.", "Shared", "a.md")).json()
        mine = (await upload(user, b"# Mine\n\nAbout apples, a secret.", "Mine", "a.md")).json()
        await until(user, mine["id"])
        await until(user, shared["id"])
        assert [one["name"] for one in (await other.get("")).json()["docs"]] == ["Shared"]
        assert [hit["source"] for hit in (await search(other, "apples secret"))["hits"]] == ["Shared"]
        assert {hit["source"] for hit in (await search(user, "apples"))["hits"]} == {"Shared", "Mine"}
        for path in (f"/{mine['id']}", "/Mine"):
            assert code(await other.get(path)) == (404, "documents_not_found")
            assert code(await admin.delete(path)) == (404, "documents_not_found")
        answer = await other.post("/search", json={"query": "x", "sources": [mine["id"]]})
        assert code(answer) == (404, "documents_not_found")
        assert code(await user.delete(f"/{shared['id']}")) == (403, "documents_read_only")
        assert (await admin.delete("/shared")).status_code == 204


async def test_a_key_that_is_no_admin_cannot_look_inside(tmp_path: Path) -> None:
    with serving({"/": page("Secret")}) as site:
        async with api_in(tmp_path) as api:
            client = api.client(USER)
            for url in (site.url, f"http://localhost:{site.port}/", "http://169.254.169.254/latest/", "http://[::1]/"):
                made = (await client.post("", json={"name": url, "url": url})).json()
                done = await until(client, made["id"])
                assert done["state"] == "failed"
                assert "not" in done["error"]
    assert site.asked == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"url": "ftp://x.org"}, "bad_url"),
        ({"url": "https://me:pw@x.org/"}, "bad_url"),
        ({"url": "https://x.org/", "name": "\x07"}, "bad_name"),
        ({"url": "https://x.org/", "name": "x" * 150}, "bad_name"),
        ({"url": "https://x.org/", "more": 1}, "invalid_parameter"),
        ({}, "invalid_parameter"),
    ],
)
async def test_what_cannot_be_added_is_refused_at_once(tmp_path: Path, body: dict[str, Any], expected: str) -> None:
    async with api_in(tmp_path) as api:
        client = api.client(ADMIN)
        assert code(await client.post("", json=body)) == (400, expected)
        assert code(await upload(client, b"")) == (400, "empty_upload")
        for query in ("", "  ", "x" * 9000):
            assert code(await client.post("/search", json={"query": query})) == (400, "bad_query")
        assert (await search(client, "x"))["why"].startswith("there is no documentation yet")
    assert not (tmp_path / "documents.sqlite").exists()


async def test_sources_have_a_limit_and_names_are_told_apart(tmp_path: Path) -> None:
    async with api_in(tmp_path, replace(QUICK, sources=2, upload=5000)) as api:
        client = api.client(USER)
        assert (await upload(client, b"# A", "A", "a.md")).status_code == 201
        assert code(await upload(client, b"# A", " a ", "a.md")) == (400, "name_taken")
        assert (await upload(client, b"# B", "B", "b.md")).status_code == 201
        assert code(await upload(client, b"# C", "C", "c.md")) == (429, "too_many_sources")
        assert (await upload(api.client(OTHER), b"# C", "A", "c.md")).status_code == 201
        assert code(await upload(client, b"x" * 6000, "D", "d.md")) == (413, "body_too_large")


async def test_a_full_disk_is_told_and_leaves_no_half_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = os.open

    def full(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(".upload"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opening(path, *more, **named)

    async with api_in(tmp_path) as api:
        client = api.client(USER)
        monkeypatch.setattr(os, "open", full)
        answer = await upload(client, b"# A", "A", "a.md")
        assert answer.status_code == 507
        assert (await client.get("")).json() == {"docs": []}
        monkeypatch.undo()
        assert (await upload(client, b"# A", "A", "a.md")).status_code == 201


async def test_a_cancelled_source_keeps_what_it_has(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(50)]
    pages: dict[str, Answering] = {"/": page("Home", *links)}
    pages |= {link: page(f"Page {link}", wait_s=0.1 if int(link[1:]) < 8 else 30.0) for link in links}
    with serving(pages) as site:
        async with api_in(tmp_path, replace(QUICK, request_s=60.0, read_s=60.0, time_s=60.0)) as api:
            client = api.client(ADMIN)
            made = (await client.post("", json={"name": "Slow", "url": site.url})).json()
            while (now := (await client.get("/Slow")).json())["pages"] < 5:
                assert now["state"] in ("queued", "fetching")
                await asyncio.sleep(0.05)
            assert (await search(client, "page"))["hits"], "it answers while it is read"
            began = time.monotonic()
            done = (await client.post(f"/{made['id']}/cancel")).json()
            assert time.monotonic() - began < 5
            assert done["state"] == "cancelled"
            assert "pages are kept" in done["problems"][0]
            assert readers() == []
            assert (await search(client, "page"))["hits"]
            again = (await client.post(f"/{made['id']}/cancel")).json()
            assert again["state"] == "cancelled"


async def test_a_refresh_answers_from_the_old_text_until_it_is_complete(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {"/": page("Home", body="The old words are here, apples and pears.")}
    with serving(pages) as site:
        async with api_in(tmp_path, replace(QUICK, tries=1)) as api:
            client = api.client(ADMIN)
            made = (await client.post("", json={"url": site.url})).json()
            assert made["name"] == "127.0.0.1"
            await until(client, made["id"])
            pages["/"] = page("Home", body="The new words are here, oranges.", wait_s=1.0)
            assert (await client.post(f"/{made['id']}/refresh")).status_code == 202
            assert code(await client.post(f"/{made['id']}/refresh"))[0] == 409
            await until(client, made["id"], "fetching")
            assert "old words" in (await search(client, "apples"))["hits"][0]["text"]
            await until(client, made["id"])
            assert "new words" in (await search(client, "words"))["hits"][0]["text"]
            assert (await search(client, "apples pears"))["hits"] == []
            pages["/"] = Page(status=500)
            await client.post(f"/{made['id']}/refresh")
            failed = await until(client, made["id"])
            assert failed["state"] == "ready"
            assert failed["error"].startswith("the refresh failed, and what was there before still answers")
            assert (await search(client, "oranges"))["hits"]
            pages["/"] = page("Home", wait_s=2.5)
            await client.post(f"/{made['id']}/refresh")
            await until(client, made["id"], "fetching")
            cancelled = (await client.post(f"/{made['id']}/cancel")).json()
            assert cancelled["state"] == "ready"
            assert (await search(client, "oranges"))["hits"]


async def test_a_reader_that_is_killed_is_started_again_and_goes_on(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(30)]
    pages: dict[str, Answering] = {"/": page("Home", *links), **{link: page(link, wait_s=0.1) for link in links}}
    with serving(pages) as site:
        async with api_in(tmp_path) as api:
            client = api.client(ADMIN)
            made = (await client.post("", json={"name": "x", "url": site.url})).json()
            while (await client.get("/x")).json()["pages"] < 8:
                await asyncio.sleep(0.02)
            os.kill(readers()[0], signal.SIGKILL)
            done = await until(client, made["id"])
            assert done["state"] == "ready"
            assert done["pages"] >= 29
            assert len([path for path in site.asked if path in links]) < 45


async def test_a_reader_that_always_dies_ends_in_words(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(30)]
    pages: dict[str, Answering] = {
        "/": page("Home", *links, wait_s=0.3),
        **{link: page(link, wait_s=5) for link in links},
    }
    with serving(pages) as site:
        async with api_in(tmp_path, replace(QUICK, attempts=2)) as api:
            client = api.client(ADMIN)
            made = (await client.post("", json={"name": "x", "url": site.url})).json()
            for _ in range(2):
                while not readers():
                    await asyncio.sleep(0.02)
                child = readers()[0]
                os.kill(child, signal.SIGKILL)
                while child in readers():
                    await asyncio.sleep(0.02)
            done = await until(client, made["id"])
            assert done["state"] == "failed"
            assert "ended (code -9), 2 times" in done["error"]


_SERVER = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from documents_rig import ADMIN, api_in
from pathlib import Path
async def main():
    async with api_in(Path({folder!r})) as api:
        client = api.client(ADMIN)
        await client.post("", json={{"name": "x", "url": {url!r}}})
        while True:
            print((await client.get("/x")).json()["pages"], flush=True)
            await asyncio.sleep(0.05)
asyncio.run(main())
"""


async def test_a_server_that_is_killed_goes_on_at_its_next_start(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(40)]
    pages: dict[str, Answering] = {"/": page("Home", *links), **{link: page(link, wait_s=0.08) for link in links}}
    with serving(pages) as site:
        script = _SERVER.format(tests=str(ROOT / "tests"), folder=str(tmp_path), url=site.url)
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        assert server.stdout is not None
        try:
            while int(await server.stdout.readline() or b"99") < 10:
                pass
            children = psutil.Process(server.pid).children()
        finally:
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()
        assert len(children) == 1
        psutil.wait_procs(children, 5)
        assert not any(child.is_running() for child in children), "the reader goes with its server"
        before = len(site.asked)
        async with api_in(tmp_path) as api:
            client = api.client(ADMIN)
            done = await until(client, "x")
            assert done["state"] == "ready"
            assert done["pages"] >= 38
            assert (await search(client, "page tells"))["hits"]
        assert len(site.asked) - before < 40


class Meaning:
    """An embedding model: a vector says which of a few ideas a text is about."""

    ideas = (("car", "automobile", "vehicle"), ("boat", "ship", "vessel"))

    def __init__(self) -> None:
        self.name, self.asked, self.broken = "", 0, False

    def model(self) -> str:
        return self.name

    async def passages(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        if self.broken:
            raise BadGateway("the engine is away")
        return [self._vector(text) for text in texts]

    async def question(self, model: str, text: str) -> list[float]:
        self.asked += 1
        return (await self.passages(model, [text]))[0]

    def _vector(self, text: str) -> list[float]:
        return [0.01 + sum(word in text.lower() for word in idea) for idea in self.ideas]


async def test_an_embedding_model_adds_meaning(tmp_path: Path) -> None:
    meaning = Meaning()
    meaning.name = "test-embed"
    async with api_in(tmp_path, embedder=meaning) as api:
        client = api.client(USER)
        raw = zipped({"a.md": b"# One\n\nAn automobile has wheels.", "b.md": b"# Two\n\nA ship floats."})
        done = await until(client, (await upload(client, raw)).json()["id"])
        assert done["embedded_by"] == "test-embed"
        for _ in range(2):
            found = await search(client, "vehicle")
            assert found["hits"][0]["url"] == "a.md"
            assert found["ranked_by"] == "words and meaning (test-embed)"
        assert meaning.asked == 1
        meaning.broken = True
        found = await search(client, "ship")
        assert (found["hits"][0]["url"], found["ranked_by"]) == ("b.md", "words")
        assert found["why"] == "the engine is away"
        meaning.broken, meaning.name = False, "another-embed"
        assert (await search(client, "ship"))["why"] == "another-embed has not seen these sources yet"


def test_the_page_of_documentation_tells_every_route_and_limit() -> None:
    told = (ROOT / "docs" / "documentation.md").read_text()
    limits = Limits()
    for value in (limits.pages, limits.sources, f"{limits.chunks:,}", limits.known, limits.failures, limits.files):
        assert str(value) in told
    for route in (
        "GET /api/docs",
        "/api/docs/upload",
        "/api/docs/ID/cancel",
        "/api/docs/ID/refresh",
        "/api/docs/search",
    ):
        assert route in told
