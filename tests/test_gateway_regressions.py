"""Defects that a review found, each pinned by the smallest case that showed it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from aicockpit.gateway import protocol, server
from aicockpit.gateway.sse import StreamWatch
from aicockpit.types import EngineState
from fake_client import start_fake
from rig import KEY, aborted, chat_body, engine_of, events, running, until

BACKGROUND = {"x-aicockpit-lane": "background"}


async def test_the_first_byte_limit_holds_before_the_headers_too(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang-before-headers") as fake:
        async with running(tmp_path, engine_of(fake), first_byte_wait="0.3") as rig:
            answer = await rig.chat()
            await aborted(fake)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")


async def test_streams_that_all_break_open_the_circuit(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-error-mid-stream", "1") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            codes = [(await rig.chat(stream=True)).status_code for _ in range(6)]
            assert rig.engines[0].breaker.open
    assert codes == [200] * 5 + [503]


async def test_a_refused_background_request_passes_the_turn_on(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang") as fake:
        async with running(tmp_path, engine_of(fake), background_wait="30") as rig:
            typing = asyncio.create_task(rig.chat())
            await until(lambda: rig.engines[0].load.interactive == 1)
            room = rig.gateway.forwarder
            waiting = [asyncio.create_task(rig.chat(headers=BACKGROUND)) for _ in range(3)]
            await until(lambda: sum(len(one) for one in room._rooms.values()) == 3)
            rig.engines[0].state = EngineState.FAILED
            typing.cancel()
            answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)
            await asyncio.gather(typing, return_exceptions=True)
    assert {answer.status_code for answer in answers} == {503}


async def test_a_closing_websocket_lets_background_work_go_on(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake), background_wait="20") as rig:
            url, headers = f"ws://127.0.0.1:{rig.port}/v1/realtime?model=fake", {"authorization": f"Bearer {KEY}"}
            async with connect(url, additional_headers=headers, proxy=None):
                await until(lambda: rig.engines[0].load.interactive == 1)
                waiting = asyncio.create_task(rig.chat(headers=BACKGROUND))
                await until(lambda: bool(rig.gateway.forwarder._rooms))
                assert rig.gateway.inflight == 2
            assert (await asyncio.wait_for(waiting, 10)).status_code == 200
            page = (await rig.client.get("/metrics")).text
    assert 'code="101"' in page


async def test_the_background_limit_is_one_for_all_turns(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.02") as fake:
        async with running(tmp_path, engine_of(fake), background_wait="0.5") as rig:
            stop = asyncio.Event()

            async def work_on() -> None:
                """Each end wakes the one that waits, in vain."""
                while not stop.is_set():
                    await rig.chat(headers={"x-aicockpit-lane": "agent"})

            typing = asyncio.create_task(rig.chat(stream=True, max_tokens=4000))
            await until(lambda: rig.engines[0].load.interactive == 1)
            working = asyncio.create_task(work_on())
            answer = await asyncio.wait_for(rig.chat(headers=BACKGROUND), 15)
            stop.set()
            typing.cancel()
            await asyncio.gather(typing, working, return_exceptions=True)
    assert answer.status_code == 429


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/completions"])
async def test_the_error_event_has_the_shape_of_its_route(tmp_path: Path, path: str) -> None:
    with start_fake(tmp_path, "--fake-die-mid-stream", "2") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            body = {**chat_body(stream=True, max_tokens=9), "input": "x", "prompt": "x"}
            last = events((await rig.client.post(path, json=body)).text)[-1]
    assert last.get("type", "error") == "error"
    assert (last if path == "/v1/responses" else last["error"])["code"] == "engine_failed"


async def test_the_error_of_a_superseded_stream_stands_on_its_own(tmp_path: Path) -> None:
    half = b'data: {"choices":[{"delta":{"content":"held'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"%x\r\n" % len(half) + half + b"\r\n")
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "half.sock")
    async with server, running(tmp_path, engine_of(f"unix:{tmp_path}/half.sock")) as rig:
        slot = {"x-aicockpit-slot": "1"}
        older = asyncio.create_task(rig.chat(stream=True, headers=slot))
        await until(lambda: rig.engines[0].progress > 0)
        newer = asyncio.create_task(rig.chat(stream=True, headers=slot))
        lost = await older
        newer.cancel()
        await asyncio.gather(newer, return_exceptions=True)
    parts = lost.text.split("\n\n")
    assert parts[0].encode() == half
    assert json.loads(parts[1].removeprefix("data: "))["error"]["code"] == "superseded"


async def test_a_request_that_an_engine_has_read_is_not_sent_to_it_again(tmp_path: Path) -> None:
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                length = int(
                    (await reader.readuntil(b"\r\n\r\n")).lower().split(b"content-length: ")[1].split(b"\r")[0]
                )
                await reader.readexactly(length)
                seen += 1
                if seen == 3:
                    await asyncio.sleep(0.7)
                    break
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "s.sock")
    async with server, running(tmp_path, engine_of(f"unix:{tmp_path}/s.sock")) as rig:
        codes = [(await rig.chat()).status_code for _ in range(3)]
    assert codes == [200, 200, 502]
    assert seen == 3


async def test_encoded_streams_are_not_called_unfinished(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-gzip") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            await rig.chat(stream=True)
            page = (await rig.client.get("/metrics")).text
            assert rig.engines[0].breaker.failures == 0
    assert "aicockpit_stream_errors_total{" not in page


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_an_error_is_seen_at_every_cut_and_without_its_last_empty_line(end: bytes) -> None:
    event = b'data: {"error": {"message": "boom"}}' + end
    for cut in range(len(event) + 1):
        watch = StreamWatch()
        watch.feed(event[:cut])
        watch.feed(event[cut:])
        assert watch.error == "boom", cut
    watch = StreamWatch()
    watch.feed(event.rstrip())
    watch.end()
    assert watch.error == "boom"


async def test_long_errors_of_the_engine_pass_whole(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-status", "400", "--fake-status-text", "x" * 100_000) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.chat()
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].count("x") >= 100_000


async def test_fastapi_s_own_errors_are_in_the_envelope(tmp_path: Path) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        invalid = await rig.client.get("/api/engines/fake-0?lines=abc")
        rig.fleet.log_tail = None  # type: ignore[assignment,method-assign]
        defect = await rig.client.get("/api/engines/fake-0")
    assert (invalid.status_code, invalid.json()["error"]["code"]) == (400, "invalid_parameter")
    assert (defect.status_code, defect.json()["error"]["code"]) == (500, "internal_error")


async def test_an_engine_that_has_not_said_its_models_is_503_not_404(tmp_path: Path) -> None:
    engine = engine_of("http://127.0.0.1:9", names=())
    engine.state, engine.reason = EngineState.UNREACHABLE, "refused"
    async with running(tmp_path, engine) as rig:
        answer = await rig.chat()
    assert (answer.status_code, "refused" in answer.text) == (503, True)
    assert answer.headers["retry-after"]


async def test_the_engine_s_own_model_card_is_shown(tmp_path: Path) -> None:
    engine = engine_of("http://127.0.0.1:9")
    engine.cards = {"fake": {"id": "fake", "max_model_len": 32768, "parent": "base"}}
    async with running(tmp_path, engine, aliases={"gpt": "fake"}) as rig:
        cards = (await rig.client.get("/v1/models")).json()["data"]
    assert [(card["id"], card["max_model_len"], card["parent"]) for card in cards] == [
        ("fake", 32768, "base"),
        ("gpt", 32768, "base"),
    ]


async def test_aliases_work_on_websockets(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake), aliases={"gpt": "fake"}) as rig:
            base, headers = f"ws://127.0.0.1:{rig.port}/v1/realtime", {"authorization": f"Bearer {KEY}"}
            async with connect(base + "?model=gpt&x=1", additional_headers=headers, proxy=None):
                last = fake.last("/v1/realtime")
            async with connect(base, additional_headers=headers, proxy=None) as socket:
                await socket.send('{"type":"session.update","session":{"model":"gpt"}}')
                sent = json.loads(json.loads(await socket.recv())["received"])
    assert last["path"].endswith("?model=fake&x=1")
    assert sent["session"]["model"] == "fake"


async def test_a_client_that_leaves_during_the_search_for_a_response_is_noticed(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang", name="a") as one, start_fake(tmp_path, "--fake-hang", name="b") as two:
        async with running(tmp_path, engine_of(one, "a"), engine_of(two, "b")) as rig:
            call = asyncio.create_task(rig.client.get("/v1/responses/resp_1"))
            await until(lambda: rig.gateway.inflight == 1)
            await asyncio.sleep(0.05)
            call.cancel()
            began = time.monotonic()
            await asyncio.gather(call, return_exceptions=True)
            await until(lambda: rig.gateway.inflight == 0)
            assert time.monotonic() - began < 4  # one search alone may take five seconds


async def test_endless_and_slow_heads_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WAIT_S", 0.3)
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        for sent in (b"", b"POST / HTTP/1.1\r\nx: y"):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                writer.write(b"GET / HTTP/1.1\r\n" if _ == 0 else b"x: " + b"y" * 1000 + b"\r\n")
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert b"400" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert (await rig.client.get("/health")).status_code == 200


async def test_a_websocket_outlives_the_limits_of_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WAIT_S", 0.2)
    monkeypatch.setattr(server, "_KEEP_ALIVE_S", 0.2)
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            url, headers = f"ws://127.0.0.1:{rig.port}/v1/realtime?model=fake", {"authorization": f"Bearer {KEY}"}
            async with connect(url, additional_headers=headers, proxy=None) as client:
                await asyncio.sleep(0.6)
                await client.send('{"type":"hello"}')
                assert json.loads(await client.recv())["received"] == '{"type":"hello"}'


async def test_idle_connections_are_closed_and_busy_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_WAIT_S", 0.3)
    monkeypatch.setattr(server, "_KEEP_ALIVE_S", 0.3)
    with start_fake(tmp_path, "--fake-first-delay", "0.8") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            body = json.dumps(chat_body()).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            request = head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            for _ in range(2):
                writer.write(request)
                status = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert status.startswith(b"HTTP/1.1 200")
                length = int(re.search(rb"content-length: (\d+)", status)[1])  # type: ignore[index]
                await reader.readexactly(length)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_slow_uploads_and_too_many_bodies(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang") as fake:
        async with running(tmp_path, engine_of(fake), body_wait="0.2") as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            writer.write(head.encode() + b"content-length: 100\r\n\r\n{")
            assert b"408" in await asyncio.wait_for(reader.read(100), 5)
            writer.close()
        async with running(tmp_path, engine_of(fake), max_body="1kB") as rig:
            held = [asyncio.create_task(rig.chat("x" * 900)) for _ in range(16)]
            await until(lambda: rig.engines[0].load.total == 16)
            refused = await rig.chat("x" * 900)
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await until(lambda: rig.gateway.inflight == 0)
            assert rig.gateway._held == 0
    assert refused.status_code == 429


async def test_trailers_do_not_leak_into_the_next_answer(tmp_path: Path) -> None:
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                length = int(
                    (await reader.readuntil(b"\r\n\r\n")).lower().split(b"content-length: ")[1].split(b"\r")[0]
                )
                await reader.readexactly(length)
                count += 1
                head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-leaked\r\n\r\n"
                writer.write(head + b"2\r\n{}\r\n0\r\nx-leaked: from-%d\r\n\r\n" % count)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "t.sock")
    async with server, running(tmp_path, engine_of(f"unix:{tmp_path}/t.sock")) as rig:
        answers = [await rig.chat() for _ in range(3)]
    assert all("x-leaked" not in answer.headers for answer in answers)


async def test_two_model_fields_in_a_form_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        files: Any = [("model", (None, "fake")), ("model", (None, "other")), ("file", ("a.wav", b"RIFF"))]
        answer = await rig.client.post("/v1/audio/transcriptions", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_ambiguous")


async def test_refused_requests_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        async with httpx.AsyncClient(base_url=rig.client.base_url, trust_env=False) as bare:
            await bare.post("/v1/chat/completions", json=chat_body())
            await bare.get("/nope")
        page = (await rig.client.get("/metrics")).text
    assert 'code="401",lane="interactive",model="other",route="/v1/chat/completions"' in page
    assert 'code="401",lane="interactive",model="other",route="other"' in page


async def test_two_names_of_one_engine_share_the_waiting_room(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang", names=("fake", "short")) as fake:
        async with running(tmp_path, engine_of(fake, names=("fake", "short")), background_queue="1") as rig:
            typing = asyncio.create_task(rig.chat())
            await until(lambda: rig.engines[0].load.interactive == 1)
            waiting = asyncio.create_task(rig.chat(headers=BACKGROUND))
            await until(lambda: bool(rig.gateway.forwarder._rooms))
            full = await rig.chat(headers=BACKGROUND, model="short")
            for task in (typing, waiting):
                task.cancel()
            await asyncio.gather(typing, waiting, return_exceptions=True)
    assert full.status_code == 429
