"""Which engines are kept warm, and in which lanes: roles, files that tell of a pooling model, engines of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aicockpit import settings as settings_module
from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.external import ExternalEngine
from aicockpit.errors import AicockpitError, NotReady
from aicockpit.types import Address, EngineState
from aicockpit.warm import WarmSide
from aicockpit.workspace.desk import RenderRefused
from aicockpit.workspace.eligible import Eligible, lanes_of, pools
from fake_client import start_fake
from rig import engine_of, running, until
from test_external import LIMITS
from tiny_tokenizers import byte_level

BOTH = ("completion", "chat")
PAGE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
DIMENSIONS = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 32,
}


@pytest.mark.parametrize(
    ("role", "answers", "pooling", "lanes"),
    [
        ("", "", False, BOTH),
        ("", "/v1/completions", False, BOTH),
        ("completion", "/v1/completions", False, ("completion",)),
        ("chat", "", False, ("chat",)),
        ("vision", "", False, ("chat",)),
        ("embedding", "", False, ()),
        ("rerank", "", False, ()),
        ("", "", True, ()),
        ("", "/v1/completions", True, BOTH),  # started with --runner generate
        ("completion", "", True, ("completion",)),
        ("", "/v1/embeddings", False, ()),
        ("chat", "/v1/score", False, ()),
        ("", "/pooling", False, ()),
        ("", "/classify", False, ()),
    ],
)
def test_lanes_follow_what_was_answered_then_the_role_then_the_files(
    role: str, answers: str, pooling: bool, lanes: tuple[str, ...]
) -> None:
    assert lanes_of(role, answers, pooling) == lanes


def model(folder: Path, architecture: str, modules: object = None) -> Path:
    folder.mkdir()
    config = {"architectures": [architecture], "model_type": "qwen2", **DIMENSIONS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(byte_level(("<|endoftext|>",)))
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_files_tell_of_a_model_that_generates_nothing(tmp_path: Path) -> None:
    sentences = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    assert pools(model(tmp_path / "a", "Qwen3ForCausalLM", sentences))
    assert pools(model(tmp_path / "b", "Qwen2ForSequenceClassification"))
    assert not pools(model(tmp_path / "c", "Qwen2ForCausalLM"))
    assert not pools(model(tmp_path / "d", "Qwen2ForCausalLM", ["no", {"type": 1}]))
    assert not pools(tmp_path / "nothing")
    (tmp_path / "c/config.json").write_text("{")
    assert not pools(tmp_path / "c")


@dataclass
class Foreign:
    """A server that somebody else runs: what it answers to /metrics, and how often it was asked."""

    status: int = 404
    page: str = "not found"
    asked: int = 0
    engine: Engine = field(init=False)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked += head.startswith(b"GET /metrics")
        text = self.page.encode()
        head = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (self.status, len(text))
        writer.write(head + text)
        writer.close()

    def again(self) -> None:
        """Ready with an empty cache: another life."""
        self.engine.generation += 1
        self.engine.state = EngineState.READY


@asynccontextmanager
async def foreign(status: int = 404, page: str = "not found") -> AsyncIterator[Foreign]:
    made = Foreign(status, page)
    async with await asyncio.start_server(made.answer, "127.0.0.1", 0) as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        made.engine = Engine("external-1", address, Upstream(address, 1.0), ("paid",), supervised=False)
        yield made
        made.engine.upstream.close()


@asynccontextmanager
async def asking(
    rest_s: float = 60, retry_s: float = 0.01, news: Callable[[], None] = lambda: None
) -> AsyncIterator[Eligible]:
    made = Eligible(news, rest_s, retry_s)
    yield made
    await made.close()


@pytest.mark.parametrize(("status", "page"), [(404, "not found"), (200, "go_threads 7\n"), (401, "no")])
async def test_an_engine_of_others_without_a_kv_cache_is_asked_once_in_each_life(status: int, page: str) -> None:
    async with foreign(status, page) as one, asking() as eligible:
        eligible.look([one.engine])
        assert eligible.lanes(one.engine) == (), "what it is for is not known before it was ready"
        for life in (1, 2):
            one.again()
            for _ in range(3):
                eligible.look([one.engine])
                await until(lambda life=life: one.asked == life)
            await until(lambda: "tells nothing of a KV cache" in eligible.why_not(one.engine))
            assert not eligible.warmed(one.engine)
            await asyncio.sleep(0.05)
            assert one.asked == life


async def test_it_is_asked_again_after_a_long_while(tmp_path: Path) -> None:
    news: list[str] = []
    async with (
        foreign() as one,
        asking(rest_s=0.05, news=lambda: news.append(eligible.why_not(one.engine))) as eligible,
    ):
        one.again()
        eligible.look([one.engine])
        await until(lambda: one.asked == 3)
        assert len(news) == 1, "the same answer is no news"
        one.status, one.page = 200, PAGE
        await until(lambda: eligible.warmed(one.engine))
        assert news[1:] == [""]
        asked = one.asked
        await asyncio.sleep(0.15)
        assert one.asked == asked, "who told is not asked again"


@pytest.mark.parametrize("status", [503, 429])
async def test_an_answer_that_may_pass_is_asked_again_soon_and_changes_nothing(status: int) -> None:
    async with foreign(status) as one, asking() as eligible:
        one.again()
        eligible.look([one.engine])
        await until(lambda: one.asked >= 2)
        assert "has not told yet" in eligible.why_not(one.engine)
        one.status, one.page = 200, PAGE
        await until(lambda: eligible.warmed(one.engine))
        one.status = status
        one.again()
        eligible.look([one.engine])
        await until(lambda: one.asked >= 4)
        assert eligible.warmed(one.engine), "it was one that tells"


async def test_one_that_went_is_asked_no_more_and_another_of_its_name_starts_anew() -> None:
    async with foreign(503) as one, asking(rest_s=0.02) as eligible:
        one.again()
        eligible.look([one.engine])
        await until(lambda: one.asked >= 1)
        eligible.look([])
        await asyncio.sleep(0.05)
        asked = one.asked
        await asyncio.sleep(0.1)
        assert one.asked == asked
        eligible.look([one.engine])
        await until(lambda: one.asked > asked)
        one.engine.state = EngineState.UNREACHABLE
        await asyncio.sleep(0.05)
        asked = one.asked
        await asyncio.sleep(0.1)
        assert one.asked == asked


@pytest.mark.parametrize(("flag", "answers"), [("--embedding-model", "/v1/embeddings"), ("--gzip", "/v1/completions")])
async def test_an_engine_of_others_tells_by_what_it_answers_whether_it_generates(
    tmp_path: Path, flag: str, answers: str
) -> None:
    with start_fake(tmp_path, flag.replace("--", "--fake-")) as fake:
        address = Address(uds=fake.uds or "")
        one = ExternalEngine(Engine("external-1", address, Upstream(address, 1.0), supervised=False), LIMITS)
        one.launch()
        await until(lambda: one.engine.ready)
        assert one.engine.answers == answers
        await one.close()


@asynccontextmanager
async def warming(tmp_path: Path, *engines: Engine) -> AsyncIterator[WarmSide]:
    """The warm side of a server with these engines."""
    environ = {"AICOCKPIT_STATE_DIR": str(tmp_path / "warm")}
    async with running(tmp_path, *engines) as rig:
        warm = WarmSide(settings_module.load(environ=environ), rig.engines)
        await warm.begin(rig.gateway.forwarder)
        yield warm
        await warm.close()


async def test_an_embedding_model_gets_no_prefetcher_and_no_prompts(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        coder = engine_of(fake)
        coder.files = str(model(tmp_path / "coder", "Qwen2ForCausalLM"))
        embed = engine_of(fake, "embed-0", ("embed",))
        embed.files = str(model(tmp_path / "embed", "Qwen2ForSequenceClassification"))
        named = engine_of(fake, "named-0", ("named",))
        named.role = "rerank"
        lanes = engine_of(fake, "lanes-0", ("lanes",))
        lanes.role = "chat"
        async with warming(tmp_path, coder, embed, named, lanes) as warm:
            assert set(warm.prefetchers) == {"fake-0", "lanes-0"}
            assert {spec.name: spec.kinds for spec in warm._models()} == {"fake": BOTH, "lanes": ("chat",)}
            named.role = ""  # a reload
            coder.role = "embedding"
            warm.wake()
            assert set(warm.prefetchers) == {"named-0", "lanes-0"}
            assert [spec.name for spec in warm._models()] == ["named", "lanes"]


async def test_a_paid_endpoint_is_left_alone_and_its_status_says_why(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with foreign() as one, warming(tmp_path, engine_of(fake), one.engine) as warm:
            assert set(warm.prefetchers) == {"fake-0"}
            one.engine.files = str(model(tmp_path / "paid", "Qwen2ForCausalLM"))
            one.again()
            warm.wake()
            spec = warm._models()[1]
            assert (spec.name, spec.folder) == ("paid", None), "nothing is built before it is known to be of use"
            await until(lambda: "tells nothing" in warm._models()[1].why_not)
            assert set(warm.prefetchers) == {"fake-0"}
            one.status, one.page = 200, PAGE
            one.again()
            warm.wake()
            await until(lambda: set(warm.prefetchers) == {"fake-0", "external-1"})
            assert warm._models()[1].folder == tmp_path / "paid"
            one.status, one.page = 404, ""  # another program behind the same address
            one.again()
            warm.wake()
            await until(lambda: set(warm.prefetchers) == {"fake-0"})


async def test_an_engine_that_a_reload_took_out_is_told_when_a_chat_is_rendered(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        engine = engine_of(fake)
        async with warming(tmp_path, engine) as warm:
            assert await warm._render("fake-0", "fake", "a text of some words")
            warm._engines.remove(engine)  # type: ignore[attr-defined]
            assert "fake-0" in warm.prefetchers, "nobody has followed yet"
            with pytest.raises(NotReady, match="no engine fake-0 any more"):
                await warm._render("fake-0", "fake", "a text of some words")


@pytest.mark.parametrize(("status", "final"), [(400, True), (404, True), (429, False), (500, False)])
async def test_only_a_refusal_to_render_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, final: bool
) -> None:
    with start_fake(tmp_path) as fake:
        engine = engine_of(fake)
        async with warming(tmp_path, engine) as warm:

            async def fetch(*_: object, **__: object) -> tuple[int, bytes]:
                return status, b"no chat template"

            monkeypatch.setattr(engine.upstream, "fetch", fetch)
            with pytest.raises(AicockpitError, match=f"answered {status}") as caught:
                await warm._render("fake-0", "fake", "a text of some words")
            assert isinstance(caught.value, RenderRefused) is final
