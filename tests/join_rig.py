"""A gateway that joins workspaces, in front of fake engines: contexts with scripted heads, a tokenizer, a template."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aicockpit.engines.engine import Engine
from aicockpit.gateway.auth import Caller
from aicockpit.gateway.join import Joiner
from aicockpit.gateway.layouts import Layouts
from aicockpit.gateway.parity import Parity
from aicockpit.gateway.voices import Voice, Voices
from aicockpit.prompts.fim import detect
from aicockpit.workspace.head import Head
from fake_client import FakeVllm
from rig import Rig, running
from tiny_tokenizers import of_family

HEAD = tuple(range(5, 5 + 160))
PACK = "TEXT OF THE PACK"


@dataclass
class Workspace:
    id: int
    name: str


@dataclass
class Warm:
    """Contexts with a scripted head, and a record of what they were told."""

    heads: dict[str, Head] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)

    def head(self, workspace_id: int, model: str, lane: str, path: str, engine: str, asked: int | None = None) -> Head:
        self.told.append(("head", workspace_id, model, lane, path, engine))
        head = self.heads.get(engine, Head(reason="warming 40 %"))
        return head if asked is None or len(head.tokens) <= asked else Head(reason="too long")

    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...], prefix: str = "") -> None:
        self.told.append(("seen", workspace_id, model, path, tail))

    def finished(self, workspace_id: int, model: str, lane: str, uncached: int) -> None:
        self.told.append(("finished", lane, uncached))

    def speed(self, engines: Sequence[Engine]) -> float:
        return 1000.0

    def used(self, engine: str, size: int) -> None:
        self.told.append(("used", engine))

    def learn(self, engine: str, tokens: tuple[int, ...], prompt: int, cached: int | None) -> None:
        self.told.append(("learn", engine, len(tokens), prompt, cached))

    def of(self, kind: str) -> list[Any]:
        """What was told of one kind."""
        return [one for one in self.told if one[0] == kind]


@dataclass
class Template:
    """A chat template as a function of `/tokenize`'s fields to text; a character is a token. Counts what it renders."""

    render: Any
    calls: list[Mapping[str, Any]] = field(default_factory=list)

    async def __call__(self, engine: Engine, model: str, fields: Mapping[str, Any]) -> list[int]:
        self.calls.append(fields)
        return [ord(character) for character in self.render(**fields)]


def chatml(messages: Sequence[Any], tools: Sequence[Any] = (), chat_template_kwargs: object = None) -> str:
    """As Qwen2.5's: the tools stand behind the text of the system message."""
    out = []
    for place, one in enumerate(messages):
        more = f"\n\n# Tools\n\n{json.dumps(tools)}" if tools and not place else ""
        out.append(f"<{one['role']}>\n{one['content']}{more}</>\n")
    return "".join(out) + "<assistant>\n"


def find(caller: Caller, name: str) -> Workspace | None:
    return Workspace(7, name) if name == "proj" else None


@asynccontextmanager
async def joined(
    tmp_path: Path,
    warm: Warm,
    *engines: Engine,
    family: str = "qwen",
    why_not: str = "",
    layouts: Layouts | None = None,
) -> AsyncIterator[Rig]:
    encoder = of_family(family)
    style, reason = detect(encoder.specials)
    voice: Voice | str = why_not or Voice(encoder, style, reason, 4096)
    async with running(tmp_path, *engines) as rig:
        parity = Parity(rig.gateway.metrics.registry)
        rig.gateway.joiner = Joiner(warm, warm, find, Voices(lambda _: voice), parity, layouts)
        yield rig


def sent(fake: FakeVllm) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(fake.last()["body"])))


def warm_head() -> Head:
    return Head(HEAD, "abc", len(HEAD), 0, 0, len(HEAD), PACK, "warm")
