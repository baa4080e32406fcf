"""What a client sees when an engine misbehaves or the client itself leaves; what the engine sees then."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from aicockpit.types import EngineState
from fake_client import start_fake
from rig import KEY, Rig, aborted, chat_body, engine_of, events, running, until


def request_bytes(**fields: Any) -> bytes:
    body = json.dumps(chat_body(**fields)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("when", ["before headers", "in a stream", "in a plain call"])
async def test_a_client_that_leaves_frees_the_engine(tmp_path: Path, when: str) -> None:
    flags = {"before headers": ["--fake-hang-before-headers"], "in a stream": ["--fake-token-delay", "0.05"]}
    with start_fake(tmp_path, *flags.get(when, ["--fake-first-delay", "60"])) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            link = rig.raw()
            link.sendall(request_bytes(stream=when == "in a stream", max_tokens=500))
            await asyncio.to_thread(fake.wait_state, active=1)
            if when == "in a stream":
                await asyncio.to_thread(link.recv, 10)
            left = time.monotonic()
            link.close()
            state = await aborted(fake)
            assert state["last_abort_monotonic_s"] - left < 1.0  # 100 ms on an idle machine: see the benchmark
            await until(lambda: rig.engines[0].load.total == 0)
            page = (await rig.client.get("/metrics")).text
    assert state["active"] == 0
    assert 'aicockpit_cancelled_total{reason="client_left"} 1.0' in page
    assert 'code="499"' in page


async def test_a_client_with_a_long_body_that_leaves_is_noticed(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang-before-headers") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            link = rig.raw()
            await asyncio.to_thread(link.sendall, request_bytes(prompt="x" * 3_000_000))
            await asyncio.to_thread(fake.wait_state, active=1)
            link.close()
            await aborted(fake)
            await until(lambda: rig.gateway.inflight == 0)


async def test_a_client_that_leaves_while_uploading_reaches_no_engine(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            link = rig.raw()
            link.sendall(request_bytes()[:-10])
            await until(lambda: rig.gateway.inflight == 1)
            link.close()
            await until(lambda: rig.gateway.inflight == 0)
            assert fake.state()["started"] == 0


async def test_ten_thousand_bytes_of_garbage_do_not_hurt(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-garbage") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.chat()
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["origin"]) == (502, "engine_failed", "gateway")
            assert "not HTTP" in error["message"]
            fake.set(garbage=False)
            assert (await rig.chat()).status_code == 200


async def test_another_replica_takes_over_before_the_first_byte(tmp_path: Path) -> None:
    for number, flags in enumerate(
        (["--fake-garbage"], ["--fake-status", "500", "--fake-status-text", "EngineCore encountered an issue"],
         ["--fake-status", "500", "--fake-status-text", "cannot schedule new futures after shutdown"],
         ["--fake-status", "503"], ["--fake-die-after", "0"])
    ):  # fmt: skip
        with (
            start_fake(tmp_path, *flags, name=f"bad{number}") as bad,
            start_fake(tmp_path, name=f"good{number}") as good,
        ):
            first, second = engine_of(bad, "bad"), engine_of(good, "good")
            second.load.sent = 10
            async with running(tmp_path, first, second) as rig:
                answer = await rig.chat()
                page = (await rig.client.get("/metrics")).text
            assert answer.status_code == 200, (flags, answer.text)
            assert answer.headers["x-aicockpit-engine"] == "good"
            assert "aicockpit_retries_total" in page
            assert first.load.total == second.load.total == 0


async def test_a_refused_connection_is_tried_elsewhere_and_opens_the_circuit(tmp_path: Path) -> None:
    with start_fake(tmp_path) as good:
        dead, alive = engine_of("http://127.0.0.1:9", "dead"), engine_of(good, "alive")
        async with running(tmp_path, dead, alive) as rig:
            answers = [await rig.chat() for _ in range(20)]
            assert {answer.status_code for answer in answers} == {200}
            assert dead.breaker.open
            assert dead.load.sent == dead.breaker.threshold


async def test_4xx_never_opens_the_circuit(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-status", "400", "--fake-status-text", "context length") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answers = [await rig.chat() for _ in range(12)]
            assert {answer.status_code for answer in answers} == {400}
            assert answers[0].headers["x-aicockpit-origin"] == "engine"
            assert "context length" in answers[0].json()["error"]["message"]
            assert not rig.engines[0].breaker.open


async def test_5xx_opens_the_circuit_and_a_trial_closes_it(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-status", "500", "--fake-status-text", "boom") as fake:
        engine = engine_of(fake)
        engine.breaker.cool_s = 60.0
        async with running(tmp_path, engine) as rig:
            codes = [(await rig.chat()).status_code for _ in range(8)]
            assert codes == [500] * 5 + [503] * 3
            fake.set(status=0)
            engine.breaker.open_until = 0.0  # as a minute later
            assert (await rig.chat()).status_code == 200
            assert not engine.breaker.open


async def test_a_busy_engine_is_overload_not_failure(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-status", "503", "--fake-status-text", "The engine is currently busy") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answers = [await rig.chat() for _ in range(7)]
            assert not rig.engines[0].breaker.open
    assert {answer.status_code for answer in answers} == {429}
    assert answers[0].headers["retry-after"]


async def test_limits_answer_429_at_once(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang") as fake:
        async with running(tmp_path, engine_of(fake), engine_queue="2") as rig:
            held = [asyncio.create_task(rig.chat()) for _ in range(2)]
            await until(lambda: rig.engines[0].load.total == 2)
            refused = await rig.chat()
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await until(lambda: rig.engines[0].load.total == 0)
        async with running(tmp_path, engine_of(fake), max_inflight="1") as rig:
            held_one = asyncio.create_task(rig.chat())
            await until(lambda: rig.engines[0].load.total == 1)
            also = await rig.chat()
            held_one.cancel()
            await asyncio.gather(held_one, return_exceptions=True)
    assert (refused.status_code, also.status_code) == (429, 429)
    assert refused.json()["error"]["code"] == "overloaded"


async def test_a_stalled_stream_ends_with_an_error_event(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang-mid-stream", "2") as fake:
        async with running(tmp_path, engine_of(fake), token_wait="0.3") as rig:
            answer = await rig.chat(stream=True, max_tokens=9)
            await aborted(fake)
            page = (await rig.client.get("/metrics")).text
    seen = events(answer.text)
    assert len(seen) == 3
    assert "token limit" in seen[-1]["error"]["message"]
    assert seen[-1]["error"]["code"] == "engine_timeout"
    assert 'aicockpit_stream_errors_total{kind="stalled",model="fake"} 1.0' in page


async def test_a_slow_stream_is_not_a_stalled_one(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.4") as fake:
        async with running(tmp_path, engine_of(fake), token_wait="3") as rig:
            answer = await rig.chat(stream=True, max_tokens=12)
    assert events(answer.text)[-1] == "[DONE]"


async def test_the_first_byte_has_a_limit_of_its_own(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-first-delay", "30") as fake:
        async with running(tmp_path, engine_of(fake), first_byte_wait="0.3") as rig:
            answer = await rig.chat(stream=True)
            await aborted(fake)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")


@pytest.mark.parametrize(("path", "marker"), [("/v1/chat/completions", "data: "), ("/v1/messages", "event: error")])
async def test_a_stream_cut_by_the_engine_ends_with_an_error_event(tmp_path: Path, path: str, marker: str) -> None:
    with start_fake(tmp_path, "--fake-die-mid-stream", "3") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.client.post(path, json=chat_body(stream=True, max_tokens=9))
    assert answer.status_code == 200
    assert answer.text.rstrip().splitlines()[-1].startswith("data: ")
    assert marker in answer.text
    last = events(answer.text)[-1]
    assert last["error"]["origin"] == "gateway"
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("flags", [[], ["--fake-split-writes"], ["--fake-chunks-per-write", "5"]])
async def test_an_engine_s_error_inside_a_stream_is_counted(tmp_path: Path, flags: list[str]) -> None:
    with start_fake(tmp_path, "--fake-error-mid-stream", "2", *flags) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.chat(stream=True, max_tokens=9)
            page = (await rig.client.get("/metrics")).text
            assert rig.engines[0].breaker.failures == 1
    assert "error" in events(answer.text)[-2]
    assert 'aicockpit_stream_errors_total{kind="engine",model="fake"} 1.0' in page


async def test_a_lone_done_is_counted_as_a_failure(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-lone-done", "2") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            await rig.chat(stream=True, max_tokens=9)
            fake.set(lone_done=-1)
            good = await rig.chat(stream=True, max_tokens=9)
            page = (await rig.client.get("/metrics")).text
    assert events(good.text)[-1] == "[DONE]"
    assert 'aicockpit_stream_errors_total{kind="unfinished",model="fake"} 1.0' in page


async def test_a_truncated_plain_answer_breaks_off(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-truncate") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            with pytest.raises(httpx.TransportError):
                await rig.chat()
            fake.set(truncate=False)
            assert (await rig.chat()).status_code == 200


async def test_encoded_and_hop_by_hop_answers(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-gzip", "--fake-connection-header") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            plain = await rig.chat()
            streamed = await rig.chat(stream=True)
    for answer in (plain, streamed):
        assert answer.headers["content-encoding"] == "gzip"
        assert "x-hop" not in answer.headers
        assert "keep-alive" not in answer.headers
    assert plain.json()["choices"]
    assert events(streamed.text)[-1] == "[DONE]"


async def test_a_stale_kept_alive_connection_is_replaced(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-drop-idle") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            answers = [await rig.chat() for _ in range(6)]
            assert not rig.engines[0].breaker.failures
        assert fake.state()["dropped_idle"] >= 1
    assert {answer.status_code for answer in answers} == {200}


async def test_foreign_error_bodies_are_put_into_the_envelope(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"detail":"Method Not Allowed"}'
        writer.write(b"HTTP/1.1 405 X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "odd.sock")
    async with server, running(tmp_path, engine_of(f"unix:{tmp_path}/odd.sock")) as rig:
        answer = await rig.chat()
    assert answer.status_code == 405
    assert answer.json()["error"]["message"] == "Method Not Allowed"
    assert answer.json()["error"]["origin"] == "engine"


async def test_no_engine_left_says_why(tmp_path: Path) -> None:
    engine = engine_of("http://127.0.0.1:9")
    engine.state, engine.reason = EngineState.FAILED, "gave up after 5 restarts"
    async with running(tmp_path, engine) as rig:
        answer = await rig.chat()
    assert answer.status_code == 503
    assert "gave up after 5 restarts" in answer.json()["error"]["message"]


async def test_many_clients_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.02") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            await _leave_many(rig, 200)
            await until(lambda: rig.engines[0].load.total == 0 and rig.gateway.inflight == 0)
            state = await asyncio.to_thread(fake.wait_state, aborted=200)
            assert state["active"] == 0
            assert rig.engines[0].upstream.open_connections <= 1


async def _leave_many(rig: Rig, count: int) -> None:
    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request_bytes(stream=True, max_tokens=1000))
        await reader.read(100)
        writer.transport.abort()

    for _ in range(count // 50):
        await asyncio.gather(*(one() for _ in range(50)))


async def test_a_stop_lets_answers_finish_and_tells_the_rest(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.05") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            short = asyncio.create_task(rig.chat(stream=True, max_tokens=4))
            long = asyncio.create_task(rig.chat(stream=True, max_tokens=4000))
            silent = asyncio.create_task(rig.chat(max_tokens=4000))
            await asyncio.to_thread(fake.wait_state, active=3)
            await rig.doors.close()
            answers = await asyncio.gather(short, long, silent)
            await aborted(fake, 2)
    assert events(answers[0].text)[-1] == "[DONE]"
    assert events(answers[1].text)[-1]["error"]["code"] == "stopping"
    assert (answers[2].status_code, answers[2].json()["error"]["code"]) == (503, "stopping")


async def test_a_defect_of_ours_keeps_the_envelope(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, engine_of("http://127.0.0.1:9")) as rig:
        rig.gateway.directory.engines = None  # type: ignore[assignment]
        answer = await rig.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert rig.gateway.inflight == 0
    assert "Traceback" in caplog.text
