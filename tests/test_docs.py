"""The docs are true: the settings table is the table, every route, metric and command is named, every block runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aicockpit import settings
from aicockpit.documents.library import Library
from aicockpit.gateway import admin, documents, folders, workspaces
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.metrics import EngineCollector, Metrics
from aicockpit.gateway.parity import Parity
from aicockpit.gateway.records import Records
from aicockpit.gateway.warm_metrics import WarmCollector
from aicockpit.workspace.store import Store
from real import KEY, ROOT, Server

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# Blocks that tests elsewhere run as they stand: (what the block holds, the file and test that runs it).
ELSEWHERE = {
    "make start-dev": ("test_make.py", "test_start_dev_from_nothing_to_ctrl_c"),
    "make test": ("../.ci/run", "make test"),
    "make status": ("test_make.py", "test_looking_after_it"),
}


def test_the_readme_s_settings_table_is_the_table() -> None:
    begin, end = "<!-- settings:begin -->\n", "<!-- settings:end -->"
    before, _, rest = README.partition(begin)
    shown, _, after = rest.partition(end)
    if os.environ.get("AICOCKPIT_TEST_UPDATE_DOCS"):
        (ROOT / "README.md").write_text(before + begin + settings.table() + "\n" + end + after)
        return
    assert shown == settings.table() + "\n", (
        "run: AICOCKPIT_TEST_UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_docs.py"
    )


def test_every_route_of_ours_and_every_metric_is_documented(tmp_path: Path) -> None:
    docs = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    metrics = Metrics()
    collector = EngineCollector([], lambda: [])

    class None_:
        engines: list[object] = []  # noqa: RUF012
        preparing = ""

    app = admin.build(None_(), Directory([], {}), metrics, collector, Records(), lambda: None)  # type: ignore[arg-type]
    store = Store(tmp_path)
    workspaces.add(app, store, workspaces.Cold())
    folders.add(app, store, folders.Folders(tmp_path))
    documents.add(app, Library(tmp_path / "documents.sqlite"))
    store.close()
    Parity(metrics.registry)
    metrics.registry.register(WarmCollector(lambda: []))
    for path in app.openapi()["paths"]:
        shown = path.replace("{name}", "NAME").replace("{request_id}", "ID").replace("{id}", "ID")
        assert shown in docs.replace("…", "/api/engines/NAME"), path
    for family in metrics.registry.collect():
        assert family.name in docs, family.name


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=[text.strip().splitlines()[0][:40] for _, text in BLOCKS])
def test_every_block_is_run_by_a_test(kind: str, text: str) -> None:
    first = text.strip().splitlines()[0]
    if first in ELSEWHERE:
        file, name = ELSEWHERE[first]
        assert name in (Path(__file__).parent / file).read_text()
    else:
        assert kind == "python" or text.startswith((".venv/bin/aicockpit", "curl"))


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "text"), [block for block in BLOCKS if block[1].strip().splitlines()[0] not in ELSEWHERE]
)
def test_blocks_run_as_they_stand(kind: str, text: str, server: Server, tmp_path: Path) -> None:
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "aicockpit").symlink_to(Path(sys.executable).with_name("aicockpit"))
    env = {**os.environ, "AICOCKPIT_API_KEY": KEY, "AICOCKPIT_STATE_DIR": str(server.state)}
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    with server.client() as client:
        client.put("/api/workspaces/my-repo").raise_for_status()
    command = ["bash", "-euc", text] if kind == "bash" else [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "@my-repo" in text:
        assert json.loads(done.stdout)["choices"]
    if "capital of France" in text:
        assert "Paris" in done.stdout
