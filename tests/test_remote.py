"""models/remote.py: a model's shape from a Hub of our own, without its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import fake_hub
import shapes
from aicockpit.errors import ModelError
from aicockpit.hardware.shape import INDEX, ShapeUnknown
from aicockpit.models import remote
from aicockpit.models.files import GgufRefused
from aicockpit.models.hub import Hub
from aicockpit.models.snapshots import cached
from fake_hub import SHA, Fault
from hub_rig import offline, pull, requests_for
from test_shape import TINY, TINY_CONFIG, safetensors

NEXT = "b" * 40
FILLING = 3_000_000  # bytes; far more than a header


class Ranged(fake_hub._Handler):
    """Sends no more of a file than the range asks for, as the Hub's storage does."""

    def _content(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if not asked:
            super()._content(content, body, headers)
            return
        part = content[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        for name, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(name, value)
        self.end_headers()
        assert isinstance(self.server, fake_hub.Hub)
        self.server.sent += len(part)
        self.wfile.write(part)


@pytest.fixture
def server() -> Iterator[fake_hub.Hub]:
    with fake_hub.running() as running:
        running.RequestHandlerClass = Ranged
        yield running


@pytest.fixture
def hub(server: fake_hub.Hub, tmp_path: Path) -> Hub:
    return Hub(server.url, tmp_path / "cache")


def one_file(tmp_path: Path) -> dict[str, bytes]:
    path = tmp_path / "model.safetensors"
    safetensors(path, {**TINY, "model.filling": ("BF16", (FILLING // 2,))})
    return {
        "config.json": json.dumps(TINY_CONFIG).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": path.read_bytes(),
    }


def shards(total: int | None, stored: tuple[int, ...] = (4_000, 6_000)) -> dict[str, bytes]:
    names = [f"model-{i + 1:05}-of-{len(stored):05}.safetensors" for i in range(len(stored))]
    index = {
        "metadata": {} if total is None else {"total_size": total},
        "weight_map": dict(zip("ab", names, strict=True)),
    }
    return {
        "config.json": json.dumps(shapes.SMOLLM2).encode(),
        "tokenizer.json": b"{}",
        INDEX: json.dumps(index).encode(),
        **{name: bytes(size) for name, size in zip(names, stored, strict=True)},
    }


def test_one_file_s_tensors_are_exact_and_its_weights_stay_where_they_are(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    server.publish("ok/m", one_file(tmp_path))
    found = remote.look(hub, "ok/m")
    assert found.shape.tensors == (2048, 2048, 256, 512 + FILLING)
    assert (found.commit, found.source) == (SHA, "hub")
    assert server.sent < FILLING / 10
    assert cached(hub, "ok/m") is None  # nothing that looks like half a download


@pytest.mark.parametrize(
    ("total", "weights"),
    [(9_950, 9_950), (None, 10_000), (20_000, 10_000)],  # an index that contradicts its files is not believed
)
def test_many_files_are_summed_by_their_index(hub: Hub, server: fake_hub.Hub, total: int | None, weights: int) -> None:
    server.publish("ok/m", shards(total))
    assert remote.look(hub, "ok/m").shape.weights == weights
    assert requests_for(server, "00001-of") == 0


def test_a_pinned_revision_is_looked_at(hub: Hub, server: fake_hub.Hub) -> None:
    server.publish("ok/m", shards(9_950))
    other = {**shards(9_950), "config.json": json.dumps(shapes.LLAMA_8B).encode()}
    server.publish("ok/m", other, NEXT, "v2")
    assert remote.look(hub, "ok/m", "v2").shape.layers == 32
    assert remote.look(hub, "ok/m", NEXT[:40]).commit == NEXT
    assert remote.look(hub, "ok/m").shape.layers == 30
    with pytest.raises(ModelError, match="no revision 'v3'"):
        remote.look(hub, "ok/m", "v3")


def test_a_look_is_kept_by_commit_and_serves_without_a_network(hub: Hub, server: fake_hub.Hub, tmp_path: Path) -> None:
    keep = tmp_path / "state" / "shapes"
    server.publish("ok/m", one_file(tmp_path))
    first = remote.look(hub, "ok/m", keep=keep)
    sent = server.sent
    again = remote.look(hub, "ok/m", keep=keep)
    assert (again.shape, again.source) == (first.shape, "kept")
    assert server.sent == sent
    away = remote.look(offline(hub), "ok/m", keep=keep)
    assert (away.shape, away.commit, away.source) == (first.shape, SHA, "kept")
    assert remote.look(offline(hub), "ok/m", SHA, keep).shape == first.shape
    gone = replace(hub, endpoint="http://127.0.0.1:1")
    assert remote.look(gone, "ok/m", keep=keep).shape == first.shape


def test_a_branch_that_moved_on_is_read_anew_and_damaged_notes_too(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    keep = tmp_path / "shapes"
    server.publish("ok/m", shards(9_950))
    remote.look(hub, "ok/m", keep=keep)
    server.publish("ok/m", {**shards(9_950), "config.json": json.dumps(shapes.LLAMA_8B).encode()}, NEXT)
    assert remote.look(hub, "ok/m", keep=keep).shape.layers == 32
    for path in (keep / "ok--m").glob("*.json"):
        path.write_text("[" * 100)
    assert remote.look(hub, "ok/m", keep=keep).source == "hub"
    (keep / "ok--m" / f"{NEXT}.json").write_text('{"config": {}, "weights": 1, "tensors": {"a": [1]}}')
    assert remote.look(hub, "ok/m", keep=keep).source == "hub"


def test_a_folder_that_cannot_be_written_costs_only_the_memory_of_it(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    server.publish("ok/m", shards(9_950))
    (tmp_path / "file").write_text("")
    assert remote.look(hub, "ok/m", keep=tmp_path / "file").source == "hub"


def test_a_complete_download_knows_best_and_asks_nobody(hub: Hub, server: fake_hub.Hub, tmp_path: Path) -> None:
    server.publish("ok/m", one_file(tmp_path))
    pull(hub)
    server.requests.clear()
    found = remote.look(offline(hub), "ok/m")
    assert (found.source, found.shape.tensors) == ("cache", (2048, 2048, 256, 512 + FILLING))
    assert not server.requests


def test_without_a_network_the_download_that_would_be_served_is_looked_at(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    server.publish("ok/m", one_file(tmp_path))
    first = pull(hub)
    (hub.storage("ok/m") / "refs" / "main").write_text(NEXT)  # another program began an update
    assert remote.look(offline(hub), "ok/m").commit == first.name
    with pytest.raises(ModelError):
        remote.look(offline(hub), "ok/m", NEXT)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("gated/m", "gated/m is gated. Accept its licence"),
        ("token/m", "refused the token in HF_TOKEN"),
        ("gone/m", "There is no model gone/m"),
        ("login/m", "not as a Hugging Face Hub does"),
    ],
)
def test_refusals_are_told_as_for_a_download(hub: Hub, model: str, told: str) -> None:
    with pytest.raises(ModelError, match=re.escape(told)):
        remote.look(hub, model)


def test_gguf_and_no_network_are_told(hub: Hub) -> None:
    with pytest.raises(GgufRefused):
        remote.look(hub, "ggufs/m")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        remote.look(offline(hub), "ok/m")


def test_a_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, server: fake_hub.Hub, tmp_path: Path) -> None:
    server.publish("ok/m", one_file(tmp_path))
    remote.look(replace(hub, token="hf_secret"), "ok/m")
    sent = {path: header for _, path, header in server.requests}
    assert sent["/ok/m/resolve/" + SHA + "/config.json"] == "Bearer hf_secret"
    assert [header for path, header in sent.items() if path.startswith("/cdn/")] == [""]


def test_a_hub_that_fails_in_the_middle_is_told_or_an_earlier_look_serves(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    server.publish("ok/m", shards(9_950))
    server.fault(Fault("GET /ok/m/resolve/.*config", times=9, status=500))
    with pytest.raises(ModelError, match="answered 500"):
        remote.look(hub, "ok/m")
    server.heal()
    server.fault(Fault("GET /ok/m/resolve/.*config", times=9, cut=10))
    with pytest.raises(ModelError, match="ok/m"):
        remote.look(hub, "ok/m")
    server.heal()
    remote.look(hub, "ok/m", keep=tmp_path / "shapes")
    server.publish("ok/m", shards(9_950), NEXT)
    server.fault(Fault("GET /ok/m/resolve/.*config", times=9, status=500))
    assert remote.look(hub, "ok/m", keep=tmp_path / "shapes").commit == SHA


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b"[" * 100_000])
def test_a_config_that_is_none_is_told(hub: Hub, server: fake_hub.Hub, content: bytes) -> None:
    server.publish("ok/m", {**shards(9_950), "config.json": content})
    with pytest.raises(ShapeUnknown):
        remote.look(hub, "ok/m")


def test_a_file_that_is_not_safetensors_counts_by_its_size(hub: Hub, server: fake_hub.Hub) -> None:
    files = {"config.json": json.dumps(shapes.SMOLLM2).encode(), "tokenizer.json": b"{}"}
    server.publish("ok/m", {**files, "model.safetensors": bytes(5_000)})
    assert remote.look(hub, "ok/m").shape.weights == 5_000
