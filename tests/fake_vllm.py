"""A fake vLLM 0.32 API server for tests: a real process on real sockets, vLLM's shapes, no model.

    python tests/fake_vllm.py serve MODEL --served-model-name a b --uds /x.sock [flags]
    python tests/fake_vllm.py --model MODEL --host 127.0.0.1 --port 8000 [flags]

More flags may come in the environment variable FAKE_VLLM_FLAGS. All switches but those marked * can be changed
live: POST /fake/set {"token_delay": 0.1}. "POST" below: any POST other than /fake/; N counts from 0, -1 is off.

| switch (--fake-...)      | what it does                                                                       |
|--------------------------|------------------------------------------------------------------------------------|
| keep-alive S             | closes idle connections after S seconds (5, as vLLM)                               |
| start-delay S *          | takes S seconds to listen, with vLLM's stage lines on stderr                       |
| exit-early CODE *        | ends at start with CODE, after start-delay                                         |
| exit-text NAME *         | ends at start with a text (and code) of fake_client.EXIT_TEXTS                     |
| status CODE, status-text | every POST gets this error                                                         |
| fail-first N             | the first N POSTs get that status (500 unless set), later ones succeed             |
| die-after N              | N POSTs are answered, the next kills the process mid-answer, exit code 0           |
| die-mid-stream N         | connection reset (TCP RST, plain end on a unix socket) instead of SSE event N      |
| error-mid-stream N       | instead of event N: the error event of a dead engine, then [DONE]                  |
| lone-done N              | instead of event N: [DONE], so there is no finish_reason                           |
| hang-mid-stream N        | nothing after N events, the connection stays                                       |
| hang                     | answers only /health and /fake/                                                    |
| hang-before-headers      | POSTs are never answered                                                           |
| garbage                  | POSTs are answered by bytes that are not HTTP                                      |
| truncate                 | POSTs: Content-Length 100 too large, or no last chunk; then close                  |
| first-delay S            | before the first token (SSE headers leave at once, as with vLLM)                   |
| token-delay S            | before each further token                                                          |
| slow-steps S             | each engine step, prefill too, takes S; /metrics advances step by step             |
| chunks-per-write N       | N SSE events in one write                                                          |
| split-writes             | each SSE write is cut in three                                                     |
| gzip                     | POST answers are gzip, asked for or not                                            |
| connection-header        | adds Connection: x-hop, x-hop and Keep-Alive                                       |
| drop-idle                | closes an idle connection the moment its next request arrives                      |
| ignore-sigterm           | SIGTERM does nothing                                                               |
| drain                    | SIGTERM as with --shutdown-timeout: streams finish, new POSTs 500, then exit 0     |
| engine-core *            | generation needs a child, "VLLM::EngineCore"; SIGSTOP or kill it (state: core_pid) |
| log-flood BYTES          | writes BYTES to stderr, half as one line                                           |
| prefill-delay S          | each 1,000 computed prompt tokens take S seconds more                              |
| lie-cached N             | cached_tokens says N, whatever was cached                                          |
| no-cache                 | the prefix cache is off                                                            |
| preemptions N            | /metrics counts N preempted requests                                               |
| outside N                | /metrics counts N tokens looked up in a KV tier, as with a connector               |
| drop-events N            | the next N batches of KV events are not published (a replay has them)              |
| array-events             | KV events as arrays, as older releases sent them                                   |
| no-suffix                | suffix gets 400, as with vLLM (the default; --no-fake-no-suffix turns it off)      |
| no-sleep, no-wake        | /sleep, /wake_up answer 500                                                        |
| script FILE              | answers of fake_script.py's file, chosen by what the prompt says                   |
| embedding-model          | only the pooling routes exist (also with --runner pooling or --convert)            |

Asleep (POST /sleep), every POST of a user gets 500, and the prefix cache is empty.
Control: GET /fake/state (counters), GET /fake/last[?path=/x] (the last request that was not a poll, or the last
to that path), GET /fake/prompts (every prefill), POST /fake/set, POST /fake/forget {"blocks": N, "silent": true}
(evicts N blocks, or clears the cache).
SIGTERM without drain or --shutdown-timeout: open answers hang until clients leave.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import socket
import sys
import time
from dataclasses import fields
from typing import NoReturn

from fake_api import Api, flood
from fake_client import EXIT_TEXTS, Switches, exit_log, start_log
from fake_engine import Core, human
from fake_http import Connection, Wire

WORDS = (
    "--model --host --uds --max-model-len --kv-cache-memory-bytes --scheduling-policy --tool-call-parser --revision"
    " --moe-backend --chat-template --generation-config --dtype --kv-events-config --download-dir --quantization"
    " --load-format --runner --convert"
)
NUMBERS = (
    "--port --max-num-seqs --block-size --shutdown-timeout --tensor-parallel-size --pipeline-parallel-size --seed"
    " --max-num-batched-tokens --max-num-queued-reqs --num-gpu-blocks-override"
)
TRUTHS = (
    "--enable-prompt-tokens-details --enforce-eager --trust-remote-code --enable-auto-tool-choice"
    " --enable-expert-parallel --enable-request-id-headers --disable-uvicorn-access-log --enable-log-requests"
    " --enable-prefix-caching --enable-sleep-mode --enable-lora"
)


class Parser(argparse.ArgumentParser):
    """vLLM's way to refuse: its usage, then one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.format_help()}\nerror: {message}\n")


