"""models/fetch.py, against a Hub of our own. Each call is a child process, as in `serve`: the library reads its
settings when it is imported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_hub
from aicockpit.errors import ModelError
from aicockpit.models import fetch
from aicockpit.models.locate import ModelFiles, resolve_apart
from aicockpit.settings import load


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield running


class Told:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def __call__(self, step: str, done: int, total: int) -> None:
        self.lines.append((step, done, total))


async def get(model: str, tmp_path: Path, told: Told | None = None, token: str = "") -> ModelFiles:
    settings = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "HF_TOKEN": token})
    return await resolve_apart(model, settings, told or Told())


async def test_a_download_brings_what_vllm_reads_and_no_more(hub: fake_hub.Hub, tmp_path: Path) -> None:
    told = Told()
    files = await get("ok/m", tmp_path, told)
    assert (files.source, files.served_name) == ("hub", "ok/m")
    assert {path.name for path in files.path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (files.path / "model.safetensors").read_bytes() == fake_hub.WEIGHTS
    total = len(fake_hub.WEIGHTS) + len(fake_hub.CONFIG) + 2
    assert told.lines[-1] == ("downloading", total, total)


async def test_a_second_look_finds_the_cache_and_asks_nobody(hub: fake_hub.Hub, tmp_path: Path) -> None:
    first = await get("ok/m", tmp_path)
    hub.requests.clear()
    again = await get("ok/m", tmp_path)
    assert (again.source, again.path) == ("cache", first.path)
    assert hub.requests == []


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer.json"])
async def test_an_incomplete_snapshot_does_not_count(hub: fake_hub.Hub, tmp_path: Path, lost: str) -> None:
    first = await get("ok/m", tmp_path)
    (first.path / lost).resolve().unlink()
    again = await get("ok/m", tmp_path)
    assert again.source == "hub"
    assert (again.path / lost).is_file()


async def test_the_token_is_sent(hub: fake_hub.Hub, tmp_path: Path) -> None:
    await get("ok/m", tmp_path, token="hf_abc")
    assert {request for request in hub.requests if request[2] != "Bearer hf_abc"} == set()


async def test_a_cut_download_goes_on_where_it_ended(hub: fake_hub.Hub, tmp_path: Path) -> None:
    files = await get("once/m", tmp_path)
    assert (files.path / "model.safetensors").read_bytes() == fake_hub.WEIGHTS


@pytest.mark.parametrize(
    ("model", "token", "message"),
    [
        (
            "gated/m",
            "",
            r"gated/m is gated. Accept its licence at http://127.0.0.1:\d+/gated/m, make a token at .*HF_TOKEN",
        ),
        (
            "gated/m",
            "hf_x",
            r"The account of HF_TOKEN has no access: accept the licence at http://127.0.0.1:\d+/gated/m",
        ),
        ("token/m", "hf_bad", r"refused the token in HF_TOKEN \(401\). Make a new one"),
        (
            "gone/m",
            "",
            r"There is no model gone/m. Looked in the cache .* and on http.*spelling of MODEL_NAME.*HF_TOKEN",
        ),
        ("busy/m", "", r"answered 500 for busy/m"),
        ("ggufs/m", "", r"holds GGUF weights only. GGUF is no longer a vLLM format"),
        ("huge/m", "", r"The disk is too full: huge/m needs 3000000.0 GB more, .*HF_HOME"),
        ("a/b/c", "", r"MODEL_NAME='a/b/c' is neither a folder nor a Hugging Face id"),
    ],
)
async def test_failures_say_what_to_do(hub: fake_hub.Hub, tmp_path: Path, model: str, token: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        await get(model, tmp_path, token=token)
    assert token not in str(caught.value) or not token


async def test_a_connection_that_is_always_cut_is_told(hub: fake_hub.Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cut/m is not complete in the cache .* the download from .* failed"):
        await get("cut/m", tmp_path)


async def test_an_unreachable_hub_fails_fast(
    hub: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"not complete in the cache .*http://127.0.0.1:9 failed.*local folder"):
        await get("ok/m", tmp_path)
    assert time.monotonic() - started < 15


async def test_offline_mode_is_told(hub: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        await get("ok/m", tmp_path)
    assert hub.requests == []


async def test_cancelling_ends_the_child(hub: fake_hub.Hub, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get("cut/m", tmp_path), 0.2)
    assert time.monotonic() - started < 2


def test_one_format_of_weights_is_chosen() -> None:
    assert fetch.wanted(["a.safetensors", "consolidated.safetensors", "pytorch_model.bin"]) == ["a.safetensors"]
    assert fetch.wanted(["consolidated.safetensors", "params.json"]) == ["params.json", "consolidated.safetensors"]
    assert fetch.wanted(["pytorch_model.bin", "training_args.bin"]) == ["pytorch_model.bin"]
    assert fetch.wanted(["1_Pooling/config.json", "original/params.json", "x/a.safetensors"]) == [
        "1_Pooling/config.json"
    ]


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert fetch.lacking(tmp_path) == "weight files (*.safetensors)"
    (tmp_path / "model-00001-of-00003.safetensors").touch()
    assert fetch.lacking(tmp_path) == "2 of 3 weight files (such as model-00002-of-00003.safetensors)"
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "x.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fetch.lacking(tmp_path) == "1 of 2 weight files (such as x.safetensors)"
    (tmp_path / "x.safetensors").touch()
    assert fetch.lacking(tmp_path) == ""
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        fetch.lacking(tmp_path)
