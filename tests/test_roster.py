"""A fleet that changes while it serves: reload, adapters, models that come and go; the whole command, fake engines."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import Serving, environ, serving, supervised
from test_cli import run

pytestmark = pytest.mark.timeout(120)


class Site:
    """A running server with a fleet file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "fleet.yaml"
        self.environ = supervised(folder)
        self.model = self.environ.pop("MODEL_NAME")
        self.environ["AICOCKPIT_FLEET"] = str(self.file)
        self.server: Serving

    def write(self, *models: dict[str, Any], **top: Any) -> None:
        made = [{"model": self.model, "gpus": 0, "aliases": [], **one} for one in models]
        self.file.write_text(json.dumps({"models": made, **top}))

    def reload(self) -> httpx.Response:
        return self.server.post("/api/reload")

    def engines(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.server.get("/api/engines").json()["engines"]}

    def names(self) -> set[str]:
        return {card["id"] for card in self.server.get("/v1/models").json()["data"]}

    def ask(self, model: str) -> httpx.Response:
        return self.server.post("/v1/completions", model=model, prompt="x", max_tokens=2)

    def until(self, name: str, state: str) -> None:
        end = time.monotonic() + 30
        while (found := self.engines().get(name, {}).get("state")) != state:
            assert time.monotonic() < end, f"{name} is {found}: {self.server.log.read_text()}"
            time.sleep(0.05)

    def until_again(self, name: str, pid: int) -> None:
        """Ready in another process than `pid`: what lies between may pass unseen."""
        end = time.monotonic() + 60
        while (one := self.engines()[name])["state"] != "ready" or one["pid"] == pid:
            assert time.monotonic() < end, f"{one}: {self.server.log.read_text()}"
            time.sleep(0.05)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.write({"name": "a"}, {"name": "b"})
    with serving(tmp_path, AICOCKPIT_MIN_RESIDENT="0", **made.environ) as server:
        made.server = server
        server.until_ready()
        for name in ("a-0", "b-0"):
            made.until(name, "ready")
        yield made


def test_a_reload_touches_only_what_changed(site: Site) -> None:
    before = site.engines()
    site.write({"name": "a"}, {"name": "b", "args": ["--max-num-seqs", "3"]}, {"name": "c", "aliases": ["gpt-4o"]})
    changes = site.reload()
    assert changes.json() == {"started": ["c-0"], "restarted": ["b-0"], "stopped": [], "kept": ["a-0"]}
    for name in ("a", "b", "c"):
        site.until(f"{name}-0", "ready")
        assert site.ask(name).status_code == 200
    after = site.engines()
    assert after["a-0"]["pid"] == before["a-0"]["pid"]
    assert after["b-0"]["pid"] != before["b-0"]["pid"]
    assert site.ask("gpt-4o").status_code == 200
    site.write({"name": "a"})
    assert site.reload().json()["stopped"] == ["b-0", "c-0"]
    assert site.names() == {"a"}
    assert site.ask("b").status_code == 404


def test_a_mistake_in_the_file_changes_nothing_and_says_where(site: Site) -> None:
    before = site.engines()
    for text, words in (
        ("models: [{model: x, replica: 2}]", "unknown key"),
        ("models: [", "not valid YAML"),
        (json.dumps({"models": [{"model": str(site.folder / "gone"), "name": "a"}]}), "does not exist"),
    ):
        site.file.write_text(text)
        answer = site.reload()
        assert answer.status_code == 400, answer.text
        assert words in answer.json()["error"]["message"]
    assert site.engines() == before
    assert site.ask("a").status_code == 200


