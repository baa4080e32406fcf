"""The docs are true: tables are those of the code, every route, metric and command is named, every block runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

import generated
from aicockpit import settings
from aicockpit.commands import fit, fit_tiers
from aicockpit.documents.library import Library
from aicockpit.gateway import admin, documents, folders, workspaces
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.metrics import EngineCollector, Metrics
from aicockpit.gateway.parity import Parity
from aicockpit.gateway.records import Records
from aicockpit.gateway.warm_metrics import WarmCollector
from aicockpit.workspace import budget
from aicockpit.workspace.store import Store
from aicockpit.workspace.track import EpochLimits
from real import ROOT, Server
from serving import environ, serving, supervised
from tiny_tokenizers import FAMILIES, byte_level

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "vscode-extension" / "README.md"]
# Blocks that tests elsewhere run as they stand: (what the block holds, the file and test that runs it).
ELSEWHERE = {
    "make start-dev": ("test_make.py", "test_start_dev_from_nothing_to_ctrl_c"),
    "make test": ("../.ci/run", "make test"),
    "make status": ("test_make.py", "test_looking_after_it"),
}
# What the reader does once; all other blocks stand behind it.
ONCE = next(text for _, text in BLOCKS if text.startswith("export PATH="))


def test_the_readme_s_settings_table_is_the_table() -> None:
    made = f"<!-- settings:begin -->\n{settings.table()}\n<!-- settings:end -->"
    generated.holds(ROOT / "README.md", made, "tests/test_docs.py")


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


def test_the_page_on_workspaces_has_the_packs_and_the_formula_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "workspaces.md"
    generated.holds(page, fit_tiers.packs(), "tests/test_docs.py -k packs")
    before = page.read_text().partition(fit_tiers.PACKS_BEGIN)[0]
    assert fit.main(["--packs"]) == 0
    assert capsys.readouterr().out.strip() == fit_tiers.packs()
    files = f"{budget.FOCUSES_COUNTED} x skeletons + {budget.SNIPPETS_COUNTED} x snippets"
    assert f"cost  = {budget.EPOCHS_AT_ONCE} x (pack + journal) + {files}" in before
    assert f"share = cache / {1 / budget.KV_SHARE:g} / workspaces / kinds" in before
    assert (budget.HEAD_SHARE, EpochLimits().shared_s) == (0.5, 4 * 3600)  # "at most half", "the last four hours"


def test_a_pack_of_the_table_is_cut_by_the_formula_beside_it() -> None:
    card = next(case for case in fit_tiers.cases() if "14B" in case.model)
    for count in fit_tiers.WORKSPACES:
        share = card.held / 2 / count / 2
        for made in fit_tiers.built(card.model, card.held, card.window, count).values():
            assert made.pack > 0
            assert share * 0.98 < made.cost <= share


def test_every_library_is_told_with_its_reason() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    manifest = json.loads((ROOT / "vscode-extension" / "package.json").read_text())
    theirs = [name for name in manifest["devDependencies"] if not name.startswith("@types/")]
    for requirement in ours:
        name = re.split(r"[<>=;\[]", requirement)[0]
        assert name.startswith(("types-", "tree-sitter-")) or name in page, name
    for name in theirs:
        word = name.removeprefix("@vscode/").removeprefix("@biomejs/").partition("/")[0].removeprefix("@")
        assert word in page, name


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], target


def test_the_extension_s_page_names_its_keys_its_file_and_the_editor_s_version() -> None:
    page = (ROOT / "vscode-extension" / "README.md").read_text()
    manifest = json.loads((ROOT / "vscode-extension" / "package.json").read_text())
    assert f"VS Code {manifest['engines']['vscode'].removeprefix('^').removesuffix('.0')} or newer" in page
    assert "vscode-extension/aicockpit.vsix" in page
    assert manifest["scripts"]["package"].endswith("-o aicockpit.vsix")
    keys = page.partition("## Keys")[2].partition("```json")[0]
    for bound in manifest["contributes"]["keybindings"]:
        name = "+".join(part.capitalize() for part in bound["key"].split("+"))
        assert name in keys, bound
    removed = json.loads(page.partition("```json")[2].partition("```")[0])
    there = {(one["key"], f"-{one['command']}") for one in manifest["contributes"]["keybindings"]}
    assert {(one["key"], one["command"]) for one in removed} <= there


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=[text.strip().splitlines()[0][:40] for _, text in BLOCKS])
def test_every_block_is_run_by_a_test(kind: str, text: str) -> None:
    first = text.strip().splitlines()[0]
    if first in ELSEWHERE:
        file, name = ELSEWHERE[first]
        assert name in (Path(__file__).parent / file).read_text()
    else:
        assert kind == "python" or text == ONCE or text.startswith((".venv/bin/aicockpit", "aicockpit", "curl"))


def test_the_reader_s_shell_blocks_run_with_any_engine(tmp_path: Path) -> None:
    """In the order of the page, by a reader who has done nothing but start the server: any model, any key."""
    model = supervised(tmp_path)
    (tmp_path / "tiny" / "tokenizer.json").write_bytes(byte_level(FAMILIES["plain-files"]))
    with serving(tmp_path, **model) as server:
        server.until_ready()
        for number, (_, text) in enumerate(block for block in BLOCKS if block[1].startswith(("export", "curl"))):
            done = run_block("bash", text, server.port, tmp_path / "state", tmp_path / str(number))
            assert done.returncode == 0, done.stdout + done.stderr
            assert text == ONCE or json.loads(done.stdout)["choices"], done.stdout


@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "text"), [block for block in BLOCKS if block[1].strip().splitlines()[0] not in ELSEWHERE]
)
def test_blocks_run_as_they_stand(kind: str, text: str, server: Server, tmp_path: Path) -> None:
    done = run_block(kind, text, server.port, server.state, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if "@my-repo" in text:
        assert json.loads(done.stdout)["choices"]
    if "capital of France" in text:
        assert "Paris" in done.stdout


def run_block(kind: str, text: str, port: int, state: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A block of the README, behind what its reader does once, beside an installation in `folder`."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("aicockpit", "python"):
        (folder / ".venv" / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
    # As `aicockpit watch` on the server's machine makes it: the server's own, for every key.
    env = environ(folder, AICOCKPIT_STATE_DIR=str(state))
    transport = httpx.HTTPTransport(uds=str(settings.load(environ=env).run_dir / "gateway.sock"))
    with httpx.Client(transport=transport, base_url="http://server", timeout=30) as client:
        client.put("/api/workspaces/my-repo").raise_for_status()
    text, once = (one.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for one in (text, ONCE))
    then = 'exec "$0" -c "$1"' if kind == "python" else "" if text == once else text
    command = ["bash", "-euc", f"{once}\n{then}", sys.executable, text]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
