"""models/fetch.py and models/snapshots.py, against a Hub of our own. A few tests go through a child process, as `serve`
does: the library reads its settings when it is imported."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import fake_hub
from aicockpit.errors import ModelError
from aicockpit.models import fetch, files
from aicockpit.models.hub import Hub, Unreachable
from aicockpit.models.locate import ModelFiles, check, check_apart, resolve, resolve_apart
from aicockpit.models.records import Records
from aicockpit.models.snapshots import WrongContent, cached, newest_complete
from aicockpit.settings import Settings, load
from fake_hub import CONFIG, FILES, SHA, WEIGHTS, Fault
from hub_rig import Told, environment, hub, offline, pull, requests_for, server

__all__ = ["environment", "hub", "server"]
NEXT = "b" * 40
NEW_WEIGHTS = WEIGHTS[::-1]


def settings(tmp_path: Path, token: str = "") -> Settings:
    return load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "HF_TOKEN": token})


async def get(model: str, tmp_path: Path, told: Told | None = None, token: str = "") -> ModelFiles:
    return await resolve_apart(model, settings(tmp_path, token), told or Told())


def update(server: fake_hub.Hub, commit: str = NEXT) -> None:
    """The model's `main` moves on: other weights, the same small files."""
    server.publish("ok/m", dict(FILES), SHA, "old")
    server.publish("ok/m", {**FILES, "model.safetensors": NEW_WEIGHTS}, commit)