def test_sighup_and_the_command_do_the_same(site: Site, tmp_path: Path) -> None:
    site.write({"name": "a"})
    os.kill(site.server.process.pid, signal.SIGHUP)
    end = time.monotonic() + 30
    while site.names() != {"a"}:
        assert time.monotonic() < end
        time.sleep(0.05)
    site.write({"name": "a"}, {"name": "d"})
    done = run(tmp_path, "reload", **site.environ)
    assert done.stdout.splitlines() == ["started: d-0", "kept: a-0"], done
    site.file.write_text("models: 3")
    done = run(tmp_path, "reload", **site.environ)
    assert (done.returncode, "models" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_a_plain_key_may_not_change_the_fleet(site: Site, tmp_path: Path) -> None:
    key = run(tmp_path, "keys", "create", "laptop").stdout.strip()
    base, headers = f"http://127.0.0.1:{site.server.port}", {"authorization": f"Bearer {key}"}
    for path in ("/api/reload", "/api/models/a/adapters"):
        answer = httpx.post(base + path, headers=headers, json={"name": "x", "path": "/x"})
        assert answer.status_code == 403, answer.text


def test_external_engines_of_the_file_come_and_go(site: Site, tmp_path: Path) -> None:
    from fake_client import start_fake

    with start_fake(tmp_path, names=("far",)) as fake:
        site.write({"name": "a"}, engines=[{"url": f"unix:{fake.uds}", "aliases": {"embed": "far"}}])
        assert site.reload().status_code == 200
        site.until("external-1", "ready")
        assert site.ask("embed").status_code == 200
        site.write({"name": "a"})
        assert site.reload().status_code == 200
        assert site.names() == {"a"}


def test_models_that_take_turns_in_little_memory(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.write({"name": "a", "pin": False}, {"name": "b", "pin": False}, memory="4GiB")
    with serving(tmp_path, AICOCKPIT_MIN_RESIDENT="0", **made.environ) as server:
        made.server = server
        server.until_ready()
        made.until("a-0", "ready")
        assert made.engines()["b-0"]["state"] == "stopped"
        assert [made.ask(name).status_code for name in "baab"] == [200] * 4
        assert made.engines()["a-0"]["state"] == "stopped"


def test_adapters_come_and_go_and_outlive_a_restart_of_the_engine(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.write({"name": "a", "replicas": 2, "lora": {}}, {"name": "b"})
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with serving(tmp_path, **made.environ) as server:
        made.server = server
        server.until_ready()
        for name in ("a-0", "a-1", "b-0"):
            made.until(name, "ready")
        added = server.post("/api/models/a/adapters", name="ours", path=str(folder))
        assert added.status_code == 201, added.text
        assert added.json()["adapters"] == [{"name": "ours", "path": str(folder), "engines": ["a-0", "a-1"]}]
        assert made.names() == {"a", "b", "ours"}
        assert made.ask("ours").json()["model"] == "ours"
        before = made.engines()["a-0"]["pid"]
        assert server.post("/api/engines/a-0/restart").status_code == 202
        made.until_again("a-0", before)
        assert "ours" in made.engines()["a-0"]["models"]
        for path, name, words in (
            (folder, "ours", "served already"),
            (tmp_path / "gone", "x", "no adapter_config.json"),
            (Path("relative"), "x", "must be absolute"),
        ):
            answer = server.post("/api/models/a/adapters", name=name, path=str(path))
            assert (answer.status_code, words in answer.text) == (400, True), answer.text
        assert "without adapters" in server.post("/api/models/b/adapters", name="x", path=str(folder)).text
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "adapter_config.json").write_text("{}")
        assert "No adapter found" in server.post("/api/models/a/adapters", name="x", path=str(broken)).text
        base, headers = f"http://127.0.0.1:{server.port}", {"authorization": "Bearer k"}
        gone = httpx.delete(f"{base}/api/models/a/adapters/ours", headers=headers)
        assert gone.status_code == 204, gone.text
        assert made.names() == {"a", "b"}
        assert httpx.delete(f"{base}/api/models/a/adapters/ours", headers=headers).status_code == 404


def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.write({"name": "a"}, {"name": "b"}, memory="3GiB")
    done = run(tmp_path, "serve", **environ(tmp_path, **made.environ))
    assert done.returncode == 2
    assert "GiB for a-0 + " in done.stderr
    assert "3.0 GiB may be used" in done.stderr
