"""The routes of coding agents with nothing faked: the SDKs they use, real vLLM, a workspace that is warm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from real import KEY, MODEL, ROOT, Server, watching

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

NAME = "agents-tree"
JOINED = f"{MODEL}@{NAME}"
ASKED: Any = [{"role": "user", "content": "Which classes are there?"}]
TURNS: Any = [*ASKED, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "Which?"}]
SCHEMA: Any = {"type": "object", "properties": {"path": {"type": "string"}}}


@dataclass
class Site:
    """The server with a workspace of its own."""

    server: Server

    def head(self) -> int:
        """Tokens that stand in front of a conversation."""
        lane = self.server.get(f"/api/workspaces/{NAME}")["context"]["models"][MODEL]["lanes"]["chat"]
        return int(next(iter(lane["engines"].values()))["serves_tokens"])

    def warm(self) -> bool:
        context = self.server.get(f"/api/workspaces/{NAME}")["context"]
        lane = context["models"].get(MODEL, {}).get("lanes", {}).get("chat", {})
        states = [one["state"] for one in lane.get("engines", {}).values()]
        return bool(lane.get("epoch")) and states == ["warm"]

    def account(self, request_id: str) -> dict[str, Any]:
        path = f"/api/requests/{request_id}"
        self.server.until(lambda: self.server.get(path), 20)  # recorded after the last byte
        return dict(self.server.get(path)["context"])


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server.forget_workspaces()
    tree = tmp_path_factory.mktemp("agents") / NAME
    shutil.copytree(ROOT / "src/aicockpit/engines", tree / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    made = Site(server)
    with watching(server, tree, NAME):
        server.until(made.warm, 240)
        yield made
    with server.client() as client:
        client.delete(f"/api/workspaces/{NAME}").raise_for_status()


@pytest.fixture(scope="module")
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    base = server.base.removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0) as made:
        yield made


SYSTEMS: Any = [
    anthropic.omit,
    "Be brief.",
    [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Now."}],
]


@pytest.mark.parametrize("system", SYSTEMS, ids=["none", "text", "blocks"])
@pytest.mark.parametrize("messages", [ASKED, TURNS], ids=["one", "turns"])
def test_messages_begin_warm(site: Site, claude: anthropic.Anthropic, system: Any, messages: Any) -> None:
    head = site.head()
    answer = claude.messages.create(model=JOINED, system=system, messages=messages, max_tokens=2)
    assert answer.usage.cache_read_input_tokens is not None
    assert answer.usage.cache_read_input_tokens >= 0.9 * head > 300
    assert answer.usage.input_tokens < 200


def test_a_stream_of_messages_is_accounted(site: Site, claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=JOINED, messages=ASKED, max_tokens=3) as stream:
        usage = stream.get_final_message().usage
        told = site.account(stream.response.headers["x-request-id"])
    assert told["workspace"] == NAME
    assert told["cached_tokens"] == usage.cache_read_input_tokens
    assert told["prompt_tokens"] == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert told["cached_tokens"] >= told["predicted_cached"] >= 0.9 * site.head()


INPUTS: Any = [
    ({"input": "Which classes are there?"}, None),
    ({"input": ASKED, "instructions": "Be brief."}, "Be brief."),
    ({"input": [{"role": "developer", "content": "Be brief."}, *ASKED]}, None),
]


@pytest.mark.parametrize(("body", "shown"), INPUTS, ids=["text", "instructions", "developer"])
def test_responses_begin_warm(site: Site, sdk: openai.OpenAI, body: Any, shown: str | None) -> None:
    answer = sdk.responses.create(model=JOINED, max_output_tokens=3, temperature=0, **body)
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens >= 0.9 * site.head() > 300
    assert answer.instructions == shown


def test_a_stream_of_a_response_is_accounted_and_repeats_no_file(site: Site, sdk: openai.OpenAI) -> None:
    stream = sdk.responses.create(
        model=JOINED, input="Which classes are there?", instructions="Be brief.", max_output_tokens=3, stream=True
    )
    seen = list(stream)
    told = site.account(stream.response.headers["x-request-id"])
    last: Any = seen[-1]
    assert told["prompt_tokens"] == last.response.usage.input_tokens
    assert told["cached_tokens"] == last.response.usage.input_tokens_details.cached_tokens >= told["predicted_cached"]
    assert told["predicted_cached"] >= 0.9 * site.head()
    assert {one.response.instructions for one in seen if hasattr(one, "response")} == {"Be brief."}


def test_a_chat_with_a_tool_begins_warm(site: Site, sdk: openai.OpenAI) -> None:
    """This model's template shows no tools at all, so they take nothing away."""
    answer = sdk.chat.completions.with_raw_response.create(
        model=JOINED,
        messages=TURNS,
        tools=[{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
        tool_choice="none",
        max_tokens=3,
        temperature=0,
    )
    assert answer.headers["x-aicockpit-context"].endswith("warm")
    usage: Any = answer.parse().usage
    assert usage.prompt_tokens_details.cached_tokens >= 0.9 * site.head() > 300


def test_messages_with_a_tool_begin_warm(site: Site, claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=JOINED,
        messages=ASKED,
        tools=[{"name": "look", "input_schema": SCHEMA}],
        tool_choice={"type": "none"},
        max_tokens=3,
    )
    assert (answer.usage.cache_read_input_tokens or 0) >= 0.9 * site.head() > 300


def test_the_workspace_can_be_picked_from_the_list(site: Site, sdk: openai.OpenAI) -> None:
    listed = {model.id: model for model in sdk.models.list()}
    assert listed[JOINED].to_dict()["workspace"] == NAME
    assert sdk.models.retrieve(JOINED).id == JOINED
    assert list(listed).index(JOINED) > list(listed).index(MODEL)
