"""A server that scores lines as vLLM does, and a small tree of them, for the tests of the worth benchmark.

As a command, `worth_rig.py PORT`, it is a process in vLLM's place.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.worth_lines import Corpus, Sizes

from aicockpit.prompts import fim
from tiny_tokenizers import FAMILIES, byte_level, of_family

WORLD = 512
SIZES = Sizes(pack=600, near=300, similar=300, before=200, after=40)
WORDS = ["--pack", "600", "--near", "300", "--similar", "300", "--before", "200", "--after", "40"]


def truth(before: list[int], token: int) -> float:
    """The stub model's log-probability of a token: any function of everything before it."""
    return -((sum(before) * 31 + len(before) * 7 + token) % WORLD) / 100 - 0.01


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        wanted = "tokens" if "logprob_token_ids" in body else "prompt" if "prompt_logprobs" in body else ""
        bad = (wanted and wanted not in self.server.ways) or len(self.server.bodies) > self.server.dies_after
        bad = bad or self.server.model not in ("", body["model"])
        if self.path == "/tokenize":  # a chat as one token for each letter
            said = "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])
            answer: dict[str, Any] = {"tokens": [ord(letter) % WORLD for letter in said + "<assistant>"]}
        else:
            answer = {"error": {"message": "unknown field"}} if bad else {"choices": list(self.choices(body, wanted))}
        data = json.dumps(answer).encode()
        self.send_response(400 if bad else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def choices(self, body: dict[str, Any], wanted: str) -> Iterator[dict[str, Any]]:
        if wanted == "tokens":
            for place, prompt in enumerate(body["prompt"]):
                tops = {f"token_id:{token}": truth(prompt, token) for token in body["logprob_token_ids"]}
                yield {"index": place, "text": "", "logprobs": {"top_logprobs": [tops]}}
        elif wanted == "prompt":
            ids = body["prompt"]
            rows = [{str(token): {"logprob": truth(ids[:n], token)}} for n, token in enumerate(ids)]
            yield {"index": 0, "text": "", "prompt_logprobs": [None, *rows[1:]]}
        else:
            yield {"index": 0, "text": "\n    return helper_2(value)\nmore"}


class Served(ThreadingHTTPServer):
    """A server on loopback that serves once it is `begun`."""

    def begun(self) -> None:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Stub(Served):
    """A server with the completions of vLLM as far as scoring needs them. `ways`: the modes that it knows; `model`: the
    only name that it takes, "" for any."""

    def __init__(
        self, ways: tuple[str, ...] = ("tokens", "prompt"), dies_after: int = 10**9, port: int = 0, model: str = ""
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.ways, self.dies_after, self.model = ways, dies_after, model
        self.bodies: list[dict[str, Any]] = []
        self.begun()


def module(number: int) -> str:
    lines = [f"from mod_{number + 1} import helper_{number + 1}", ""]
    for each in range(8):
        lines += [f"def work_{number}_{each}(value):", f"    total = value + {each}", "    total = total * 2"]
        lines += ["    if total > 100:", "        total = total - 1", "    more = total + value", "    del more"]
        lines += [f"    return helper_{number + 1}(value)" if each == 7 else "    return total", ""]
    lines += [f"def helper_{number}(value):", "    return value"]
    return "\n".join(lines) + "\n"


def tree_in(folder: Path) -> Path:
    """Five files, each of which calls the next one's function."""
    folder.mkdir()
    for number in range(5):
        (folder / f"mod_{number}.py").write_text(module(number))
    return folder


def tokenizer_in(folder: Path) -> Path:
    """A model's folder as far as prompts need it."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(byte_level(FAMILIES["qwen"]))
    return folder


def corpus_of(tree: Path, sizes: Sizes | None = None, family: str = "qwen") -> Corpus:
    encoder = of_family(family)
    style, _ = fim.detect(encoder.specials)
    files = {path.name: path.read_text() for path in sorted(tree.iterdir())}
    return Corpus("small", files, encoder, style, sizes or SIZES)


if __name__ == "__main__":
    Stub(port=int(sys.argv[1]), model="m")
