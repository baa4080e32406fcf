"""Documentation in `aicockpit serve` itself, with the fake vLLM as its embedding model."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from documents_rig import Answering, page
from documents_rig import serving as site_of
from fake_client import start_fake
from serving import Serving, serving
from test_documents_archive import zipped


def upload(server: Serving, name: str, raw: bytes) -> dict[str, Any]:
    url, headers = f"http://127.0.0.1:{server.port}/api/docs/upload", {"authorization": "Bearer k"}
    answer = httpx.post(url, params={"name": name, "file": "docs.zip"}, content=raw, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def until_ready(server: Serving, id: str, limit_s: float = 20.0) -> dict[str, Any]:
    end = time.monotonic() + limit_s
    while (found := server.get(f"/api/docs/{id}").json())["state"] != "ready":
        assert time.monotonic() < end, found
        time.sleep(0.05)
    made: dict[str, Any] = found
    return made


def test_the_served_embedding_model_is_asked_for_meaning(tmp_path: Path) -> None:
    with (
        start_fake(tmp_path, "--runner", "pooling", tcp=True, names=("test-embed",)) as fake,
        serving(tmp_path, AICOCKPIT_ENGINE_URLS=fake.url) as server,
    ):
        server.until_ready()
        made = upload(
            server, "Guide", zipped({f"{n}.md": f"# Page {n}\n\nWords of page {n}.".encode() for n in range(40)})
        )
        done = until_ready(server, made["id"])
        assert (done["pages"], done["embedded_by"]) == (40, "test-embed")
        asked = json.loads(base64.b64decode(fake.last("/v1/embeddings")["body"]))
        assert (len(asked["input"]), asked["truncate_prompt_tokens"]) == (8, -1)
        found = server.post("/api/docs/search", query="words of page 7", sources=["Guide"]).json()
        assert found["ranked_by"] == "words and meaning (test-embed)"
        assert len(found["hits"]) == 6  # the fake's vectors mean nothing
        fake.process.kill()
        found = server.post("/api/docs/search", query="words of page 9", sources=["Guide"]).json()
        assert found["ranked_by"] == "words"
        assert found["why"]
        assert found["hits"][0]["url"] == "9.md"


def test_a_killed_server_reads_on_when_it_is_back(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(40)]
    pages: dict[str, Answering] = {"/": page("Home", *links), **{link: page(link, wait_s=0.1) for link in links}}
    with site_of(pages) as site, start_fake(tmp_path, tcp=True) as fake:
        with serving(tmp_path, AICOCKPIT_ENGINE_URLS=fake.url) as server:
            server.until_ready()
            made = server.post("/api/docs", name="Site", url=site.url).json()
            while (now := server.get(f"/api/docs/{made['id']}").json())["pages"] < 5:
                time.sleep(0.05)
            assert now["progress"]["known"] == 41
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
        with serving(tmp_path, AICOCKPIT_ENGINE_URLS=fake.url) as server:
            server.until_ready()
            done = until_ready(server, made["id"])
            assert done["pages"] >= 39
            began = time.monotonic()
            server.post("/api/docs", name="Again", url=site.url)
        assert time.monotonic() - began < 15, "a stop does not wait for a site"
