"""The routes of coding agents: `/v1/messages`, `/v1/responses`, and chat with tools, in front of a fake engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from aicockpit.gateway.layouts import Layouts
from fake_client import start_fake
from join_rig import PACK, Template, Warm, chatml, joined, sent, warm_head
from rig import Rig, engine_of, events
from test_join_layouts import TOOLS, llama

ASKED = [{"role": "user", "content": "hi there"}]
BRIEF = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
MESSAGES: dict[str, Any] = {"model": "fake", "messages": ASKED, "max_tokens": 4}
RESPONSES: dict[str, Any] = {"model": "fake", "input": "hi there", "max_output_tokens": 4}
COMPLETION: dict[str, Any] = {"model": "fake", "prompt": "def add(", "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TALKS = {
    "/v1/chat/completions": {**MESSAGES, "tools": [TOOL]},
    "/v1/messages": {**MESSAGES, "tools": [{"name": "look", "input_schema": {"type": "object"}}]},
    "/v1/responses": {**RESPONSES, "tools": [{"type": "function", "name": "look", "parameters": {}}]},
}
ALL = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": MESSAGES,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
}


def warm() -> Warm:
    return Warm({"fake-0": warm_head()})


async def asked(
    tmp_path: Path, path: str, body: dict[str, Any], template: Any = None, **headers: str
) -> tuple[httpx.Response, dict[str, Any]]:
    """The answer to one request in the workspace, and the body that the engine got."""
    layouts = None if template is None else Layouts(template)
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm(), engine_of(fake), layouts=layouts) as rig:
            sending = {"x-aicockpit-workspace": "proj", "x-aicockpit-lane": "interactive", **headers}
            answer = await rig.client.post(path, json=body, headers=sending)
            assert answer.status_code == 200, answer.text
            return answer, sent(fake)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, [{"type": "text", "text": f"{PACK}\n\n"}]),
        ("", [{"type": "text", "text": f"{PACK}\n\n"}]),
        ([], [{"type": "text", "text": f"{PACK}\n\n"}]),
        ("Be brief.", f"{PACK}\n\nBe brief."),
        ([BRIEF], [{"type": "text", "text": f"{PACK}\n\n"}, BRIEF]),
    ],
)
async def test_messages_begin_with_the_pack(tmp_path: Path, system: Any, expected: Any) -> None:
    answer, got = await asked(tmp_path, "/v1/messages", {**MESSAGES, "system": system})
    assert answer.headers["x-aicockpit-context"] == "160 tokens; warm"
    assert got == {**MESSAGES, "system": expected}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"instructions": PACK}),
        ({"instructions": None}, {"instructions": PACK}),
        ({"instructions": "Be brief."}, {"instructions": f"{PACK}\n\nBe brief."}),
        ({"input": ASKED}, {"instructions": PACK}),
        (
            {"input": [{"type": "message", "role": "developer", "content": "Be brief."}, *ASKED]},
            {"input": [{"type": "message", "role": "system", "content": f"{PACK}\n\nBe brief."}, *ASKED]},
        ),
        (
            {"input": [{"role": "system", "content": [{"type": "input_text", "text": "a"}]}, *ASKED]},
            {"input": [{"role": "system", "content": [{"type": "input_text", "text": f"{PACK}\n\na"}]}, *ASKED]},
        ),
        (
            {"instructions": "Be brief.", "input": [{"role": "developer", "content": "a"}]},
            {"instructions": f"{PACK}\n\nBe brief."},
        ),
    ],
)
async def test_responses_begin_with_the_pack(tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]) -> None:
    answer, got = await asked(tmp_path, "/v1/responses", {**RESPONSES, "model": "fake@proj", **given})
    assert answer.headers["x-aicockpit-context"] == "160 tokens; warm"
    assert got == {**RESPONSES, **given, **expected}


async def test_a_response_that_follows_another_has_the_pack_in_its_instructions(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm(), engine_of(fake), layouts=Layouts(Template(chatml))) as rig:
            first = await rig.client.post("/v1/responses", json={**RESPONSES, "workspace": "proj"})
            item = {"role": "system", "content": "Now in German."}
            body = {**RESPONSES, "input": [item], "workspace": "proj", "previous_response_id": first.json()["id"]}
            await rig.client.post("/v1/responses", json=body)
            got = sent(fake)
    assert (got["instructions"], got["input"]) == (PACK, [item])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_their_usage_is_counted(tmp_path: Path, path: str, stream: bool) -> None:
    told = warm()
    text = "one two three four five six seven eight " * 8
    body = {**ALL[path], "workspace": "proj", "stream": stream, "messages": [{"role": "user", "content": text}]}
    with start_fake(tmp_path, "--enable-prompt-tokens-details") as fake:
        async with joined(tmp_path, told, engine_of(fake)) as rig:
            answers = [await rig.client.post(path, json={**body, "input": text}) for _ in range(2)]
            records = [await record(rig, answer.headers["x-request-id"]) for answer in answers]
        prompts = fake.prompts()
    assert [one["context"]["prompt_tokens"] for one in records] == [one["tokens"] for one in prompts]
    assert [one["context"]["cached_tokens"] for one in records] == [one["cached"] for one in prompts]
    assert prompts[1]["cached"] > 0
    assert [one[2:] for one in told.of("learn")] == [(0, one["tokens"], one["cached"]) for one in prompts]
    assert [one[2] for one in told.of("finished")] == [one["tokens"] - one["cached"] for one in prompts]


async def record(rig: Rig, request_id: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return dict((await rig.client.get(f"/api/requests/{request_id}")).json())


async def test_what_was_found_of_the_head_keeps_it_known(tmp_path: Path) -> None:
    told = warm()
    with start_fake(tmp_path, "--enable-prompt-tokens-details", "--fake-lie-cached", "170") as fake:
        async with joined(tmp_path, told, engine_of(fake)) as rig:
            answer = await rig.client.post("/v1/messages", json={**MESSAGES, "workspace": "proj"})
            seen = await record(rig, answer.headers["x-request-id"])
        tokens = fake.prompts()[0]["tokens"]
    assert seen["context"]["predicted_cached"] == 158, "the last tokens may be joined to what follows"
    assert told.of("learn") == [("learn", "fake-0", 160, 160, 158), ("learn", "fake-0", 0, tokens - 160, 12)]


@pytest.mark.parametrize("instructions", [None, "Be brief."])
async def test_a_stream_shows_the_clients_own_instructions(tmp_path: Path, instructions: str | None) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm(), engine_of(fake)) as rig:
            body = {**RESPONSES, "instructions": instructions, "stream": True}
            plain = await rig.client.post("/v1/responses", json=body)
            answer = await rig.client.post("/v1/responses", json={**body, "workspace": "proj"})
            assert PACK in sent(fake)["instructions"]
    assert PACK not in answer.text
    assert [one["type"] for one in events(answer.text)] == [one["type"] for one in events(plain.text)]
    shown = [one["response"]["instructions"] for one in events(answer.text) if "response" in one]
    assert shown == [instructions] * 3


@pytest.mark.parametrize("instructions", [None, "Be brief."])
async def test_a_whole_answer_shows_the_clients_own_instructions(tmp_path: Path, instructions: str | None) -> None:
    answer, got = await asked(tmp_path, "/v1/responses", {**RESPONSES, "instructions": instructions})
    assert PACK in got["instructions"]
    assert answer.json()["instructions"] == instructions
    assert answer.json()["status"] == "completed"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("path", list(TALKS))
async def test_tools_behind_the_system_message_keep_the_context(tmp_path: Path, path: str) -> None:
    template = Template(chatml)
    answer, got = await asked(tmp_path, path, TALKS[path], template)
    assert answer.headers["x-aicockpit-context"] == "160 tokens; warm"
    assert PACK in str(got)
    assert got["tools"] == TALKS[path]["tools"]
    assert template.calls[-1]["tools"]


@pytest.mark.parametrize("path", list(TALKS))
async def test_tools_in_front_of_the_system_message_take_the_context_away(tmp_path: Path, path: str) -> None:
    answer, got = await asked(tmp_path, path, TALKS[path], Template(llama))
    assert answer.headers["x-aicockpit-context"] == f"none; {TOOLS}"
    assert got == TALKS[path]


@pytest.mark.parametrize("path", list(TALKS))
async def test_an_empty_list_of_tools_is_none(tmp_path: Path, path: str) -> None:
    answer, _ = await asked(tmp_path, path, {**TALKS[path], "tools": []}, Template(llama))
    assert answer.headers["x-aicockpit-context"] == "160 tokens; warm"


THINKS = [
    ("/v1/chat/completions", {"reasoning_effort": "low"}),
    ("/v1/chat/completions", {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"}}),
    ("/v1/messages", {"output_config": {"effort": "low"}}),
    ("/v1/messages", {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}),
    ("/v1/responses", {"reasoning": {"effort": "low"}}),
]


@pytest.mark.parametrize(("path", "more"), THINKS)
async def test_how_much_to_think_is_asked_of_the_template_as_vllm_says_it(
    tmp_path: Path, path: str, more: dict[str, Any]
) -> None:
    template = Template(chatml)
    answer, _ = await asked(tmp_path, path, {**ALL[path], **more}, template)
    assert answer.headers["x-aicockpit-context"] == "160 tokens; warm"
    given = [json.loads(bytes(call["chat_template_kwargs"])) for call in template.calls if len(call) > 1]
    told = [{"enable_thinking": True, "reasoning_effort": "low"}]
    off = [{"enable_thinking": False, "reasoning_effort": "none"}] if "thinking" in more else []
    assert given == off + told


async def test_thinking_that_is_off_is_asked_for_both_ways_in_which_vllm_may_say_it(tmp_path: Path) -> None:
    def template(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: Any = None) -> str:
        """It knows no effort "none", which then is "medium": vLLM sees that, and says "low"."""
        effort = json.loads(bytes(chat_template_kwargs or b"{}")).get("reasoning_effort")
        return f"<effort {effort if effort in ('low', 'high') else 'medium'}>{chatml(messages, tools)}"

    body = {**TALKS["/v1/messages"], "thinking": {"type": "disabled"}}
    answer, _ = await asked(tmp_path, "/v1/messages", body, Template(template))
    assert answer.headers["x-aicockpit-context"].startswith("none; the request's template arguments change what")


@pytest.mark.parametrize("path", list(ALL))
async def test_every_route_refuses_and_declines_in_the_same_words(tmp_path: Path, path: str) -> None:
    requests: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "unknown": ({"workspace": "other"}, {}),
        "nonsense": ({"workspace": "proj", "context": "lots"}, {}),
        "negative": ({"workspace": "proj"}, {"x-aicockpit-context": "-3"}),
        "number": ({"workspace": 5}, {}),
        "none": ({"workspace": "proj", "context": "none"}, {}),
        "header": ({"context": "lots"}, {"x-aicockpit-workspace": "proj", "x-aicockpit-context": "0"}),
        "few": ({"workspace": "proj", "context": 20}, {}),
        "auto": ({"workspace": "proj", "context": "auto"}, {}),
        "salted": ({"workspace": "proj", "cache_salt": "mine"}, {}),
    }
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm(), engine_of(fake)) as rig:
            got = {
                name: await rig.client.post(path, json={**ALL[path], **body}, headers=headers)
                for name, (body, headers) in requests.items()
            }
    codes = {
        name: (one.status_code, one.json()["error"]["code"]) for name, one in got.items() if one.status_code != 200
    }
    assert codes == {
        "unknown": (404, "workspace_not_found"),
        "nonsense": (400, "invalid_context"),
        "negative": (400, "invalid_context"),
        "number": (400, "invalid_workspace"),
    }
    told = {name: one.headers["x-aicockpit-context"] for name, one in got.items() if one.status_code == 200}
    assert told == {
        "none": "none; the request wants none",
        "header": "none; the request wants none",
        "few": "none; too long",
        "auto": "160 tokens; warm",
        "salted": "none; the request has `cache_salt`",
    }


@pytest.mark.parametrize("path", list(TALKS))
async def test_without_a_workspace_nothing_is_touched(tmp_path: Path, path: str) -> None:
    raw = b'{ "model":"fake", "messages":[{"role":"user","content":"x"}], "input":"x", "suffix": 5, "max_tokens":2.0 }'
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm(), engine_of(fake)) as rig:
            headers = {"content-type": "application/json", "x-aicockpit-lane": "interactive"}
            await rig.client.post(path, content=raw, headers=headers)
        assert base64.b64decode(fake.last()["body"]) == raw


async def test_a_field_of_another_route_picks_no_engine(tmp_path: Path) -> None:
    with start_fake(tmp_path, name="a") as one, start_fake(tmp_path, name="b") as two:
        async with joined(tmp_path, warm(), engine_of(one, "a"), engine_of(two, "b")) as rig:
            answer = await rig.client.post("/v1/messages", json={**MESSAGES, "previous_response_id": "mine"})
    assert answer.status_code == 200


LONG = "word and another one; " * 150


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"system": LONG}, "160 tokens; warm"),
        ({"system": LONG * 4}, "none; no room in the model's context"),
        ({"messages": [{"role": "user", "content": LONG * 4}]}, "none; no room in the model's context"),
        ({"max_tokens": 3900}, "none; no room in the model's context"),
        ({"tools": [{"name": "look", "description": LONG * 2, "input_schema": {}}]}, "none; no room"),
    ],
    ids=["fits", "system", "messages", "answer", "tools"],
)
async def test_context_never_makes_a_request_too_long(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    answer, _ = await asked(tmp_path, "/v1/messages", {**MESSAGES, **more}, Template(chatml))
    assert answer.headers["x-aicockpit-context"].startswith(told)
