"""The first walk with nothing faked: `aicockpit serve` from nothing, real vLLM on the CPU, the users' own SDKs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest

from real import KEY, MODEL, START_LIMIT_S, Server

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

COLD = {"temperature": 0}
PROMPT = "Here is a list of the days of the week: Monday, Tuesday,"


@pytest.fixture(scope="module")
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base, api_key=KEY, max_retries=0) as made:
        yield made


def test_the_banner_s_curl_line_works_as_pasted(server: Server) -> None:
    server.until(lambda: "Ctrl-C" in server.log.read_text())
    text = server.log.read_text()
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("curl "))
    env = {**os.environ, "AICOCKPIT_API_KEY": KEY}
    answer = json.loads(subprocess.run(["bash", "-c", line], capture_output=True, env=env, check=True).stdout)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert KEY not in text
    assert re.search(r"embedded|cache|hub", text), "the banner's steps say where the model came from"


def test_chat(sdk: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    answer = sdk.chat.completions.create(model=MODEL, messages=question, temperature=0, max_tokens=40)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer._request_id


def test_stream_and_completions(sdk: openai.OpenAI) -> None:
    whole = sdk.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=12)
    stream = sdk.completions.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert "Wednesday" in whole.choices[0].text
    assert chunks[-1].usage is not None
    assert len(chunks) > 5


def test_cached_tokens_are_told(sdk: openai.OpenAI, server: Server) -> None:
    prompt = "one two three four five six seven eight nine ten " * 20
    seen = [sdk.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage for _ in range(2)]
    assert seen[1] is not None
    assert seen[1].prompt_tokens_details is not None
    assert (seen[1].prompt_tokens_details.cached_tokens or 0) > 100
    with server.client() as client:
        page = client.get("/metrics").text
    cached = re.search(r"aicockpit_prompt_tokens_cached_total\{.*\} ([\d.e+]+)", page)
    assert cached is not None
    assert float(cached[1]) > 100


def test_n_stop_logprobs(sdk: openai.OpenAI) -> None:
    several = sdk.completions.create(model=MODEL, prompt=PROMPT, n=3, max_tokens=4, temperature=1.0, logprobs=2)
    assert len(several.choices) == 3
    assert several.choices[0].logprobs is not None
    stopped = sdk.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30, temperature=0, stop=["Thursday"])
    assert stopped.choices[0].finish_reason == "stop"
    assert "Thursday" not in stopped.choices[0].text


def test_structured_output(sdk: openai.OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name a city as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
        max_tokens=60,
        temperature=0,
    )
    assert "city" in json.loads(answer.choices[0].message.content or "")


def test_tools(sdk: openai.OpenAI) -> None:
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ]
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=80,
        temperature=0,
    )
    calls: Any = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.name == "weather"


def test_embeddings_of_a_generating_model_are_refused_by_the_engine(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.embeddings.create(model=MODEL, input="x")
    assert caught.value.response.headers["x-aicockpit-origin"] == "engine"
    assert caught.value.request_id


def test_errors_reach_the_sdk_as_its_own(sdk: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match=r"is not served here\. Served: HuggingFaceTB"):
        sdk.chat.completions.create(model="gpt-4o", messages=[])
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        sdk.completions.create(model=MODEL, prompt="word " * 20_000, max_tokens=1)
    with pytest.raises(openai.AuthenticationError, match="not known here"):
        openai.OpenAI(base_url=server.base, api_key="wrong").models.list()


def test_the_short_name_is_served_too(sdk: openai.OpenAI) -> None:
    names = [model.id for model in sdk.models.list()]
    assert names[:2] == [MODEL, "SmolLM2-135M-Instruct"]  # then those with a workspace
    assert sdk.completions.create(model=names[1], prompt=PROMPT, max_tokens=1).choices


def test_anthropic_messages(server: Server) -> None:
    base = f"http://127.0.0.1:{server.port}"
    with anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0) as client:
        asked: Any = [{"role": "user", "content": "What is the capital of France?"}]
        answer = client.messages.create(model=MODEL, max_tokens=30, messages=asked, extra_body=COLD)
        block: Any = answer.content[0]
        assert "Paris" in block.text
        with client.messages.stream(model=MODEL, max_tokens=30, messages=asked, extra_body=COLD) as stream:
            assert "Paris" in stream.get_final_text()
        assert client.messages.count_tokens(model=MODEL, messages=asked).input_tokens > 5
        with pytest.raises(anthropic.NotFoundError, match="not served here"):
            client.messages.create(model="claude", max_tokens=1, messages=asked)


def test_tokenize_there_and_back(server: Server) -> None:
    with server.client() as client:
        tokens = client.post("/tokenize", json={"model": MODEL, "prompt": PROMPT}).json()["tokens"]
        text = client.post("/v1/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"]
    assert text == PROMPT


def test_every_route_of_this_vllm_is_decided_on(server: Server) -> None:
    """A new vLLM with a new route fails here, until somebody has decided whether clients may use it."""
    from aicockpit.gateway import openai as routes

    transport = httpx.HTTPTransport(uds=server.engine()["url"].removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://engine") as client:
        paths = set(client.get("/openapi.json").json()["paths"])
    ours = set(routes.ROUTES) | {"/v1/models", "/health", "/metrics", "/version"}
    stored = {path for path in paths if path.startswith("/v1/responses/{")}
    kept_inside = set((Path(__file__).parent / "vllm_routes_kept_inside.txt").read_text().split())
    assert paths - ours - stored - kept_inside == set()
    with server.client() as client:
        for path in kept_inside & paths:
            assert client.post(path, json={"model": MODEL}).status_code in (404, 405), path


def test_a_client_that_leaves_frees_the_engine(server: Server) -> None:
    body = {
        "model": MODEL,
        "prompt": PROMPT,
        "max_tokens": 3000,
        "stream": True,
        "ignore_eos": True,
        "temperature": 1.0,
    }
    with server.client() as client:
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(6):
                next(lines)
            assert server.engine_metric("vllm:num_requests_running") == 1
        server.until(lambda: server.engine_metric("vllm:num_requests_running") == 0, 30)
        assert sum(server.engine()["in_flight"].values()) == 0


def test_kill_9_of_the_engine_core_is_noticed_and_recovered(server: Server, sdk: openai.OpenAI) -> None:
    gateway = psutil.Process(server.process.pid)
    cores = [child for child in gateway.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    assert cores, [child.cmdline() for child in gateway.children(recursive=True)]
    # vLLM renames its processes; the mark by which a later start finds its orphans must survive that.
    assert "smollm2" in cores[0].environ()["AICOCKPIT_MARK"]
    before = server.engine()["restarts"]
    stream = sdk.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
    )
    iterator = iter(stream)
    next(iterator)
    os.kill(cores[0].pid, signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in iterator:
            pass
    server.until(lambda: server.engine()["state"] != "ready", 30)
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]
    server.until(lambda: server.engine()["state"] == "ready", START_LIMIT_S)
    assert server.engine()["restarts"] == before + 1
    assert sdk.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1).choices
    assert not [core for core in cores if core.is_running() and core.status() != psutil.STATUS_ZOMBIE]
