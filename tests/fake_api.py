"""The generating, control and forbidden routes of the fake vLLM, in vLLM's shapes."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from fake_client import Switches
from fake_engine import BUSY, Job, Json, Plain, Refused
from fake_http import ENGINE_DEAD, Exchange, Over, Wire, forever
from fake_script import scripted

MANAGEMENT = (
    "/sleep /wake_up /is_sleeping /reset_prefix_cache /v1/load_lora_adapter /v1/unload_lora_adapter /server_info"
    " /collective_rpc /pause /resume"
)
POOLING = "/v1/embeddings /pooling /classify /score /v1/score /rerank /v1/rerank /v2/rerank"


class Api(Plain):
    """The routes, in vLLM's shapes."""

    def __init__(self, args: argparse.Namespace, switches: Switches, wire: Wire) -> None:
        super().__init__(args, switches, wire)
        self.responses: dict[str, Json] = {}
        self.background: set[asyncio.Task[None]] = set()
        self.draining = self.asleep = False
        generating = {
            "/v1/chat/completions": self.openai,
            "/v1/completions": self.openai,
            "/v1/responses": self.respond,
            "/v1/messages": self.messages,
            "/v1/messages/count_tokens": self.tokenize,
            "/v1/audio/transcriptions": self.audio,
            "/v1/audio/translations": self.audio,
        }
        pooling = bool(args.convert) or args.runner == "pooling" or switches.embedding_model
        self.posts = dict.fromkeys(POOLING.split(), self.pool) if pooling else generating
        self.posts |= {"/tokenize": self.tokenize, "/detokenize": self.detokenize}

    async def handle(self, x: Exchange) -> None:
        """Answers one request, whatever it is."""
        try:
            if x.request.path.startswith("/fake/"):
                await self.control(x)
                return
            if self.switches.hang and x.request.path != "/health":
                await forever()
            if x.request.counted:
                await self.break_first(x)
                await self.post(x)
            else:
                await self.get(x)
        except Refused as no:
            if x.started:
                await x.fault(no.message)
            error: Json = {"message": no.message, "type": no.kind, "param": no.param, "code": no.status}
            short = {"type": "error", "error": {"type": no.kind, "message": no.message}}
            await x.send_json(short if x.request.path == "/v1/messages" else {"error": error}, no.status)

    async def break_first(self, x: Exchange) -> None:
        """The switches that spoil a POST before its route sees it."""
        switches = self.switches
        if self.draining:
            raise Refused(500, "cannot schedule new futures after shutdown")
        if switches.hang_before_headers:
            await forever()
        if switches.garbage:
            x.connection.write(b"\x16\x03\x01 these bytes are not HTTP\r\n\r\n")
            x.cut(reset=False)
            raise Over
        if (switches.status and switches.fail_first < 0) or switches.fail_first > 0:
            switches.fail_first -= switches.fail_first > 0
            status = switches.status or 500
            text = {500: ENGINE_DEAD, 503: BUSY}.get(status, f"status {status} as --fake-status ordered")
            raise Refused(status, switches.status_text or text)
        x.dying = switches.die_after == 0
        switches.die_after -= switches.die_after > 0

    async def get(self, x: Exchange) -> None:
        path, args = x.request.path, self.args
        if path == "/health":
            await x.send(b"", "text/plain; charset=utf-8")
        elif path == "/metrics":
            await x.send(self.engine.metrics(args.names[0]).encode(), "text/plain; version=1.0.0; charset=utf-8")
        elif path == "/version":
            await x.send_json({"version": "0.32.0"})
        elif path == "/v1/models":
            same = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": args.model}
            same |= {"parent": None, "max_model_len": args.context, "permission": []}
            await x.send_json({"object": "list", "data": [{"id": name, **same} for name in args.names]})
        elif path.startswith("/v1/responses/"):
            await x.send_json(self.stored(path.split("/")[3]))
        elif path in MANAGEMENT.split():
            self.wire.counters.management += 1
            await x.send_json({"reached": path})
        elif path in self.posts:
            raise Refused(405, "Method Not Allowed", kind="Method Not Allowed")
        else:
            raise Refused(404, "Not Found", kind="Not Found")

    async def rest(self, x: Exchange, *, asleep: bool) -> None:
        self.wire.counters.management += 1
        if self.switches.no_sleep if asleep else self.switches.no_wake:
            raise Refused(500, "no sleep mode here")
        if asleep:
            await self.engine.forget()
        self.asleep = asleep
        await x.send_json({"status": "sleeping" if asleep else "awake"})

    def adapt(self, path: str, body: Json) -> None:
        """Adapters are served under their own names, as vLLM does."""
        name, names = str(body["lora_name"]), self.args.names
        if path == "/v1/load_lora_adapter":
            if name in names:
                raise Refused(400, f"The lora adapter '{name}' has already been loaded.")
            if "broken" in str(body["lora_path"]):
                raise Refused(400, "No adapter found")
            names.append(name)
        elif name in names:
            names.remove(name)
        else:
            raise Refused(404, f"The lora adapter '{name}' cannot be found.")

    async def post(self, x: Exchange) -> None:
        path = x.request.path.partition("?")[0]
        if path in ("/sleep", "/wake_up"):
            await self.rest(x, asleep=path == "/sleep")
        elif path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and self.args.enable_lora:
            self.adapt(path, self.body(x))
            await x.send(b"Success", "text/plain; charset=utf-8")
        elif self.asleep:
            raise Refused(500, "the engine is asleep")
        elif path in MANAGEMENT.split():
            self.wire.counters.management += 1
            await x.send_json({"reached": path})
        elif path.startswith("/v1/responses/") and path.endswith("/cancel"):
            answer = self.stored(path.split("/")[3])
            answer["status"] = "cancelled" if answer["status"] in ("queued", "in_progress") else answer["status"]
            await x.send_json(answer)
        elif path not in self.posts:
            raise Refused(404, "Not Found", kind="Not Found")
        else:
            body = {} if path.startswith("/v1/audio/") else self.body(x)
            await self.posts[path](x, body)

    def stored(self, ident: str, param: str = "response_id") -> Json:
        if ident not in self.responses:
            raise Refused(404, f"Response with id '{ident}' not found.", param, "invalid_request_error")
        return self.responses[ident]

    def job(self, body: Json, prompts: list[list[int]], limit: str = "max_tokens", stop: str = "stop") -> Job:
        """Checks what vLLM checks before the first byte, and plans the answer."""
        wanted = body.get("max_completion_tokens") or body.get(limit)
        if wanted is not None and wanted < 1 and not body.get("echo"):
            raise Refused(400, f"{limit} must be at least 1, got {wanted}", limit)
        longest = max(map(len, prompts))
        if longest >= self.args.context:
            raise Refused(
                400,
                f"This model's maximum context length is {self.args.context} tokens. However, your prompt contains "
                f"{longest} input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt.",
                "input_tokens",
            )
        self.engine.admit()
        count = min(16 if wanted is None else wanted, self.args.context - longest)
        stops = body.get(stop) or []
        finish, reason, pieces, text = "length" if wanted is not None else "stop", None, list[str](), ""
        told = scripted(self.engine.switches.script, body) if self.engine.switches.script else None
        if told is not None and len(told) <= count:
            finish = "stop"
        for index in range(count if told is None else min(count, len(told))):
            piece = f"{' ' * bool(index)}tok{index}" if told is None else told[index]
            whole = text + piece
            found = [(whole.find(s), s) for s in ([stops] if isinstance(stops, str) else stops) if s in whole]
            if found:
                at, reason = min(found)
                pieces.append(whole[len(text) : max(at, len(text))])
                finish = "stop"
                break
            pieces.append(piece)
            text = whole
        return Job(prompts, pieces, finish, reason, int(body.get("n") or 1), str(body.get("cache_salt") or ""))

    async def openai(self, x: Exchange, body: Json) -> None:
        """Chat and text completions."""
        chat = x.request.path == "/v1/chat/completions"
        if chat:
            prompts = [self.chat_ids(self.need(body, "messages"), body.get("tools"))]
        else:
            if body.get("suffix") and self.switches.no_suffix:
                raise Refused(400, "suffix is only supported for models with FIM completion rendering", "suffix")
            given = self.need(body, "prompt")
            many = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
            prompts = [self.engine.ids(prompt) if isinstance(prompt, str) else prompt for prompt in many]
        job = self.job(body, prompts)
        kind, ident = ("chat.completion", "chatcmpl-") if chat else ("text_completion", "cmpl-")
        base: Json = {"id": ident + os.urandom(16).hex(), "object": kind, "created": int(time.time())}
        base["model"] = body.get("model") or self.args.names[0]
        details = self.args.enable_prompt_tokens_details

        def choice(index: int, content: Json, last: bool) -> Json:
            done = {"finish_reason": job.finish if last else None, "stop_reason": job.stop if last else None}
            return {"index": index, **content, "logprobs": None, **done}

        if not body.get("stream"):
            await self.engine.run(job)
            text = "".join(job.pieces)
            if body.get("echo") and isinstance(body.get("prompt"), str):
                text = body["prompt"] + text
            content: Json = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices = [choice(index, content, True) for index in range(job.width)]
            await x.send_json({**base, "choices": choices, "usage": job.usage(details)})
            return
        base["object"] += ".chunk" if chat else ""

        async def emit(piece: int) -> None:
            text, last = job.pieces[piece], piece == len(job.pieces) - 1
            for index in range(job.width):
                if chat and not piece:
                    role = {"delta": {"role": "assistant", "content": ""}}
                    await x.event(json.dumps({**base, "choices": [choice(index, role, False)]}))
                content = {"delta": {"content": text}} if chat else {"text": text}
                await x.event(json.dumps({**base, "choices": [choice(index, content, last)]}))

        await x.start_stream()
        await self.engine.run(job, emit)
        if (body.get("stream_options") or {}).get("include_usage"):
            await x.event(json.dumps({**base, "choices": [], "usage": job.usage(details)}))
        await x.event("[DONE]")
        await x.end()

    async def respond(self, x: Exchange, body: Json) -> None:
        """POST /v1/responses: whole, streamed or in the background; the answer is stored."""
        before = body.get("previous_response_id")
        history = self.stored(before, "previous_response_id")["output"] if before else None
        parts = (body.get("instructions"), body.get("tools"), history)
        job = self.job(body, [self.chat_ids(self.need(body, "input"), *parts)], "max_output_tokens")
        answer: Json = {"id": "resp_" + os.urandom(16).hex(), "object": "response", "created_at": int(time.time())}
        answer |= {"status": "in_progress", "model": body.get("model") or self.args.names[0], "output": []}
        answer |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": body.get("tools") or []}
        answer |= {"instructions": body.get("instructions")}
        answer |= {"previous_response_id": before, "error": None, "incomplete_details": None, "usage": None}
        answer |= {"background": bool(body.get("background")), "temperature": 1.0, "top_p": 1.0, "metadata": None}
        if body.get("store", True):
            self.responses[answer["id"]] = answer
        part: Json = {"type": "output_text", "text": "".join(job.pieces), "annotations": []}
        item: Json = {"type": "message", "id": "msg_" + os.urandom(8).hex(), "role": "assistant"}
        whole = {**item, "status": "completed", "content": [part]}

        async def work(emit: Callable[[int], Awaitable[None]] | None = None) -> None:
            await self.engine.run(job, emit)
            usage = {"input_tokens": job.tokens, "input_tokens_details": {"cached_tokens": job.cached}}
            usage |= {"output_tokens": len(job.pieces), "output_tokens_details": {"reasoning_tokens": 0}}
            usage["total_tokens"] = job.tokens + len(job.pieces)
            if answer["status"] != "cancelled":
                answer.update(status="completed", output=[whole], usage=usage)

        if body.get("background") and not body.get("stream"):
            self.background.add(asyncio.get_running_loop().create_task(work()))
            await x.send_json({**answer, "status": "queued"})
        elif not body.get("stream"):
            await work()
            await x.send_json(answer)
        else:
            where = {"item_id": item["id"], "output_index": 0, "content_index": 0}

            async def event(kind: str, more: Json) -> None:
                name = f"response.{kind}"
                await x.event(json.dumps({"type": name, "sequence_number": x.events, **more}), name)

            async def emit(index: int) -> None:
                await event("output_text.delta", {**where, "delta": job.pieces[index], "logprobs": []})

            await x.start_stream()
            await event("created", {"response": answer})
            await event("in_progress", {"response": answer})
            opened = {**item, "status": "in_progress", "content": []}
            await event("output_item.added", {"output_index": 0, "item": opened})
            await event("content_part.added", {**where, "part": {**part, "text": ""}})
            await work(emit)
            await event("output_text.done", {**where, "text": part["text"], "logprobs": []})
            await event("content_part.done", {**where, "part": part})
            await event("output_item.done", {"output_index": 0, "item": whole})
            await event("completed", {"response": answer})
            await x.end()

    async def messages(self, x: Exchange, body: Json) -> None:
        """POST /v1/messages, Anthropic's shape."""
        ids = self.chat_ids(self.need(body, "messages"), body.get("system"), body.get("tools"))
        self.need(body, "max_tokens")
        job = self.job(body, [ids], stop="stop_sequences")
        reason = "stop_sequence" if job.stop else {"length": "max_tokens", "stop": "end_turn"}[job.finish]
        base: Json = {"id": "msg_" + os.urandom(12).hex(), "type": "message", "role": "assistant", "content": []}
        base |= {"model": body.get("model") or self.args.names[0], "stop_reason": None, "stop_sequence": None}
        done: Json = {"stop_reason": reason, "stop_sequence": job.stop}

        def usage(out: int) -> Json:
            cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": job.cached}
            return {"input_tokens": job.tokens - job.cached, "output_tokens": out, **cached}

        if not body.get("stream"):
            await self.engine.run(job)
            content = [{"type": "text", "text": "".join(job.pieces)}]
            await x.send_json({**base, **done, "content": content, "usage": usage(len(job.pieces))})
            return

        async def event(kind: str, **more: Any) -> None:
            await x.event(json.dumps({"type": kind, **more}), kind)

        async def emit(index: int) -> None:
            if not index:
                await event("message_start", message={**base, "usage": usage(0)})
                await event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            text = {"type": "text_delta", "text": job.pieces[index]}
            await event("content_block_delta", index=0, delta=text)

        await x.start_stream()
        await self.engine.run(job, emit)
        await event("content_block_stop", index=0)
        await event("message_delta", delta=done, usage=usage(len(job.pieces)))
        await event("message_stop")
        await x.end()

    async def control(self, x: Exchange) -> None:
        """The /fake/ routes."""
        path = x.request.path
        if path == "/fake/last":
            key = unquote(x.request.target.partition("path=")[2])
            await x.send_json(self.wire.last[key].record() if key in self.wire.last else {})
        elif path == "/fake/prompts":
            await x.send_json(list(self.engine.record))
        elif path == "/fake/forget":
            await self.engine.forget(**json.loads(x.request.body or "{}"))
            await x.send_json({"cached_blocks": len(self.engine.cache)})
        elif path == "/fake/set":
            values = json.loads(x.request.body)
            if unknown := self.switches.change(values):
                raise Refused(400, f"no such switches: {unknown}")
            flood(values.get("log_flood", 0))
            await x.send_json(asdict(self.switches))
        else:
            engine = self.engine
            now = {"running": engine.running, "waiting": engine.waiting, "cached_blocks": len(engine.cache)}
            now |= {"pid": os.getpid(), "core_pid": engine.core.process.pid if engine.core else 0}
            await x.send_json({**asdict(self.wire.counters), **now, "draining": self.draining})


def flood(size: int) -> None:
    """Writes that many bytes to stderr: first lines, then one line without an end."""
    line = b"x" * 119 + b"\n"
    data: bytes = line * (size // 240) + b"y" * (size // 2)
    while data:
        data = data[os.write(2, data[:65536]) :]
