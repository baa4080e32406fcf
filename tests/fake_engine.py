"""The engine of the fake vLLM: slots, prefix cache, counters, child process, and the plain routes."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import struct
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fake_client import Switches
from fake_events import Events, block_hashes
from fake_http import ENGINE_DEAD, Exchange, Wire, forever

Json = dict[str, Any]
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "Service Unavailable"}
CORE = "import os,signal\nfor s in(2,15):signal.signal(s,1)\nwhile b:=os.read(0,4096):os.write(1,b)"


class Refused(Exception):
    """An answer in vLLM's error shape."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.kind = kind or TYPES.get(status, "BadRequestError")


def human(text: str) -> int:
    """300M -> bytes, 4k -> 4000, as vLLM reads sizes."""
    powers = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1024, "M": 1024**2, "G": 1024**3}
    return int(float(text[:-1]) * powers[text[-1]]) if text[-1] in powers else int(text)


@dataclass
class Job:
    """One generating request: what comes in, and the pieces of text (the same for each choice) going out."""

    prompts: list[list[int]]
    pieces: list[str]
    finish: str
    stop: str | None
    n: int = 1
    salt: str = ""
    cached: int = 0

    @property
    def width(self) -> int:
        return self.n * len(self.prompts)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts))

    def usage(self, details: bool) -> Json:
        out = len(self.pieces) * self.width
        cached = {"cached_tokens": self.cached} if details else None
        totals = {"prompt_tokens": self.tokens, "total_tokens": self.tokens + out, "completion_tokens": out}
        return {**totals, "prompt_tokens_details": cached}


class Core:
    """The child process without which no step of generation happens."""

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.dead = False

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-ISc", CORE, "VLLM::EngineCore")
        self.process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        self.reader = asyncio.get_running_loop().create_task(self.read())
        await self.ping()

    async def ping(self) -> None:
        if self.dead or self.process.stdin is None:
            raise Refused(500, ENGINE_DEAD)
        self.waiters.append(waiter := asyncio.get_running_loop().create_future())
        self.process.stdin.write(b".")
        await waiter

    async def read(self) -> None:
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(4096):
            for _ in data:
                if not (waiter := self.waiters.popleft()).done():
                    waiter.set_result(None)
        await asyncio.sleep(0.2)
        self.dead = True
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(Refused(500, ENGINE_DEAD))
        await asyncio.sleep(0.3)
        os._exit(0)