def parse(argv: list[str]) -> tuple[argparse.Namespace, Switches]:
    """The command line of either form, strictly."""
    parser = Parser(prog="api_server.py", allow_abbrev=False)
    if argv[:1] == ["serve"]:
        argv = argv[1:]
        parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    parser.add_argument("--gpu-memory-utilization", type=float)
    for names, kind in ((WORDS, str), (NUMBERS, int)):
        for name in names.split():
            parser.add_argument(name, type=kind)
    for name in TRUTHS.split():
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=False)
    for field in fields(Switches):
        name = "--fake-" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    args = parser.parse_args(argv + shlex.split(os.environ.get("FAKE_VLLM_FLAGS", "")))
    args.model = getattr(args, "model_tag", None) or args.model or "Qwen/Qwen3-0.6B"
    args.names = [*(args.served_model_name or [args.model]), *(pair.split("=")[0] for pair in args.lora_modules)]
    args.context = human(args.max_model_len) if args.max_model_len not in (None, "auto", "-1") else 32768
    return args, Switches(**{field.name: getattr(args, f"fake_{field.name}") for field in fields(Switches)})


def listen(args: argparse.Namespace) -> socket.socket:
    """Binds as vLLM does: early, and a socket file left behind by another process is an error."""
    link = socket.socket(socket.AF_UNIX if args.uds else socket.AF_INET)
    if args.uds:
        link.bind(args.uds)
    else:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.bind((args.host or "0.0.0.0", args.port or 8000))
    return link


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def start(args: argparse.Namespace, switches: Switches) -> socket.socket:
    """Everything before the first request, and every way not to get there."""
    lines = start_log(args.model)
    for line in lines[:-1]:
        log(line)
        await asyncio.sleep(switches.start_delay / len(lines))
    if switches.exit_text or switches.exit_early >= 0:
        log(exit_log(switches.exit_text or "silent"))
        early = EXIT_TEXTS[switches.exit_text].code if switches.exit_text else 1
        raise SystemExit(switches.exit_early if switches.exit_early >= 0 else early)
    try:
        link = listen(args)
    except OSError as error:
        log(f"(APIServer pid={os.getpid()}) OSError: {error}")
        raise SystemExit(1) from None
    log(lines[-1])
    return link


async def serve(args: argparse.Namespace, switches: Switches) -> None:
    """Runs until SIGTERM (or SIGINT) lets it end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None if switches.ignore_sigterm else stop.set())
    wire = Wire(switches, not args.disable_uvicorn_access_log, args.enable_request_id_headers)
    api = Api(args, switches, wire)
    api.engine.events.start()
    wire.handle = api.handle
    starting = asyncio.ensure_future(start(args, switches))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return
    link = starting.result()
    if switches.engine_core:
        api.engine.core = Core()
        await api.engine.core.start()
    create = loop.create_unix_server if args.uds else loop.create_server
    server = await create(lambda: Connection(wire), sock=link)
    log(f"(APIServer pid={os.getpid()}) INFO:     Application startup complete.")
    flood(switches.log_flood)
    await stopping
    log(f"(APIServer pid={os.getpid()}) INFO:     Shutting down")
    if args.shutdown_timeout or switches.drain:
        api.draining = True
        end = time.monotonic() + (args.shutdown_timeout or 3600)
        while wire.busy() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return
    api.engine.stopped = True
    server.close()
    for connection in list(wire.connections):
        if not connection.exchange:
            connection.transport.close()
    while wire.connections:
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(serve(*parse(sys.argv[1:])))
