"""The fake must fail exactly as ordered, or the tests that lean on it prove nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fake_client import EXIT_TEXTS, FAKE, FakeVllm, start_fake

LIMIT_S = 20.0
CHAT = "/v1/chat/completions"


@contextlib.contextmanager
def client(fake: FakeVllm) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=fake.uds)
    with httpx.Client(transport=transport, base_url=fake.url, timeout=LIMIT_S) as session:
        yield session


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **more}


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def stream_text(session: httpx.Client, **more: Any) -> str:
    return session.post(CHAT, json=chat(stream=True, **more)).text


def words(text: str) -> str:
    chunks = [json.loads(event) for event in events(text) if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c.get("choices"))


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def refuses(fake: FakeVllm) -> bool:
    try:
        fake.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def run_fake(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FAKE), *flags], capture_output=True, text=True, timeout=LIMIT_S)


def test_routes_have_the_shapes_of_vllm(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--enable-prompt-tokens-details", names=("fake", "b")) as fake, client(fake) as http:
        assert http.get("/health").content == b""
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["fake", "b"]
        answer = http.post(CHAT, json=chat(n=2))
        assert [c["message"]["content"] for c in answer.json()["choices"]] == ["tok0 tok1 tok2 tok3"] * 2
        assert answer.headers["x-fake-request"] == hashlib.sha256(answer.request.content).hexdigest()
        assert http.post(CHAT, json=chat(stop=["k1"])).json()["choices"][0]["finish_reason"] == "stop"
        text = stream_text(http, stream_options={"include_usage": True})
        assert words(text) == "tok0 tok1 tok2 tok3"
        assert json.loads(events(text)[-2])["usage"]["completion_tokens"] == 4
        missing = http.post(CHAT, json=chat(model="x"))
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "NotFoundError")
        assert http.post("/v1/completions", json={"prompt": "a", "suffix": "b"}).status_code == 400
        tokens = http.post("/tokenize", json={"prompt": "a  b\n"}).json()["tokens"]
        assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "a  b\n"}
        assert http.post("/sleep").status_code == 200
        assert fake.state()["management"] == 1
        metrics = http.get("/metrics").text
        assert 'vllm:cache_config_info{block_size="16"' in metrics
        assert 'vllm:num_requests_running{engine="0",model_name="fake"} 0.0' in metrics


def test_other_apis(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake, client(fake) as http:
        first = http.post("/v1/responses", json={"input": "hi", "max_output_tokens": 2}).json()
        assert http.get(f"/v1/responses/{first['id']}").json() == first
        assert http.post("/v1/responses", json={"input": "x", "previous_response_id": "resp_no"}).status_code == 404
        streamed = http.post("/v1/responses", json={"input": "hi", "stream": True}).text
        assert "event: response.completed" in streamed
        fake.set(token_delay=5)
        queued = http.post("/v1/responses", json={"input": "hi", "background": True}).json()
        assert http.post(f"/v1/responses/{queued['id']}/cancel").json()["status"] == "cancelled"
        fake.set(token_delay=0)
        body = {"max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
        assert http.post("/v1/messages", json=body).json()["content"][0]["text"] == "tok0 tok1"
        assert "event: message_stop" in http.post("/v1/messages", json={**body, "stream": True}).text
        assert http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"] > 0
        sound = {"file": ("a.wav", b"x" * 5000)}
        heard = http.post("/v1/audio/transcriptions", data={"model": "fake"}, files=sound).json()
        assert heard["text"] == "received 5000 bytes"
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 404
    with start_fake(tmp_path, "--fake-embedding-model", name="embed") as fake, client(fake) as http:
        assert http.post(CHAT, json=chat()).status_code == 404
        vectors = http.post("/v1/embeddings", json={"input": ["x", "y"], "encoding_format": "base64"}).json()["data"]
        assert [len(base64.b64decode(vector["embedding"])) for vector in vectors] == [32, 32]
        ranked = http.post("/rerank", json={"query": "q", "documents": ["a", "b"]}).json()["results"]
        assert ranked[0]["relevance_score"] >= ranked[1]["relevance_score"]


def test_prefix_cache_counts_whole_blocks(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--enable-prompt-tokens-details") as fake, client(fake) as http:

        def cached(prompt: object, **more: object) -> int:
            answer = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1, **more}).json()
            hit: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            return hit

        prompt = " ".join(f"w{i}" for i in range(40))
        assert [cached(prompt), cached(prompt), cached(prompt + " more")] == [0, 32, 32]
        assert cached(prompt, cache_salt="team") == 0
        ids = http.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
        assert cached(ids[:32]) == 16  # the last token is always computed
        assert "vllm:prefix_cache_hits_total{" in http.get("/metrics").text


def test_records_the_request_byte_for_byte(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake, client(fake) as http:
        raw = b'{"messages" :[{"role":"user","content":"\xc3\xa9"}],  "max_tokens":1}'
        http.post(CHAT + "?a=%20b", content=raw, headers={"content-type": "application/json", "X-Odd": "1"})
        http.get("/health")
        last = fake.last()
        assert (last["method"], last["path"], base64.b64decode(last["body"])) == ("POST", CHAT + "?a=%20b", raw)
        assert ["X-Odd", "1"] in last["headers"]
        assert last["body_sha256"] == hashlib.sha256(raw).hexdigest()
        assert fake.last("/health")["method"] == "GET"


@pytest.mark.parametrize("streaming", [True, False])
def test_notices_at_once_that_the_client_left(tmp_path: Path, streaming: bool) -> None:
    with start_fake(tmp_path, "--fake-first-delay", "60") as fake:
        body = json.dumps(chat(stream=streaming)).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with fake.connect() as link:
            link.sendall(head.encode() + body)
            fake.wait_state(active=1)
        state = fake.wait_state(aborted=1)
        assert (state["active"], state["finished"], state["running"]) == (0, 0, 0)
        assert state["last_abort_monotonic_s"] > 0


def test_mid_stream_faults(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-error-mid-stream", "2") as fake, client(fake) as http:
        ends = events(stream_text(http))
        assert json.loads(ends[2])["error"]["code"] == 500
        assert ends[3:] == ["[DONE]"]
        fake.set(error_mid_stream=-1, lone_done=2)
        assert events(stream_text(http))[2:] == ["[DONE]"]
        fake.set(lone_done=-1, die_mid_stream=2)
        with pytest.raises(httpx.RemoteProtocolError):
            stream_text(http)
        fake.set(die_mid_stream=-1, hang_mid_stream=1)
        with http.stream("POST", CHAT, json=chat(stream=True)) as answer:
            raw = answer.iter_raw()  # kept: a generator thrown away closes the connection
            assert b"assistant" in next(raw)
            assert fake.state()["active"] == 1
        fake.wait_state(aborted=1)
        fake.set(hang_mid_stream=-1, truncate=True)
        with pytest.raises(httpx.RemoteProtocolError):
            http.post(CHAT, json=chat())
        fake.set(truncate=False, garbage=True)
        with pytest.raises(httpx.RemoteProtocolError):
            http.post(CHAT, json=chat())


def test_tcp_reset_is_a_reset(tmp_path: Path) -> None:
    flags = ("--fake-die-mid-stream", "1")
    with start_fake(tmp_path, *flags, tcp=True) as fake, client(fake) as http, pytest.raises(httpx.ReadError):
        stream_text(http)


def test_status_and_first_failures(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-fail-first", "2", "--fake-status", "503") as fake, client(fake) as http:
        answers = [http.post(CHAT, json=chat()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert "currently busy" in answers[0].json()["error"]["message"]
        fake.set(fail_first=-1, status=500, status_text="boom")
        assert http.post(CHAT, json=chat()).json()["error"]["message"] == "boom"


def test_framing_switches_keep_the_text(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake, client(fake) as http:
        settings: list[dict[str, Any]] = [
            {"split_writes": True},
            {"split_writes": False, "chunks_per_write": 3},
            {"chunks_per_write": 1, "gzip": True},
        ]
        for setting in settings:
            fake.set(**setting)
            assert words(stream_text(http)) == "tok0 tok1 tok2 tok3"
        assert http.post(CHAT, json=chat()).headers["content-encoding"] == "gzip"
        fake.set(gzip=False, connection_header=True)
        assert http.post(CHAT, json=chat()).headers["x-hop"] == "1"


def test_idle_connections_close(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-keep-alive", "0.1") as fake, client(fake) as http:
        http.post(CHAT, json=chat())
        fake.wait_state(idle_closed=1)
        fake.set(keep_alive=60, drop_idle=True)
        http.post(CHAT, json=chat())
        with pytest.raises(httpx.RemoteProtocolError):
            http.post(CHAT, json=chat())
        assert fake.state()["dropped_idle"] == 1


def test_refuses_what_vllm_refuses(tmp_path: Path) -> None:
    unknown = run_fake("serve", "m", "--uds", str(tmp_path / "u"), "--no-such-flag")
    assert unknown.returncode == 2
    assert unknown.stderr.splitlines()[-1] == "error: unrecognized arguments: --no-such-flag"
    (tmp_path / "u").touch()
    busy = run_fake("--model", "m", "--uds", str(tmp_path / "u"))
    assert (busy.returncode, "OSError: [Errno 98]" in busy.stderr) == (1, True)
    for name in ("context-kv", "weights", "flood"):
        dead = run_fake("serve", "m", "--fake-exit-text", name, "--fake-exit-early", "7")
        assert dead.returncode == 7
        assert EXIT_TEXTS[name].cause in dead.stderr


def test_a_full_queue_gets_503_and_steps_advance(tmp_path: Path) -> None:
    flags = ("--max-num-seqs", "1", "--max-num-queued-reqs", "0", "--fake-slow-steps", "0.05")
    with start_fake(tmp_path, *flags) as fake, client(fake) as http:
        with http.stream("POST", CHAT, json=chat(stream=True, max_tokens=10_000)):
            fake.wait_state(running=1)
            assert http.post(CHAT, json=chat()).status_code == 503
            until(lambda: "iteration_tokens_total_count" in http.get("/metrics").text)
            until(lambda: metric(http, "vllm:iteration_tokens_total_count") >= 3)
        fake.wait_state(aborted=1)


def metric(http: httpx.Client, name: str) -> float:
    return next(float(line.split()[-1]) for line in http.get("/metrics").text.splitlines() if line.startswith(name))


def test_sigterm_with_drain_finishes_streams(tmp_path: Path) -> None:
    flags = ("--shutdown-timeout", "30", "--fake-hang-mid-stream", "2")
    with start_fake(tmp_path, *flags) as fake, client(fake) as http:
        with http.stream("POST", CHAT, json=chat(stream=True)):
            fake.wait_state(active=1)
            fake.process.send_signal(signal.SIGTERM)
            until(lambda: bool(fake.state()["draining"]))
            assert http.get("/health").status_code == 200
            late = http.post(CHAT, json=chat())
            assert (late.status_code, "cannot schedule new futures" in late.text) == (500, True)
        assert fake.process.wait(LIMIT_S) == 0


def test_sigterm_without_drain_hangs_streams(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-token-delay", "0.02") as fake, client(fake) as http:
        with http.stream("POST", CHAT, json=chat(stream=True, max_tokens=20_000)) as answer:
            raw = answer.iter_raw()
            next(raw)
            fake.process.send_signal(signal.SIGTERM)
            until(lambda: "Shutting down" in fake.log())
            until(lambda: refuses(fake))
            assert fake.process.poll() is None
        assert fake.process.wait(LIMIT_S) == 0


def test_engine_core_death_and_stall(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-engine-core", "--fake-token-delay", "0.01") as fake, client(fake) as http:
        core = fake.state()["core_pid"]
        assert b"EngineCore" in Path(f"/proc/{core}/cmdline").read_bytes()
        os.kill(core, signal.SIGSTOP)
        with pytest.raises(httpx.ReadTimeout):
            http.post(CHAT, json=chat(), timeout=0.3)
        assert http.get("/health").status_code == 200
        os.kill(core, signal.SIGCONT)
        with http.stream("POST", CHAT, json=chat(stream=True, max_tokens=20_000)) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.kill(core, signal.SIGKILL)
            ends = [line for line in lines if line][-2:]
        assert "EngineCore encountered an issue" in ends[0]
        assert ends[1] == "data: [DONE]"
        assert fake.process.wait(LIMIT_S) == 0


def test_dies_after_n_requests(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-die-after", "1") as fake, client(fake) as http:
        assert http.post(CHAT, json=chat()).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            stream_text(http)
        assert fake.process.wait(LIMIT_S) == 0


def frame(kind: int, payload: bytes) -> bytes:
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return struct.pack("!BBH", 128 | kind, 128 | 126, len(payload)) + mask + masked


def receive(link: socket.socket) -> tuple[int, bytes]:
    kind, size = link.recv(2, socket.MSG_WAITALL)
    if size == 126:
        (size,) = struct.unpack("!H", link.recv(2, socket.MSG_WAITALL))
    return kind & 15, link.recv(size, socket.MSG_WAITALL) if size else b""


def test_websocket_echo_ping_close(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake, fake.connect() as link:
        head = "GET /v1/realtime?model=fake HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        link.sendall(f"{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += link.recv(1)
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer
        link.sendall(frame(1, b"x" * 300) + frame(9, b"p"))
        assert json.loads(receive(link)[1]) == {"type": "echo", "received": "x" * 300}
        assert receive(link) == (10, b"p")
        link.sendall(frame(8, struct.pack("!H", 1000)))
        assert receive(link)[0] == 8
        assert fake.last()["path"] == "/v1/realtime?model=fake"
