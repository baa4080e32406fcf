"""What passes through the gateway, what it refuses, and in which words."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from aicockpit.gateway.directory import Directory
from aicockpit.gateway.openai import model_list
from fake_client import start_fake
from rig import KEY, chat_body, engine_of, events, running

JSON_ROUTES = [
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
    "/tokenize", "/detokenize",
]  # fmt: skip
JSON = {"content-type": "application/json"}
MANAGEMENT = [
    "/sleep", "/wake_up", "/reset_prefix_cache", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/server_info",
    "/collective_rpc", "/pause", "/resume", "/invocations", "/fake/state", "/start_profile", "/docs", "/load",
]  # fmt: skip


def body_for(route: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"unknown_field": {"nested": [1, 2.50, "ü", None]}}
    if "chat" in route or "messages" in route:
        return chat_body(**extra)
    if "rerank" in route or "score" in route:
        return {"model": "fake", "query": "q", "documents": ["a", "b"], "text_1": "a", "text_2": ["b"], **extra}
    if route == "/detokenize":
        return {"model": "fake", "tokens": [1, 2], **extra}
    return {"model": "fake", "prompt": "a b", "input": "a b", "max_tokens": 2, **extra}


@pytest.mark.parametrize("route", JSON_ROUTES)
async def test_every_route_passes_its_body_byte_for_byte(tmp_path: Path, route: str) -> None:
    raw = json.dumps(body_for(route), ensure_ascii=False, indent=3).encode() + b"  \n"
    headers = {"content-type": "application/json", "x-aicockpit-lane": "interactive", "x-custom": "kept"}
    pooling = any(word in route for word in ("embed", "pool", "classify", "score", "rerank"))
    with start_fake(tmp_path, *["--fake-embedding-model"] * pooling) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.client.post(route + "?q=1", content=raw, headers=headers)
        last = fake.last()
    assert answer.status_code == 200, answer.text
    assert base64.b64decode(last["body"]) == raw
    assert last["path"].startswith(route)
    sent = {name.lower(): value for name, value in last["headers"]}
    assert sent["x-custom"] == "kept"
    assert "authorization" not in sent
    assert "x-aicockpit-lane" not in sent
    assert sent["x-request-id"] == answer.headers["x-request-id"]


async def test_management_routes_of_the_engine_are_not_reachable(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            for route in MANAGEMENT:
                for path in (route, "/v1" + route, "//" + route.lstrip("/"), "/v1/../" + route.lstrip("/")):
                    for method in ("GET", "POST"):
                        answer = await rig.client.request(method, path, json={"model": "fake"})
                        assert answer.status_code in (404, 405), (method, path)
                        assert answer.json()["error"]["origin"] == "gateway"
        assert fake.state()["management"] == 0


async def test_the_model_list_merges_the_engines_and_aliases(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        engines = [engine_of(fake, "a", ("one", "two")), engine_of(fake, "b", ("two", "three"))]
        async with running(tmp_path, *engines, aliases={"gpt-4o": "three", "dead": "nowhere"}) as rig:
            listed = (await rig.client.get("/v1/models")).json()
            one = (await rig.client.get("/v1/models/gpt-4o")).json()
            missing = await rig.client.get("/v1/models/nope")
    assert [card["id"] for card in listed["data"]] == ["one", "two", "three", "gpt-4o"]
    assert (one["id"], one["root"]) == ("gpt-4o", "three")
    assert missing.status_code == 404


def test_workspaces_are_listed_behind_the_models_and_few_of_them() -> None:
    engines = [engine_of("http://127.0.0.1:9", "a", ("org/one", "one")), engine_of("http://127.0.0.1:9", "b", ("two",))]
    engines[0].cards = {"org/one": {"id": "org/one", "root": "/models/one", "max_model_len": 4096}}
    directory = Directory(engines, {"gpt-4o": "two"})
    plain = ["org/one", "one", "two", "gpt-4o"]
    cards = json.loads(model_list(directory, 5, ["shop", "docs"]))["data"]
    assert [card["id"] for card in cards] == [*plain, "org/one@shop", "two@shop", "org/one@docs", "two@docs"]
    assert cards[0]["root"] == "/models/one"
    assert {"root": "org/one", "workspace": "shop", "max_model_len": 4096, "ready": True}.items() <= cards[4].items()
    assert [card["id"] for card in json.loads(model_list(directory, 5))["data"]] == plain
    many = json.loads(model_list(directory, 5, [f"w{number}" for number in range(40)]))["data"]
    assert len(many) == len(plain) + 32
    assert many[-1]["id"] == "two@w15"


async def test_an_alias_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    raw = b'{"x":1.50,"model":"gpt-4o","messages":[{"role":"user","content":"\\u00fc"}],"max_tokens":1}'
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake), aliases={"gpt-4o": "fake"}) as rig:
            answer = await rig.client.post("/v1/chat/completions", content=raw, headers=JSON)
            form = await rig.client.post(
                "/v1/audio/transcriptions", data={"model": "gpt-4o", "note": "gpt-4o"}, files={"file": b"RIFF" * 50}
            )
            sent = base64.b64decode(fake.last("/v1/audio/transcriptions")["body"])
        last = base64.b64decode(fake.last("/v1/chat/completions")["body"])
    assert answer.status_code == 200, answer.text
    assert last == raw.replace(b"gpt-4o", b"fake")
    assert form.status_code == 200
    assert sent.count(b"gpt-4o") == 1
    assert sent.count(b"fake") == 1
    assert b"RIFF" * 50 in sent


async def test_large_bodies_pass_whole(tmp_path: Path) -> None:
    raw = json.dumps(chat_body("x" * 3_000_000)).encode()
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.client.post("/v1/chat/completions", content=raw, headers=JSON)
        last = fake.last()
    assert answer.status_code == 200, answer.text
    assert last["body_sha256"] == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'"x"', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b'{"messages":[]}', 400, "model_missing"),
        (b'{"model":7}', 400, "model_missing"),
        (b'{"model":""}', 400, "model_missing"),
        (b'{"model":"nope"}', 404, "model_not_found"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"model":"fake"}', 400, "invalid_json"),
    ],
)
async def test_bad_bodies_are_refused_in_openai_s_envelope(
    tmp_path: Path, content: bytes, status: int, code: str
) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        answer = await rig.client.post("/v1/completions", content=content)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["origin"]) == (status, code, "gateway")
    assert error["request_id"] == answer.headers["x-request-id"]
    if status == 404:
        assert "fake" in error["message"]


async def test_body_limit_and_encoding_and_method(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(50):
            yield b"x" * 1000

    async with running(tmp_path, engine_of("http://127.0.0.1:9"), max_body="10kB") as rig:
        declared = await rig.client.post("/v1/completions", content=b"x" * 20_000)
        chunked = await rig.client.post("/v1/completions", content=endless())
        packed = await rig.client.post("/v1/completions", content=b"x", headers={"content-encoding": "gzip"})
        method = await rig.client.get("/v1/chat/completions")
        still = await rig.client.get("/v1/models")
    assert (declared.status_code, chunked.status_code, packed.status_code, method.status_code) == (413, 413, 415, 405)
    assert declared.json()["error"]["code"] == "body_too_large"
    assert method.headers["allow"] == "POST"
    assert still.status_code == 200


async def test_keys(tmp_path: Path) -> None:
    from aicockpit.gateway.auth import KeyStore

    store = KeyStore(tmp_path / "state")
    key = store.create("laptop")
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:

        async def status(headers: dict[str, str], path: str = "/v1/models") -> int:
            async with httpx.AsyncClient(base_url=rig.client.base_url, trust_env=False) as bare:
                return (await bare.get(path, headers=headers)).status_code

        assert await status({}) == 401
        assert await status({}, "/metrics") == 401
        assert await status({}, "/api/engines") == 401
        assert await status({}, "/health") == 200
        assert await status({"authorization": "Bearer wrong"}) == 401
        assert await status({"authorization": f"Bearer {key[:-1]}x"}) == 401
        assert await status({"authorization": KEY}) == 401
        assert await status({"authorization": f"bearer {key}"}) == 200
        assert await status({"x-api-key": key}) == 200
        refused = await rig.client.post("/api/engines/fake-0/restart", headers={"authorization": f"Bearer {key}"})
        assert refused.status_code == 403
        store.revoke("laptop")
        rig.gateway.gate._look = 0.0
        assert await status({"authorization": f"Bearer {key}"}) == 401
        bare_answer = await rig.client.get("/v1/models", headers={"authorization": "Bearer x"})
        assert bare_answer.headers["www-authenticate"] == "Bearer"
        assert bare_answer.json()["error"]["type"] == "authentication_error"
        assert key not in (tmp_path / "state" / "keys.json").read_text()


async def test_the_control_socket_needs_no_key_and_is_private(tmp_path: Path) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        assert rig.control.stat().st_mode & 0o777 == 0o600
        assert rig.control.parent.stat().st_mode & 0o777 == 0o700
        transport = httpx.AsyncHTTPTransport(uds=str(rig.control))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            listed = (await client.get("/api/engines")).json()
            restarted = await client.post("/api/engines/fake-0/restart")
            unknown = await client.post("/api/engines/nope/restart")
        assert rig.fleet.asked == [("restart", "fake-0")]
    assert listed["engines"][0]["name"] == "fake-0"
    assert (restarted.status_code, unknown.status_code) == (202, 404)


async def test_ready_says_why_not(tmp_path: Path) -> None:
    from aicockpit.types import EngineState

    engine = engine_of("http://127.0.0.1:9")
    async with running(tmp_path, engine) as rig:
        assert (await rig.client.get("/ready")).status_code == 200
        engine.state, engine.stage = EngineState.STARTING, "loading weights 40 %"
        answer = await rig.client.get("/ready")
        call = await rig.chat()
    assert answer.status_code == 503
    assert "loading weights 40 %" in answer.json()["reason"]
    assert call.status_code == 503
    assert call.headers["retry-after"]
    assert "loading weights 40 %" in call.json()["error"]["message"]
    async with running(tmp_path, engine_of("http://127.0.0.1:9"), used_memory=0.97) as rig:
        full = await rig.client.get("/ready")
    assert full.status_code == 503
    assert "97%" in full.json()["reason"]
    async with running(tmp_path) as rig:
        none = await rig.client.get("/ready")
        rig.fleet.preparing = "downloading 40 %"
        early = await rig.chat()
    assert "no model" in none.json()["reason"]
    assert (early.status_code, early.json()["error"]["code"]) == (503, "starting")


async def test_stored_responses_are_found_on_the_engine_that_made_them(tmp_path: Path) -> None:
    with start_fake(tmp_path, name="a") as one, start_fake(tmp_path, name="b") as two:
        async with running(tmp_path, engine_of(one, "a"), engine_of(two, "b")) as rig:
            made = [await rig.client.post("/v1/responses", json={"model": "fake", "input": "hi"}) for _ in range(4)]
            assert {answer.headers["x-aicockpit-engine"] for answer in made} == {"a", "b"}
            for answer in made:
                home, name = answer.headers["x-aicockpit-engine"], answer.json()["id"]
                got = await rig.client.get(f"/v1/responses/{name}")
                assert (got.status_code, got.headers["x-aicockpit-engine"]) == (200, home)
                follow = {"model": "fake", "input": "more", "previous_response_id": name}
                next_one = await rig.client.post("/v1/responses", json=follow)
                assert (next_one.status_code, next_one.headers["x-aicockpit-engine"]) == (200, home)
            missing = await rig.client.get("/v1/responses/resp_unknown")
            hostile = await rig.client.get("/v1/responses/..%2f..%2fsleep")
    assert missing.status_code == 404
    assert hostile.status_code == 404


async def test_realtime_websocket_goes_both_ways(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            base = f"ws://127.0.0.1:{rig.port}/v1/realtime"
            headers = {"authorization": f"Bearer {KEY}"}
            async with connect(base + "?model=fake", additional_headers=headers, proxy=None) as socket:
                await socket.send('{"type":"hello"}')
                assert json.loads(await socket.recv())["received"] == '{"type":"hello"}'
                assert rig.engines[0].load.total == 1
            async with connect(base, additional_headers=headers, proxy=None) as socket:
                await socket.send('{"type":"session.update","model":"nope"}')
                refused = json.loads(await socket.recv())
            assert refused["error"]["code"] == "model_not_found"
            with pytest.raises(Exception, match="403"):
                async with connect(base + "?model=fake", proxy=None):
                    pass
        assert rig.engines[0].load.total == 0


async def test_metrics_show_requests_states_and_tokens(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            await rig.chat("one two three " * 40)
            await rig.chat("one two three " * 40)
            await rig.chat(model="nope")
            page = (await rig.client.get("/metrics")).text
    labels = 'lane="interactive",model="fake",route="/v1/chat/completions"'
    assert f'aicockpit_requests_total{{code="200",{labels}}} 2.0' in page
    assert 'code="404",lane="interactive",model="other"' in page
    assert 'aicockpit_engine_state{engine="fake-0",state="ready"} 1.0' in page
    assert 'aicockpit_time_to_first_byte_seconds_count{lane="interactive",model="fake"} 2.0' in page
    tokens = {
        line.split("{")[0]: float(line.split()[-1])
        for line in page.splitlines()
        if "prompt_tokens" in line and line[0] != "#"
    }
    assert tokens["aicockpit_prompt_tokens_total"] > tokens["aicockpit_prompt_tokens_cached_total"] > 0


async def test_streams_pass_event_by_event(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.05") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            pieces = []
            async with rig.client.stream(
                "POST", "/v1/chat/completions", json=chat_body(stream=True, max_tokens=6)
            ) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert "content-length" not in answer.headers
                async for piece in answer.aiter_raw():
                    pieces.append(piece)
    assert len(pieces) >= 6
    seen = events(b"".join(pieces).decode())
    assert seen[-1] == "[DONE]"
    assert any(choice.get("finish_reason") for event in seen[:-1] for choice in event["choices"])