class Engine:
    """Slots, a real prefix cache over word tokens, and the counters of /metrics."""

    def __init__(self, args: argparse.Namespace, switches: Switches) -> None:
        self.switches, self.queue_limit = switches, args.max_num_queued_reqs
        self.block = args.block_size or 16
        memory = human(args.kv_cache_memory_bytes) if args.kv_cache_memory_bytes else 0
        self.capacity = args.num_gpu_blocks_override or memory // (self.block * 23040) or 1000
        self.events = Events(args.kv_events_config, switches)
        self.record: deque[Json] = deque(maxlen=1000)
        self.budget = args.max_num_batched_tokens or 2048
        self.slots = asyncio.Semaphore(args.max_num_seqs or 256)
        self.cache: dict[bytes, None] = {}
        self.words: dict[int, str] = {}
        self.totals: Counter[str] = Counter()
        self.running = self.waiting = self.held = 0
        self.core: Core | None = None
        self.stopped = False

    def ids(self, text: str) -> list[int]:
        found = re.findall(r"\s*\S+|\s+$", text)
        ids = [zlib.crc32(word.encode()) for word in found]
        self.words.update(zip(ids, found, strict=True))
        return ids

    def store(self, blocks: list[bytes]) -> None:
        """As vLLM: of what was used together the deepest goes first."""
        for block in reversed(blocks):
            self.cache.pop(block, None)
            self.cache[block] = None
        self.evict(len(self.cache) - self.capacity)

    def evict(self, count: int) -> None:
        for _ in range(count):
            block = next(iter(self.cache))
            del self.cache[block]
            self.events.removed(block)

    async def forget(self, blocks: int = -1, silent: bool = False) -> None:
        """The next `blocks` to be evicted, or the whole cache; silent: no event tells of it."""
        if blocks < 0:
            self.cache.clear()
            self.events.cleared()
        else:
            self.evict(min(blocks, len(self.cache)))
        if silent:
            self.events.pending.clear()
        await self.events.flush()

    async def step(self, tokens: int) -> None:
        """One pass of the model; a stopped engine never comes back from it."""
        if self.stopped:
            await forever()
        await asyncio.sleep(self.switches.slow_steps)
        if self.core:
            await self.core.ping()
        self.totals["iterations"] += 1
        self.totals["iteration_tokens"] += tokens

    async def prefill(self, ids: list[int], salt: str) -> int:
        blocks = block_hashes(ids, self.block, salt)
        most = 0 if self.switches.no_cache else (len(ids) - 1) // self.block
        entry: Json = {"at": time.monotonic(), "tokens": len(ids), "end": None, "last": ids[-1:]}
        self.record.append(entry)
        hits = next((i for i, block in enumerate(blocks) if block not in self.cache), len(blocks))
        cached = min(hits, most) * self.block
        self.totals["queries"] += len(ids)
        self.totals["hits"] += cached
        done = cached
        while done < len(ids):
            size = min(self.budget, len(ids) - done)
            await asyncio.sleep(size * self.switches.prefill_delay / 1000)
            await self.step(size)
            done += size
            if not self.switches.no_cache:
                new = [block not in self.cache for block in blocks[: done // self.block]]
                first = new.index(True) if True in new else len(new)
                self.events.stored(ids, blocks, first, len(new), self.block, salt)
                self.store(blocks[: done // self.block])
            await self.events.flush()
        self.totals["prompt"] += len(ids)
        self.totals["cached"] += cached
        entry.update(cached=cached, end=time.monotonic())
        return cached if self.switches.lie_cached < 0 else self.switches.lie_cached

    def admit(self) -> None:
        if self.queue_limit is not None and self.slots.locked() and self.waiting >= self.queue_limit:
            raise Refused(503, BUSY)

    @contextlib.asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        held = -(-tokens // self.block)
        self.running += 1
        self.held += held
        try:
            yield
        finally:
            self.running -= 1
            self.held -= held
            self.slots.release()

    async def run(self, job: Job, emit: Callable[[int], Awaitable[None]] | None = None) -> None:
        """Prefills, then makes one token per choice and step; emit(i) may send piece i."""
        async with self.slot(job.tokens + len(job.pieces) * job.width):
            await asyncio.sleep(self.switches.first_delay)
            job.cached = sum([await self.prefill(ids, job.salt) for ids in job.prompts])
            for index in range(len(job.pieces)):
                if index:
                    await asyncio.sleep(self.switches.token_delay)
                    await self.step(job.width)
                self.totals["generation"] += job.width
                if emit:
                    await emit(index)
        self.totals[f"success_{job.finish}"] += 1

    def metrics(self, model: str) -> str:
        totals, label = self.totals, f'engine="0",model_name="{model}"'
        rows: list[tuple[str, str, str, float]] = [
            ("num_requests_running", "gauge", "", self.running),
            ("num_requests_waiting", "gauge", "", self.waiting),
            ("kv_cache_usage_perc", "gauge", "", min(1.0, self.held / self.capacity)),
            ("prefix_cache_queries_total", "counter", "", totals["queries"]),
            ("prefix_cache_hits_total", "counter", "", totals["hits"]),
            ("prompt_tokens_total", "counter", "", totals["prompt"]),
            ("prompt_tokens_cached_total", "counter", "", totals["cached"]),
            ("generation_tokens_total", "counter", "", totals["generation"]),
            ("num_preemptions_total", "counter", "", self.switches.preemptions),
            ("external_prefix_cache_queries_total", "counter", "", self.switches.outside),
            ("iteration_tokens_total_bucket", "histogram", ',le="+Inf"', totals["iterations"]),
            ("iteration_tokens_total_sum", "histogram", "", totals["iteration_tokens"]),
            ("iteration_tokens_total_count", "histogram", "", totals["iterations"]),
        ]
        for why in ("stop", "length", "abort", "error"):
            extra = f',finished_reason="{why}"'
            rows.append(("request_success_total", "counter", extra, totals[f"success_{why}"]))
        lines, seen = [], set()
        for name, kind, extra, value in rows:
            family = re.sub("_(bucket|sum|count)$", "", name) if kind == "histogram" else name
            if family not in seen:
                seen.add(family)
                lines += [f"# HELP vllm:{family} The fake's {family}.", f"# TYPE vllm:{family} {kind}"]
            lines.append(f"vllm:{name}{{{label}{extra}}} {float(value)}")
        info = f'block_size="{self.block}",cache_dtype="auto",engine="0",num_gpu_blocks="{self.capacity}"'
        lines += ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{info}}} 1.0"]
        return "\n".join(lines) + "\n"


class Plain:
    """The routes that need no more than one step, and what all routes share."""

    def __init__(self, args: argparse.Namespace, switches: Switches, wire: Wire) -> None:
        self.args, self.switches, self.wire = args, switches, wire
        self.engine = Engine(args, switches)

    def body(self, x: Exchange) -> Json:
        """The JSON body, with a model that this server has."""
        if not x.request.header("content-type").startswith("application/json"):
            raise Refused(400, "Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request")
        try:
            body: Any = json.loads(x.request.body)
        except ValueError as error:
            raise Refused(400, f"1 validation error:\n  JSON decode error: {error}", "body", "Bad Request") from None
        if not isinstance(body, dict):
            raise Refused(400, "1 validation error:\n  Input should be an object", "body", "Bad Request")
        self.check_model(body.get("model"))
        return body

    def check_model(self, model: object) -> None:
        if model and model not in self.args.names:
            raise Refused(404, f"The model `{model}` does not exist.", "model")

    def need(self, body: Json, name: str) -> Any:
        if name not in body:
            raise Refused(
                400, f"1 validation error:\n  {{'type': 'missing', 'loc': ('body', '{name}')}}", name, "Bad Request"
            )
        return body[name]

    def chat_ids(self, messages: Any, *before: Any) -> list[int]:
        """A chat template: everything that goes before the messages, then the messages."""
        text = "".join(f"<|im_start|>system {json.dumps(part)} <|im_end|>\n" for part in before if part)
        for message in messages if isinstance(messages, list) else [{"role": "user", "content": messages}]:
            content = message.get("content", message)
            if isinstance(content, list):
                content = " ".join(str(part.get("text", part)) for part in content)
            text += f"<|im_start|>{message.get('role', '')} {content} <|im_end|>\n"
        return self.engine.ids(text + "<|im_start|>assistant")

    async def tokenize(self, x: Exchange, body: Json) -> None:
        """/tokenize and /v1/messages/count_tokens."""
        if "prompt" in body:
            ids = self.engine.ids(str(body["prompt"]))
        else:
            ids = self.chat_ids(self.need(body, "messages"), body.get("system"), body.get("tools"))
        if x.request.path != "/tokenize":
            await x.send_json({"input_tokens": len(ids)})
            return
        await x.send_json({"count": len(ids), "max_model_len": self.args.context, "tokens": ids, "token_strs": None})

    async def detokenize(self, x: Exchange, body: Json) -> None:
        words = self.engine.words
        await x.send_json({"prompt": "".join(words.get(token, f" <{token}>") for token in self.need(body, "tokens"))})

    async def audio(self, x: Exchange, _body: Json) -> None:
        """Multipart: says how large the file was."""
        boundary = x.request.header("content-type").partition("boundary=")[2].strip('"').encode()
        if not boundary:
            raise Refused(
                400, "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'file')}", "file", "Bad Request"
            )
        size = -1
        for part in x.request.body.split(b"--" + boundary):
            head, _, data = part.partition(b"\r\n\r\n")
            if b'name="model"' in head:
                self.check_model(data.strip().decode())
            elif b'name="file"' in head:
                size = len(data) - 2
        await self.engine.step(1)
        await x.send_json({"text": f"received {size} bytes", "usage": {"type": "duration", "seconds": 1}})

    async def pool(self, x: Exchange, body: Json) -> None:
        """Embeddings, pooling, classification, scores and reranking."""
        route = x.request.path.rpartition("/")[2]
        names = {"score": "text_2", "rerank": "documents"}
        given = (
            body.get(names.get(route, "input"))
            or body.get("items")
            or body.get("documents")
            or self.need(body, "input")
        )
        texts = given if isinstance(given, list) and not all(isinstance(t, int) for t in given) else [given]
        await self.engine.step(1)
        digests = [hashlib.sha256(json.dumps(text).encode()).digest()[:8] for text in texts]
        tokens = sum(len(text) if isinstance(text, list) else len(self.engine.ids(str(text))) for text in texts)
        base: Json = {"id": f"{route}-{os.urandom(16).hex()}", "model": self.args.names[0]}
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        if route == "rerank":
            rows: list[Json] = [
                {"index": i, "document": {"text": texts[i]}, "relevance_score": digest[0] / 255}
                for i, digest in enumerate(digests)
            ]
            rows.sort(key=lambda row: -row["relevance_score"])
            await x.send_json({**base, "usage": usage, "results": rows[: body.get("top_n") or len(rows)]})
            return
        vectors: list[Any] = [[byte / 255 for byte in digest] for digest in digests]
        if body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(struct.pack("8f", *vector)).decode() for vector in vectors]
        shapes: dict[str, Callable[[int], Json]] = {
            "embeddings": lambda i: {"object": "embedding", "embedding": vectors[i]},
            "pooling": lambda i: {"object": "pooling", "data": [vectors[i]]},
            "score": lambda i: {"object": "score", "score": digests[i][0] / 255},
            "classify": lambda i: {"label": "LABEL_0", "probs": [0.75, 0.25], "num_classes": 2},
        }
        data = [{"index": index, **shapes[route](index)} for index in range(len(texts))]
        await x.send_json({**base, "object": "list", "created": int(time.time()), "data": data, "usage": usage})