async def test_a_download_brings_what_vllm_reads_and_no_more(environment: fake_hub.Hub, tmp_path: Path) -> None:
    told = Told()
    found = await get("ok/m", tmp_path, told)
    assert (found.source, found.served_name, found.revision) == ("hub", "ok/m", SHA)
    assert {path.name for path in found.path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    total = len(WEIGHTS) + len(CONFIG) + 2
    assert told.lines[-1] == ("downloading", total, total)


async def test_a_second_look_finds_the_cache_and_asks_nobody(environment: fake_hub.Hub, tmp_path: Path) -> None:
    first = await get("ok/m", tmp_path)
    environment.requests.clear()
    again = await get("ok/m", tmp_path)
    assert (again.source, again.path) == ("cache", first.path)
    assert environment.requests == []


def test_hit_and_miss_are_logged(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from aicockpit.models.locate import _log

    caplog.set_level("INFO", "aicockpit")
    for _ in range(2):
        _log("ok/m", resolve("ok/m", settings(tmp_path), hub=hub), 1.0)
    assert "model ok/m: cache miss, fetched from the Hub, revision aaaaaaaa" in caplog.messages[0]
    assert "model ok/m: cache hit, revision aaaaaaaa" in caplog.messages[1]


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["gone", "link to nothing", "cut short"])
def test_a_damaged_snapshot_does_not_count_and_is_mended(hub: Hub, server: fake_hub.Hub, lost: str, how: str) -> None:
    path = pull(hub) / lost
    if how == "gone":
        path.unlink()
    elif how == "link to nothing":
        path.resolve().unlink()
    else:
        path.resolve().write_bytes(b"")
    have = cached(hub, "ok/m")
    assert have is not None
    assert have.lack == f"1 of 3 files (such as {lost})"
    assert (pull(hub) / lost).read_bytes() == FILES[lost]
    assert cached(hub, "ok/m") == replace(have, lack="")


def test_another_program_s_download_counts_when_its_files_are_there(hub: Hub) -> None:
    folder = hub.storage("o/m") / "snapshots" / SHA
    folder.mkdir(parents=True)
    (hub.storage("o/m") / "refs").mkdir()
    (hub.storage("o/m") / "refs" / "main").write_text(SHA)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(FILES[name])
    assert cached(hub, "o/m").lack == "a tokenizer"  # type: ignore[union-attr]
    (folder / "tokenizer.json").touch()
    assert cached(hub, "o/m").lack == ""  # type: ignore[union-attr]


def test_a_download_that_ended_before_its_hashes_were_looked_at_is_looked_at_next_time(
    hub: Hub, server: fake_hub.Hub
) -> None:
    folder = pull(hub)
    records = Records(hub.storage("ok/m"))
    intent = records.intent(SHA)
    assert intent is not None
    records.intend(SHA, intent.files, done=False)
    (folder / "model.safetensors").resolve().write_bytes(bytes(len(WEIGHTS)))
    assert fetch.need(hub, "ok/m") == 0  # a quick check reads nothing
    have = cached(offline(hub), "ok/m", progress=Told())
    assert have is not None
    assert have.lack == "1 of 3 files (such as model.safetensors)"
    assert not (folder / "model.safetensors").is_symlink()
    assert (pull(hub) / "model.safetensors").read_bytes() == WEIGHTS
    assert records.intent(SHA).done  # type: ignore[union-attr]


def test_hashes_are_looked_at_once(hub: Hub) -> None:
    folder = pull(hub)
    with (folder / "model.safetensors").resolve().open("r+b") as file:
        file.write(b"x")  # the same length: only a hash would tell
    assert cached(hub, "ok/m").lack == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("revision", ["old", SHA, SHA[:9]])
def test_a_pinned_revision_is_the_one_served(hub: Hub, server: fake_hub.Hub, tmp_path: Path, revision: str) -> None:
    update(server)
    server.publish("ok/m", dict(FILES), SHA, SHA[:9])
    pull(hub)
    found = resolve(f"ok/m@{revision}", settings(tmp_path), hub=hub)
    assert (found.served_name, found.revision, found.source) == ("ok/m", SHA, "hub")
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    server.requests.clear()
    assert resolve(f"ok/m@{revision}", settings(tmp_path), hub=offline(hub)) == replace(found, source="cache")
    assert resolve("ok/m", settings(tmp_path), hub=hub).revision == NEXT
    assert server.requests == []


def test_a_revision_that_is_not_there_is_told(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"ok/m has no revision 'v9' on http.*branch, tag or commit"):
        pull(hub, revision="v9")


def test_an_update_that_is_cut_leaves_the_revision_before_it(hub: Hub, server: fake_hub.Hub, tmp_path: Path) -> None:
    first = pull(hub)
    update(server)
    server.fault(Fault("GET /cdn", -1, cut=1_000_000))
    server.fault(Fault("GET /ok/m/resolve", -1, status=404))
    with pytest.raises(ModelError):
        pull(hub)
    assert resolve("ok/m", settings(tmp_path), hub=hub).path == first
    server.heal()
    assert pull(hub).name == NEXT
    assert resolve("ok/m", settings(tmp_path), hub=hub).revision == NEXT


def test_without_a_network_the_last_complete_revision_is_used_and_said(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path
) -> None:
    first = pull(hub)
    (hub.storage("ok/m") / "refs" / "main").write_text(NEXT)  # another program began an update
    for there, why in ((replace(hub, endpoint="http://127.0.0.1:9"), "9 cannot be reached"), (offline(hub), "OFFLINE")):
        found = resolve("ok/m", settings(tmp_path), hub=there)
        assert (found.path, found.source) == (first, "cache")
        assert why in found.note
        assert "using the last complete revision in the cache, aaaaaaaa" in found.note
        check(["ok/m"], settings(tmp_path), hub=there)
        with pytest.raises(Unreachable):
            resolve("ok/m@v2", settings(tmp_path), hub=there)
    assert newest_complete(hub, "o/none") is None


def test_a_complete_revision_is_not_fetched_again(hub: Hub, server: fake_hub.Hub) -> None:
    pull(hub)
    server.requests.clear()
    pull(hub)
    assert [path for _, path, _ in server.requests] == ["/api/models/ok/m"]


def test_a_blob_that_two_revisions_share_is_fetched_once(hub: Hub, server: fake_hub.Hub) -> None:
    pull(hub)
    server.publish("ok/m", {**FILES, "config.json": b'{"a": 1}'}, NEXT)
    sent = server.sent
    assert pull(hub).name == NEXT
    assert server.sent - sent < 100


def test_a_cache_that_may_not_be_written_still_serves(hub: Hub, tmp_path: Path) -> None:
    folder = pull(hub)
    storage = hub.storage("ok/m")
    (storage / ".aicockpit").rename(tmp_path / "gone")
    (storage / ".aicockpit").touch()  # root may write anywhere: a file stands in the way of our notes instead
    assert resolve("ok/m", settings(tmp_path), hub=hub).path == folder


@pytest.mark.parametrize(
    ("model", "token", "message"),
    [
        (
            "gated/m",
            "",
            r"gated/m is gated. Accept its licence at http://127.0.0.1:\d+/gated/m, make a token at .*HF_TO",
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
            r"There is no model gone/m. Looked in the cache .* and on http.*Check the spelling.*HF_TOKEN",
        ),
        ("busy/m", "", r"answered 500 for busy/m. Try again later"),
        ("login/m", "", r"answers, but not as a Hugging Face Hub does: a log-in page"),
        ("ggufs/m", "", r"holds GGUF weights only. GGUF is no longer a vLLM format"),
        ("huge/m", "", r"The disk is too full: huge/m needs 3000000.0 GB more, .*HF_HOME"),
        ("a/b/c", "", r"^'a/b/c' is neither a folder nor a Hugging Face id"),
    ],
)
@pytest.mark.parametrize("through", ["check", "resolve"])
def test_failures_say_what_to_do(
    hub: Hub, server: fake_hub.Hub, tmp_path: Path, model: str, token: str, message: str, through: str
) -> None:

    there = replace(hub, token=token)
    calls: dict[str, Callable[[], object]] = {
        "check": lambda: check([model], settings(tmp_path), there),
        "resolve": lambda: resolve(model, settings(tmp_path), hub=there),
    }
    with pytest.raises(ModelError, match=message) as caught:
        calls[through]()
    assert token not in str(caught.value) or not token
    assert server.sent == 0


def test_what_vllm_cannot_serve_is_told_before_it_is_fetched(hub: Hub, server: fake_hub.Hub) -> None:
    server.publish("ok/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS})
    server.publish("ok/data", {"config.json": b"{}", "train.parquet": WEIGHTS})
    for name, lack in (("lora", "config.json"), ("data", "weight files")):
        with pytest.raises(ModelError, match=f"ok/{name} on http.* lacks {lack}.*vLLM cannot serve it"):
            pull(hub, f"ok/{name}")
    assert server.sent == 0


async def test_a_fleet_is_checked_before_any_of_it_is_fetched(environment: fake_hub.Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        await check_apart(["ok/m", "gated/m", "gone/x", str(tmp_path / "no-folder")], settings(tmp_path))
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["gated/m", "There", "The"]
    assert environment.sent == 0
    await check_apart(["ok/m", "ok/n@main"], settings(tmp_path))
    assert environment.sent == 0


def test_a_fleet_s_space_is_added_up(hub: Hub, tmp_path: Path) -> None:

    with pytest.raises(ModelError, match=r"this fleet needs 6000000.0 GB more"):
        check(["huge/m", "huge/n"], settings(tmp_path), hub)
    assert fetch.need(hub, "ok/m") > 0
    fetch.check("ok/m", hub=hub)
    pull(hub)
    assert fetch.need(offline(hub), "ok/m") == 0


def test_an_unreachable_hub_fails_fast(hub: Hub, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"not complete in the cache .*http://127.0.0.1:9 failed.*local folder"):
        resolve("ok/m", settings(tmp_path), hub=replace(hub, endpoint="http://127.0.0.1:9"))
    assert time.monotonic() - started < 8


async def test_offline_mode_is_told_and_the_cache_is_used(
    environment: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await get("ok/m", tmp_path)
    environment.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (await get("ok/m", tmp_path)).source == "cache"
    with pytest.raises(ModelError, match=r"ok/n is not in the cache .* and HF_HUB_OFFLINE is set"):
        await get("ok/n", tmp_path)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        await check_apart(["ok/n"], settings(tmp_path))
    assert environment.requests == []


async def test_the_token_of_hf_auth_login_is_used(environment: fake_hub.Hub, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_stored")
    await check_apart(["ok/m"], settings(tmp_path))
    assert {token for _, _, token in environment.requests} == {"Bearer hf_stored"}
    environment.requests.clear()
    await check_apart(["ok/m"], settings(tmp_path, "hf_own"))
    assert {token for _, _, token in environment.requests} == {"Bearer hf_own"}


async def test_cancelling_ends_the_child(environment: fake_hub.Hub, tmp_path: Path) -> None:
    environment.fault(Fault("GET /cdn", -1, pause=30))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get("ok/m", tmp_path), 2)
    assert time.monotonic() - started < 15


def test_a_disk_that_fills_up_is_told(environment: fake_hub.Hub, tmp_path: Path) -> None:
    """A real one of 2 MB, where a mount of one's own may be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2m tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no mounts for this user")
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from aicockpit.models import fetch; from aicockpit.models.hub import Hub\n"
        f"hub = replace(Hub.of_environment(), cache=Path({str(disk)!r}))\n"
        "fetch.download(hub, 'ok/m', free=lambda folder: 10**12)"
    )
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "The disk is too full: writing ok/m failed" in done.stderr
    assert requests_for(environment, "GET /cdn") == 1


def test_wrong_content_says_so_through_a_resolve(hub: Hub, server: fake_hub.Hub, tmp_path: Path) -> None:
    server.fault(Fault("GET /cdn", -1, wrong=True))
    with pytest.raises(WrongContent):
        resolve("ok/m", settings(tmp_path), hub=hub)


def test_one_format_of_weights_is_chosen() -> None:
    assert files.wanted(["a.safetensors", "consolidated.safetensors", "pytorch_model.bin"]) == ["a.safetensors"]
    assert files.wanted(["consolidated.safetensors", "params.json"]) == ["params.json", "consolidated.safetensors"]
    assert files.wanted(["pytorch_model.bin", "training_args.bin"]) == ["pytorch_model.bin"]
    assert files.wanted(["1_Pooling/config.json", "original/params.json", "x/a.safetensors"]) == [
        "1_Pooling/config.json"
    ]


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert files.lacking(tmp_path) == "weight files (*.safetensors)"
    (tmp_path / "model-00001-of-00003.safetensors").touch()
    assert files.lacking(tmp_path) == "2 of 3 weight files (such as model-00002-of-00003.safetensors)"
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "x.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert files.lacking(tmp_path) == "1 of 2 weight files (such as x.safetensors)"
    (tmp_path / "x.safetensors").touch()
    assert files.lacking(tmp_path) == ""
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        files.lacking(tmp_path)


def test_the_pace_and_what_is_left() -> None:
    assert fetch._pace([(0.0, 0), (2.0, 200_000_000)], 30_000_000_000, "") == "downloading at 100 MB/s, 5 min left:"
    assert fetch._pace([(0.0, 0), (2.0, 200_000_000)], 1_200_000_000, "x") == "downloading at 100 MB/s, 10 s left:"
    assert fetch._pace([(0.0, 5), (9.0, 5)], 10, "the Hub answered 503") == "downloading (the Hub answered 503):"
    assert fetch._pace([(0.0, 5)], 10, "") == "downloading"
