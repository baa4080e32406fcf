"""gateway/layouts.py: is the context still in front when a request has tools, turns or template arguments?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicockpit.errors import BadGateway
from aicockpit.gateway.layouts import Layouts, Traits, arguments, tokenize
from aicockpit.types import EngineState
from fake_client import start_fake
from join_rig import Template, chatml
from rig import engine_of

TOOLS = "the model's template puts tools in front of the system message"
TURNS = "the model's template moves the system message in a longer conversation"
ARGUMENTS = "the request's template arguments change what stands in front of the system message"


def ignoring(messages: Sequence[Any], tools: object = (), chat_template_kwargs: object = None) -> str:
    """As SmolLM2's: tools are not shown at all."""
    return chatml(messages)


def llama(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
    """As Llama 3.1's: the system message begins with another line when there are tools."""
    first = "Environment: ipython\n" if tools else ""
    return f"<system>\n{first}Cutting Knowledge Date\n\n{messages[0]['content']}</>\n" + chatml(messages[1:])


def mistral(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
    """As Mistral's first ones: system text and tools stand in front of the last user message."""
    *before, last = messages[1:]
    text = "".join(f"[INST] {one['content']}" for one in before)
    if tools:
        text += f"[AVAILABLE_TOOLS] {json.dumps(tools)}"
    return f"<s>{text}[INST] {messages[0]['content']}\n\n{last['content']} [/INST]"


def thinking(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: Any = None) -> str:
    """As Qwen3's: an argument changes the end; as gpt-oss's: another one changes the beginning."""
    given = msgspec.json.decode(chat_template_kwargs) if chat_template_kwargs else {}
    end = "<think></think>" if given.get("enable_thinking") is False else ""
    return f"<effort {given.get('reasoning_effort', 'medium')}>" + chatml(messages, tools) + end


def refusing(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
    if tools:
        raise BadGateway("engine a answered 400 to /tokenize: no tools here")
    return chatml(messages)


@pytest.mark.parametrize(
    ("template", "traits", "expected"),
    [
        (chatml, Traits(tools=True), 0),
        (chatml, Traits(tools=True, turns=True), 0),
        (ignoring, Traits(tools=True), 0),
        (llama, Traits(tools=True), TOOLS),
        (llama, Traits(turns=True), 0),
        (mistral, Traits(turns=True), TURNS),
        (mistral, Traits(tools=True), TOOLS),
        (mistral, Traits(tools=True, turns=True), TURNS),
        (thinking, Traits(arguments=b'{"enable_thinking":false}'), 0),
        (thinking, Traits(arguments=b'{"reasoning_effort":"high"}'), ARGUMENTS),
        (thinking, Traits(tools=True, arguments=b'{"reasoning_effort":"medium"}'), 0),
    ],
)
async def test_the_template_decides(template: Any, traits: Traits, expected: int | str) -> None:
    assert await Layouts(Template(template)).edge([engine_of("http://a:1")], "m", traits) == expected


async def test_what_follows_the_context_at_once_may_be_joined_to_its_end() -> None:
    def glued(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
        text = chatml(messages)
        return text.replace("```\n", "\1\n").replace("```<", "\1[TOOLS]<") if tools else text

    assert await Layouts(Template(glued)).edge([engine_of("http://a:1")], "m", Traits(tools=True)) == TOOLS

    def merged(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
        text = chatml(messages)
        return text.replace("```</>", "``\1</>") if tools else text

    assert await Layouts(Template(merged)).edge([engine_of("http://a:1")], "m", Traits(tools=True)) == 1


async def test_an_ordinary_request_asks_nobody_and_another_asks_once() -> None:
    template, engine = Template(chatml), engine_of("http://a:1")
    layouts = Layouts(template)
    assert await layouts.edge([], "m", Traits()) == 0
    assert not template.calls
    for _ in range(3):
        await layouts.edge([engine], "m", Traits(tools=True))
    assert len(template.calls) == 3  # two without tools, one with
    engine.generation += 1  # it may come back with another template
    await layouts.edge([engine], "m", Traits(tools=True))
    await layouts.edge([engine], "other", Traits(tools=True))
    assert len(template.calls) == 9


async def test_an_engine_that_does_not_answer_is_asked_again_later() -> None:
    now, template = 0.0, Template(refusing)
    layouts, engine = Layouts(template, lambda: now), engine_of("http://a:1", "a")
    said = await layouts.edge([engine], "m", Traits(tools=True))
    assert said == "a did not render the request's layout: engine a answered 400 to /tokenize: no tools here"
    count = len(template.calls)
    assert await layouts.edge([engine], "m", Traits(tools=True)) == said
    assert len(template.calls) == count
    now, template.render = 10.0, chatml
    assert await layouts.edge([engine], "m", Traits(tools=True)) == 0
    now, template.render = 1e9, refusing
    assert await layouts.edge([engine], "m", Traits(tools=True)) == 0


async def test_without_an_engine_that_is_ready_nobody_can_say() -> None:
    engine = engine_of("http://a:1")
    engine.state = EngineState.STARTING
    assert "no engine is ready" in str(await Layouts(Template(chatml)).edge([engine], "m", Traits(tools=True)))


async def test_what_is_remembered_is_bounded() -> None:
    template, engine = Template(chatml), engine_of("http://a:1")
    layouts = Layouts(template)
    for number in range(300):
        await layouts.edge([engine], "m", Traits(arguments=b'{"a":%d}' % number))
    count = len(template.calls)
    await layouts.edge([engine], "m", Traits(arguments=b'{"a":299}'))
    assert len(template.calls) == count
    await layouts.edge([engine], "m", Traits(arguments=b'{"a":0}'))
    assert len(template.calls) > count


def test_template_arguments_have_one_form() -> None:
    assert arguments({"b": 1, "a": None, "c": {"y": 1, "x": 2}}) == b'{"b":1,"c":{"x":2,"y":1}}'
    assert arguments({"a": None}) == b""
    assert arguments({"chat_template": "x"}) == "the request has `chat_template`"
    assert arguments({"a": "x" * 5000}) == "the request's template arguments are too long"


async def test_the_engine_is_asked_on_its_own_route(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        engine = engine_of(fake)
        found = await Layouts().edge([engine], "fake", Traits(tools=True))
        asked = fake.last("/tokenize")
        with pytest.raises(BadGateway, match="answered 404 to /tokenize"):
            await tokenize(engine, "nobody", Traits().fields())
        engine.upstream.close()
    assert found == TOOLS  # the fake's template
    assert asked["path"] == "/tokenize"
