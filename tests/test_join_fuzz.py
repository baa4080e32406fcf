"""Whatever JSON arrives on a route that joins workspaces: never a defect of ours, and nothing touched unasked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from aicockpit.engines.engine import Engine
from aicockpit.errors import ApiError, BadRequest, NotFound
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.exchange import Exchange, Usage
from aicockpit.gateway.join import JOINABLE, Joiner
from aicockpit.gateway.layouts import Layouts
from aicockpit.gateway.openai import Call, exchange
from aicockpit.gateway.parity import Parity
from aicockpit.gateway.voices import Voice, Voices
from aicockpit.prompts.fim import detect
from join_rig import PACK, Template, Warm, chatml, find, warm_head
from rig import engine_of
from tiny_tokenizers import of_family

CALLER = Caller("me", False)
ENGINES = [engine_of("http://127.0.0.1:9", name) for name in "ab"]
ENCODER = of_family("qwen")
STYLE, WHY = detect(ENCODER.specials)
# What a string of the JSON is replaced with that no encoder of ours writes.
RAW = ["1e999", "-0.0", "1" * 400, '"\\ud83d\\ude00"', "[" * 600 + "]" * 600, '"\xff"']
# Every field that is looked at, and some that are not.
FIELDS = [
    "messages", "system", "instructions", "input", "tools", "prompt", "suffix", "stream", "stream_options",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "chat_template_kwargs", "reasoning_effort",
    "reasoning", "thinking", "output_config", "stop_token_ids", "ignore_eos", "cache_salt", "echo", "documents",
    "path", "context", "other",
]  # fmt: skip

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["system", "developer", "user", "text", "none", "disabled", *(f"raw {n}" for n in range(6))]),
)
keys = st.sampled_from(["role", "content", "type", "text", "effort", "chat_template", "enable_thinking", "name", ""])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)
talk = st.lists(st.fixed_dictionaries({"role": leaves, "content": values}), max_size=4)
# The machine may be busy with other things while these run.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
bodies = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, values | talk))
places = st.sampled_from([{}, {"workspace": "proj"}, {"workspace": None}, {"model": "fake@proj"}])


def written(body: dict[str, Any]) -> bytes:
    """As JSON, with the marked strings replaced by what is hard to read."""
    text = json.dumps({"model": "fake", **body}, ensure_ascii=False)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"raw {number}"', raw)
    return text.encode("utf-8", "surrogatepass").replace('"\xff"'.encode(), b'"\xff"')


def joiner() -> Joiner:
    head = warm_head()
    warm = Warm({"a": head, "b": replace(head, text="ANOTHER PACK")})
    voices = Voices(lambda _: Voice(ENCODER, STYLE, WHY, 100_000))
    return Joiner(warm, warm, find, voices, Parity(CollectorRegistry()), Layouts(Template(chatml)))


async def made(path: str, raw: bytes) -> Exchange | ApiError:
    """The exchange, or the refusal."""
    headers = {b"x-aicockpit-lane": b"interactive"}
    call = Call("POST", path, b"", headers, list(headers.items()), raw, "r")
    try:
        return await exchange(call, Directory(ENGINES, {}), CALLER, joiner())
    except (BadRequest, NotFound) as error:
        return error


@patient
@given(path=st.sampled_from(sorted(JOINABLE)), body=bodies, place=places)
def test_any_body_is_joined_or_refused_in_words(path: str, body: dict[str, Any], place: dict[str, Any]) -> None:
    raw = written({**body, **place})
    got = asyncio.run(made(path, raw))
    asked = bool(place.get("workspace") or place.get("model"))
    if isinstance(got, ApiError):
        return
    if got.composer is None:
        assert not asked
        assert got.body == raw
        return
    assert asked or (path == "/v1/completions" and body.get("suffix") is not None)
    before = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    for engine in (*ENGINES, ENGINES[0]):  # tried elsewhere, and back
        got.composer.warm(ENGINES)
        after = msgspec.json.decode(got.composer.compose(engine), type=dict[str, msgspec.Raw])
        got.composer.notes()
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        ours = {"workspace", "path", "context"} if asked else set()
        assert changed <= ours | {"model", *may_change(path)}
    finish(got, ENGINES[0])


def may_change(path: str) -> set[str]:
    return {
        "/v1/completions": {"prompt", "suffix", "stop_token_ids", "stream_options"},
        "/v1/chat/completions": {"messages", "stream_options"},
        "/v1/messages": {"system"},
        "/v1/responses": {"instructions", "input"},
    }[path]


def finish(got: Exchange, engine: Engine) -> None:
    composer = got.composer
    assert composer is not None
    tap = composer.tap()
    assert tap.feed(b"data: {}\n\n") + tap.rest() == b"data: {}\n\n"
    composer.shown(b"{}")
    composer.finished(engine, Usage(200, 160))
    composer.finished(engine, None)
    msgspec.json.encode(composer.account())


@patient
@given(path=st.sampled_from(sorted(JOINABLE)), raw=st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(path: str, raw: bytes) -> None:
    assert isinstance(asyncio.run(made(path, raw)), ApiError)


@patient
@given(messages=talk.filter(bool), route=st.sampled_from(["chat/completions", "messages", "responses"]))
def test_what_the_client_said_stays_as_it_was_behind_the_context(messages: list[Any], route: str) -> None:
    said = "input" if route == "responses" else "messages"
    raw = written({said: messages, "model": "fake@proj"})
    got = asyncio.run(made(f"/v1/{route}", raw))
    if isinstance(got, ApiError) or got.composer is None:
        return
    body = msgspec.json.decode(got.composer.compose(ENGINES[0]), type=dict[str, msgspec.Raw])
    own = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    after = msgspec.json.decode(body[said], type=list[msgspec.Raw])
    before = msgspec.json.decode(own[said], type=list[msgspec.Raw])
    assert after[-len(before) + 1 :] == before[1:] or len(before) == 1
    text = bytes(body.get("system", b"")) + bytes(body.get("instructions", b"")) + bytes(after[0])
    assert text.count(PACK.encode()) == 1
