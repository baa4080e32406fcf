"""A pack outlives its engine: with a KV tier on disk it comes back from there, through the gateway and real vLLM."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from real import KEY, ROOT, Server, kill_core, watching

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

NAME, MODEL = "kept-tree", "kept"


def engine(server: Server) -> dict[str, Any]:
    return next(dict(one) for one in server.get("/api/engines")["engines"] if one["name"] == f"{MODEL}-0")


def warmth(server: Server) -> dict[str, Any]:
    """Of the one engine, when all of the pack is in its cache; empty before."""
    models = server.get(f"/api/workspaces/{NAME}")["context"]["models"]
    if MODEL not in models:
        return {}
    lane = models[MODEL]["lanes"]["completion"]
    states = list(lane["engines"].values())
    return dict(states[0], pack=lane["epoch"]["tokens"]) if [one["state"] for one in states] == ["warm"] else {}


@pytest.fixture(scope="module")
def kept(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all real tests, with a second model that has a tier, and a tree."""
    server.forget_workspaces()
    tree = tmp_path_factory.mktemp("kept") / NAME
    shutil.copytree(ROOT / "src/aicockpit/engines", tree / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    row = {
        "name": MODEL,
        "model": str(server.state / "models" / "SmolLM2-135M-Instruct"),
        "gpus": 0,
        "context": 4096,
        "kv_tier": "disk:1GiB",
        "args": ["--kv-cache-memory-bytes", "200M"],
    }
    _reload(server, row)
    with watching(server, tree, NAME):
        server.until(lambda: warmth(server), 240)
    yield server
    _reload(server)


def _reload(server: Server, *models: dict[str, Any]) -> None:
    server.fleet.write_text(json.dumps({"models": models}))
    with server.client() as client:
        client.post("/api/reload", timeout=120).raise_for_status()


def test_after_a_kill_the_pack_comes_back_from_the_disk(kept: Server) -> None:
    before = warmth(kept)
    pack = before["pack"]
    assert before["origin"]["computed"] >= 0.9 * pack, "nobody had computed it before"
    kill_core(engine(kept)["pid"])
    kept.until(lambda: engine(kept)["state"] != "ready", 60)
    kept.until(lambda: engine(kept)["state"] == "ready", 300)
    kept.until(lambda: warmth(kept), 180)
    after = warmth(kept)
    assert after["pack"] == pack
    assert after["origin"]["tier"] >= 0.9 * pack
    assert after["origin"]["computed"] <= 0.1 * pack
    assert from_disk(kept) >= 0.9 * pack, "the engine's own count, of this life"
    with openai.OpenAI(base_url=kept.base, api_key=KEY, max_retries=0) as sdk:
        answer = sdk.completions.create(model=f"{MODEL}@{NAME}", prompt="import ", max_tokens=1, temperature=0)
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    assert (details.cached_tokens or 0) >= 0.9 * pack - 32


def found(server: Server) -> float:
    """Tokens that steps of warming found in the engine's cache or its tier, since the server started."""
    with server.client() as client:
        page = client.get("/metrics").text
    told = re.search(rf'^aicockpit_prefetch_tokens_found_total{{engine="{MODEL}-0"}} (\S+)$', page, re.MULTILINE)
    return float(told[1]) if told else 0.0


def from_disk(server: Server) -> float:
    """Prompt tokens that the engine's process itself says it took from the disk."""
    transport = httpx.HTTPTransport(uds=engine(server)["url"].removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://engine") as client:
        page = client.get("/metrics").raise_for_status().text
    told = re.findall(r'^vllm:prompt_tokens_cached_by_source_total\{.*source="disk".*\} (\S+)$', page, re.MULTILINE)
    return sum(map(float, told))


def test_a_pack_that_others_pushed_out_comes_back_from_the_disk_too(kept: Server) -> None:
    pack, before, loaded = warmth(kept)["pack"], found(kept), from_disk(kept)
    with kept.client() as client:
        for number in range(4):  # more than the cache holds
            prompt = [1000 + (number * 7919 + at * 31) % 40_000 for at in range(3_500)]
            body = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "kv_transfer_params": {"store": False}}
            client.post("/v1/completions", json=body).raise_for_status()
    kept.until(lambda: found(kept) >= before + 0.5 * pack, 60)
    kept.until(lambda: warmth(kept), 60)
    # What was found may have been in memory still; the engine itself tells what was not.
    assert from_disk(kept) - loaded >= 0.5 * pack
    assert warmth(kept)["origin"]["computed"] <= 0.1 * pack
