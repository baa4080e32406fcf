"""gateway/join.py: what becomes of a request that names a workspace or has a suffix, in front of a fake engine."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from aicockpit.gateway.auth import KeyStore
from aicockpit.workspace.head import Head
from fake_client import start_fake
from join_rig import HEAD, PACK, Warm, joined, sent, warm_head
from rig import chat_body, engine_of, running
from tiny_tokenizers import of_family

COMPLETION = {"model": "fake", "prompt": "def add(", "max_tokens": 2}


async def test_a_suffix_becomes_the_models_own_form(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            answer = await rig.client.post(
                "/v1/completions", json={**COMPLETION, "prompt": "import re\ndef add(", "suffix": "\n    pass\n"}
            )
            body = sent(fake)
    assert answer.status_code == 200
    assert answer.headers["x-aicockpit-fim"] == "qwen"
    encoder = of_family("qwen")
    assert encoder.decode(body["prompt"]) == "<|fim_prefix|>import re\n<|fim_suffix|>\n    pass\n<|fim_middle|>def add("
    assert "suffix" not in body
    assert set(body["stop_token_ids"]) >= {encoder.specials["<|file_sep|>"]}


@pytest.mark.parametrize("how", ["header", "field", "model"])
async def test_the_head_stands_in_front_of_a_completion(tmp_path: Path, how: str) -> None:
    warm = Warm({"fake-0": warm_head()})
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            body, headers = dict(COMPLETION), {}
            if how == "header":
                headers = {"x-aicockpit-workspace": "proj", "x-aicockpit-path": "a.py"}
            elif how == "field":
                body |= {"workspace": "proj", "path": "a.py"}
            else:
                body |= {"model": "fake@proj"}
            answer = await rig.client.post("/v1/completions", json=body, headers=headers)
            request = sent(fake)
            record = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
    assert answer.status_code == 200, answer.text
    assert tuple(request["prompt"][: len(HEAD)]) == HEAD
    assert request["model"] == "fake"
    assert not {"workspace", "path", "context"} & request.keys()
    assert answer.headers["x-aicockpit-context"] == f"{len(HEAD)} tokens; warm"
    assert "160 of 160 tokens warm" in answer.headers["x-aicockpit-route"]
    assert record["context"]["predicted_cached"] == len(HEAD)
    assert record["context"]["prompt_tokens"] == len(request["prompt"])
    assert ("head", 7, "fake", "completion", "" if how == "model" else "a.py", "fake-0") in warm.told
    assert next(one for one in warm.told if one[0] == "learn")[2] == len(request["prompt"])
    tails = [one for one in warm.told if one[0] == "seen"]
    expected = [] if how == "model" else [("seen", 7, "fake", "a.py", tuple(request["prompt"][len(HEAD) :]))]
    assert tails == expected


async def test_the_engine_where_it_is_warm_is_chosen(tmp_path: Path) -> None:
    warm = Warm({"b": warm_head()})
    for name in "ab":
        (tmp_path / name).mkdir()
    with start_fake(tmp_path / "a") as one, start_fake(tmp_path / "b") as two:
        async with joined(tmp_path, warm, engine_of(one, "a"), engine_of(two, "b")) as rig:
            for _ in range(3):
                answer = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj"})
                assert answer.headers["x-aicockpit-engine"] == "b"


async def test_a_chat_gets_the_pack_as_its_first_message(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm({"fake-0": warm_head()}), engine_of(fake)) as rig:
            answer = await rig.chat(workspace="proj", stream=True)
            messages = sent(fake)["messages"]
    assert answer.status_code == 200
    assert messages[0] == {"role": "system", "content": PACK}
    assert messages[1]["role"] == "user"
    assert '"usage"' not in answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")


async def test_no_context_is_no_failure_and_says_why(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            cold = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj"})
            none = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj", "context": "none"})
            several = await rig.client.post(
                "/v1/completions", json={**COMPLETION, "workspace": "proj", "prompt": ["a", "b"]}
            )
            prompt = sent(fake)["prompt"]
        async with joined(tmp_path, Warm(), engine_of(fake), why_not="no tokenizer here") as rig:
            blind = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj"})
            refused = await rig.client.post("/v1/completions", json={**COMPLETION, "suffix": "x"})
    assert cold.headers["x-aicockpit-context"] == "none; warming 40 %"
    assert "wants none" in none.headers["x-aicockpit-context"]
    assert "several prompts" in several.headers["x-aicockpit-context"]
    assert prompt == ["a", "b"]
    assert blind.headers["x-aicockpit-context"] == "none; no tokenizer here"
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_tokenizer")


async def test_an_unknown_workspace_is_404_and_nonsense_is_400(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            unknown = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "other"})
            nonsense = [
                await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj", **more})
                for more in ({"context": -3}, {"context": True}, {"path": 5}, {"context": "lots"})
            ]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "workspace_not_found")
    assert [answer.status_code for answer in nonsense] == [400] * 4


async def test_without_workspace_and_suffix_the_bytes_pass_untouched(tmp_path: Path) -> None:
    raw = b'{ "model" : "fake", "messages":[{"role":"user","content":"x"}], "path": "mine", "max_tokens":2 }'
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            await rig.client.post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
            assert base64.b64decode(fake.last()["body"]) == raw


async def test_each_key_sees_its_own_requests_only(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            key = KeyStore(tmp_path / "state").create("other")
            await rig.chat(headers={"x-request-id": "mine-1"})
            await asyncio.sleep(0.6)
            other = {"authorization": f"Bearer {key}"}
            hidden = await rig.client.get("/api/requests/mine-1", headers=other)
            listed = await rig.client.get("/api/requests", headers=other)
            seen = await rig.client.get("/api/requests/mine-1")
    assert hidden.status_code == 404
    assert listed.json() == {"requests": []}
    assert seen.json()["status"] == 200
    assert chat_body()["model"] == seen.json()["model"]


async def test_a_reason_of_many_lines_stays_one_header(tmp_path: Path) -> None:
    warm = Warm({"fake-0": Head(reason="bad gateway:\r\nset-cookie: a=b\r\n\r\n<html>")})
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            for stream in (False, True):
                answer = await rig.chat(workspace="proj", stream=stream)
                assert answer.status_code == 200
                assert answer.headers["x-aicockpit-context"] == "none; bad gateway: set-cookie: a=b <html>"
                assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "more", [{"cache_salt": "mine"}, {"prompt_logprobs": 0}, {"truncate_prompt_tokens": 5}, {"echo": True}]
)
async def test_what_the_cache_cannot_serve_gets_no_context(tmp_path: Path, more: dict[str, Any]) -> None:
    warm = Warm({"fake-0": warm_head()})
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            answer = await rig.client.post("/v1/completions", json={**COMPLETION, "workspace": "proj", **more})
    assert next(iter(more)) in answer.headers["x-aicockpit-context"]
    assert not [one for one in warm.told if one[0] == "learn" and one[2] and "cache_salt" in more]


async def test_an_adapter_gets_no_head_of_its_base(tmp_path: Path) -> None:
    warm = Warm({"fake-0": warm_head()})
    with start_fake(tmp_path, "--served-model-name", "fake", "tuned") as fake:
        engine = engine_of(fake, names=("fake", "tuned"))
        engine.cards = {"tuned": {"parent": "fake"}}
        async with joined(tmp_path, warm, engine) as rig:
            answer = await rig.client.post("/v1/completions", json={**COMPLETION, "model": "tuned@proj"})
            assert sent(fake)["model"] == "tuned"
    assert "LoRA" in answer.headers["x-aicockpit-context"]
    assert [one for one in warm.told if one[0] == "learn"][0][2] == 0  # noqa: RUF015


async def test_an_empty_suffix_is_a_suffix_and_a_number_is_none(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            empty = await rig.client.post("/v1/completions", json={**COMPLETION, "suffix": ""})
            body = sent(fake)
            number = await rig.client.post("/v1/completions", json={**COMPLETION, "suffix": 5})
    assert (empty.status_code, empty.headers["x-aicockpit-fim"]) == (200, "qwen")
    assert "suffix" not in body
    assert number.status_code == 400


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/v1/completions", b'{"model":"fake@proj","prompt":"\xff\xfe","suffix":"x"}'),
        ("/v1/completions", b'{"model":"fake","prompt":"a","suffix":"' + b"x" * 5_000_000 + b'"}'),
        ("/v1/chat/completions", b'{"model":"fake@proj","messages":[{"role":"user","content":1e999}]}'),
    ],
    ids=["bytes", "long", "number"],
)
async def test_what_cannot_be_read_is_the_clients_fault(tmp_path: Path, path: str, raw: bytes) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            answer = await rig.client.post(path, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


async def test_stop_tokens_of_the_client_are_kept_or_left_to_the_engine(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            body = {**COMPLETION, "suffix": "x"}
            await rig.client.post("/v1/completions", json={**body, "stop_token_ids": [7]})
            kept = sent(fake)["stop_token_ids"]
            await rig.client.post("/v1/completions", json={**body, "stop_token_ids": [[1]]})
            strange = sent(fake)["stop_token_ids"]
    assert kept[0] == 7
    assert len(kept) > 1
    assert strange == [[1]]


async def test_a_route_without_context_says_so(tmp_path: Path) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            path = "/v1/messages/count_tokens"
            named = await rig.client.post(path, json={**body, "model": "fake@proj"})
            told = await rig.client.post(path, json=body, headers={"x-aicockpit-workspace": "proj"})
            without = await rig.client.post(path, json=body)
        async with running(tmp_path, engine_of(fake)) as rig:
            alone = await rig.client.post("/v1/messages", json={**body, "model": "fake@proj"})
    for answer in (named, told):
        assert answer.headers["x-aicockpit-context"] == "none; this route takes no context"
    assert "x-aicockpit-context" not in without.headers
    assert alone.headers["x-aicockpit-context"] == "none; this server keeps no workspaces"


async def test_nothing_of_one_file_is_held_for_another(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake)) as rig:
            for word in ("production", "staging"):
                suffix = f")\nconnect({word!r})\nrun()\n"
                body = {"model": "fake@proj", "prompt": "def f(", "suffix": suffix, "max_tokens": 1}
                await rig.client.post("/v1/completions", json=body)
                assert word in of_family("qwen").decode(sent(fake)["prompt"])


async def test_two_keys_with_one_request_id_each_see_their_own(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            key = KeyStore(tmp_path / "state").create("other")
            await asyncio.sleep(0.6)
            other = {"authorization": f"Bearer {key}", "x-request-id": "same"}
            await rig.chat(headers={"x-request-id": "same"})
            await rig.chat(headers=other)
            for headers in (other, {}):
                assert (await rig.client.get("/api/requests/same", headers=headers)).status_code == 200


async def test_warming_lets_background_requests_in(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            forwarder, engine, steps = rig.gateway.forwarder, rig.engines[0], 0

            async def warm() -> None:
                nonlocal steps
                while True:
                    async with forwarder.turn(engine):
                        steps += 1
                        await asyncio.sleep(0.02)

            warming = asyncio.create_task(warm())
            await asyncio.sleep(0.1)
            answer = await asyncio.wait_for(rig.chat(headers={"x-aicockpit-lane": "background"}), 5)
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
    assert answer.status_code == 200
    assert steps > 2
