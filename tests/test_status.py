"""`aicockpit status --workspace`: what the API tells of a workspace, for people, and the page's sample of it."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aicockpit import console
from aicockpit.gateway import workspaces
from aicockpit.workspace import builds
from aicockpit.workspace.census import Census
from aicockpit.workspace.manifest import File
from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.store import Info
from aicockpit.workspace.track import EpochLimits
from epoch_rig import MODEL, Given, Rig
from fake_client import start_fake
from real import ROOT
from serving import Serving, serving
from test_cli import run
from tiny_tokenizers import FAMILIES, byte_level

PAGE = ROOT / "docs" / "workspaces.md"
BEGIN, END = "<!-- status:begin -->", "<!-- status:end -->"
SHOP = {
    "shop/price.py": '"""Prices in cents."""\n\n\ndef total(prices: list[int], vat: float) -> int:\n'
    '    """The sum with VAT."""\n    return round(sum(prices) * (1 + vat))\n',
    "shop/cart.py": '"""What a customer is about to buy."""\n\nfrom shop.price import total\n\n\nclass Cart:\n'
    "    def __init__(self) -> None:\n        self.lines: list[int] = []\n\n"
    "    def add(self, price: int, count: int) -> None:\n        self.lines += [price] * count\n\n"
    "    def sum(self) -> int:\n        return total(self.lines, 0.2)\n",
    "shop/order.py": '"""An order is a cart that is paid."""\n\nfrom shop.cart import Cart\n'
    "from shop.price import total\n\n\ndef pay(cart: Cart, card: str) -> bool:\n"
    "    return cart.sum() > 0 and total(cart.lines, 0.0) > 0\n",
    "README.md": "# Shop\n\nA small shop: carts, prices, orders.\n",
    "goods.json": "[" + "1," * 300_000 + "1]",
}


@contextlib.contextmanager
def shop(folder: Path) -> Iterator[Serving]:
    """A server that indexes a small tree, in front of a stub engine."""
    for name, text in SHOP.items():
        path = folder / "my-repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "model").mkdir()
    (folder / "model" / "tokenizer.json").write_bytes(byte_level(FAMILIES["qwen"]))
    flags = ("--block-size", "16", "--enable-prompt-tokens-details")
    with start_fake(folder, *flags, names=("stub",)) as fake:
        extra = {
            "AICOCKPIT_ENGINE_URLS": f"unix:{fake.uds}" if fake.uds else fake.url,
            "AICOCKPIT_TOKENIZERS": f"stub={folder / 'model'}",
            "AICOCKPIT_CONTEXT": "1500",
            "AICOCKPIT_CONTEXT_IDLE": "60",
            "AICOCKPIT_WORKSPACE": str(folder / "my-repo"),
        }
        with serving(folder, **extra) as server:
            server.until_ready()
            yield server


def lane_of(server: Serving) -> dict[str, Any]:
    space = server.get("/api/workspaces/my-repo").json()
    return dict(space["context"]["models"]["stub"]["lanes"]["completion"])


def until(server: Serving, true: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(KeyError, IndexError):
            if true():
                return
        assert time.monotonic() < end, server.log.read_text()[-3000:]
        time.sleep(0.05)


def settled(server: Serving) -> dict[str, Any]:
    """The lane once all is warm and nothing has moved for longer than a search for snippets waits."""
    seen: list[tuple[float, Any]] = []

    def rests() -> bool:
        lane = lane_of(server)
        now = (lane["focus"], lane["epoch"], lane["predicted_ttft_s"], lane["engines"]["external-1"]["resident_tokens"])
        if not seen or seen[-1][1] != now:
            seen.append((time.monotonic(), now))
        warm = lane["state"] == "warm" and lane["focus"][0]["warm_on"] and lane["focus"][0]["snippets"]
        return bool(warm) and lane["predicted_ttft_s"] is not None and time.monotonic() > seen[-1][0] + 2

    until(server, rests)
    return lane_of(server)


def timeless(text: str) -> str:
    """Without what another run or release has otherwise: seconds, ids, likeness, what the last warming computed."""
    moving = r"\d+\.\d+ s|snippets of \d+|\d+% of the words|\b[0-9a-f]{32}\b|\d+ tokens computed, \d+ in memory"
    return re.sub(moving, "...", text)


@pytest.mark.timeout(180)
def test_one_workspace_is_told_whole_and_the_page_shows_it(tmp_path: Path) -> None:
    with shop(tmp_path) as server:
        until(server, lambda: lane_of(server)["state"] == "warm")
        (tmp_path / "my-repo" / "README.md").write_text(SHOP["README.md"].replace("A small", "The smallest"))
        until(server, lambda: lane_of(server)["last_save_to_warm_s"] is not None)
        server.post("/api/workspaces/my-repo/focus", path="shop/order.py", line=8)
        body = {"model": "stub@my-repo", "path": "shop/order.py", "prompt": SHOP["shop/order.py"], "max_tokens": 1}
        assert server.post("/v1/completions", **body).status_code == 200
        lane = settled(server)
        done = run(tmp_path, "status", "--workspace", "my-repo")
        missing = run(tmp_path, "status", "--workspace", "my-rep")
        assert (run(tmp_path, "status").returncode, done.returncode, done.stderr) == (0, 0, "")
        log = server.log.read_text()
    first, _, chat = done.stdout.partition("\n\nstub, chat: ")
    assert lane["epoch"]["id"] in first
    assert f"pack of {lane['epoch']['tokens']} tokens, 4 files; journal of {lane['epoch']['journal_tokens']}" in first
    for file in lane["epoch"]["files"]:
        assert re.search(
            rf"^ +{file['tokens']}  {re.escape(file['path'])} +{file['kind']}: {file['why']}$", first, re.M
        )
    assert "external-1: warm, " in first
    assert "goods.json" not in first
    assert "left out: 1 file over 512 KiB" in first
    assert "open: shop/order.py, warm on external-1" in first
    assert "in the pack" in chat
    assert "open:" not in chat
    assert log.count("left out of its context: 1 file over 512 KiB") == 1
    assert missing.returncode == 1
    assert "no workspace 'my-rep'" in missing.stderr
    assert "It has: my-repo." in missing.stderr
    assert "aicockpit watch PATH --name my-rep" in missing.stderr
    holds(f"{BEGIN}\n```console\n$ aicockpit status --workspace my-repo\n{first.rstrip()}\n```\n{END}")


def holds(made: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    shown, _, after = rest.partition(END)
    if os.environ.get("AICOCKPIT_TEST_UPDATE_DOCS"):
        PAGE.write_text(before + made + after)
        return
    lines, wanted = timeless(made).splitlines(), timeless(BEGIN + shown + END).splitlines()
    differ = "\n".join(difflib.unified_diff(wanted, lines, lineterm="", n=0))
    assert not differ, f"{differ}\nAICOCKPIT_TEST_UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_status.py"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    worth = {"completion": Given(), "chat": Given(0, 0, 0, 0, "worth nothing")}
    made = Rig(tmp_path, limits=EpochLimits(idle_s=60.0, retry_s=0.05), worth=worth).start()
    yield made
    await made.close()


def told(rig: Rig) -> list[str]:
    info = rig.store.info(rig.workspace)
    assert isinstance(info, Info)
    return console.workspace_lines(workspaces._status(info, rig.contexts))


def line(lines: list[str], part: str) -> str:
    found = [one for one in lines if part in one]
    assert len(found) == 1, lines
    return found[0]


async def test_cold_warming_and_warm_are_told_with_what_is_resident(rig: Rig) -> None:
    rig.apply({f"{name}.py": "an api of forty letters, more or less ...\n" for name in "abcdefgh"})
    assert any("not in use since the server started" in one for one in told(rig))
    rig.builder.gate.clear()
    rig.head()
    await rig.until(lambda: any("building: the first; 0 of 8 files read" in one for one in told(rig)))
    assert line(told(rig), "e0:") == "  e0: cold, 0 tokens resident (0%); nothing is built yet"
    assert not [one for one in told(rig) if "in the pack" in one]
    rig.builder.gate.set()
    await rig.wanted()
    target = rig.engines["e0"].targets[0]
    rig.engines["e0"].states = {target.key: WarmState.WARMING}
    rig.engines["e0"].warm(tokens=len(target.tokens) * 2 // 5)
    assert re.search(r"e0: warming, \d+ tokens resident \(3\d%\)", line(told(rig), "e0:"))
    rig.engines["e0"].warm()
    lines = told(rig)
    assert f"e0: warm, {len(target.tokens)} tokens resident (100%)" in line(lines, "e0:")
    assert line(lines, "coder, completion: ").endswith("warm")
    assert line(lines, "coder, chat: ") == "coder, chat: off: worth nothing"
    assert "not known before a request came" in line(lines, "time to first token")
    assert len([one for one in lines if one.endswith("skeleton: it fits")]) == 8
    assert line(lines, "budget in tokens").endswith("pack 4,000, journal 400, skeletons 200, snippets 0; given")


async def test_an_open_file_a_save_and_no_engine_are_told(rig: Rig) -> None:
    await rig.in_service()
    rig.engines["e0"].auto = True
    await rig.contexts.focus(rig.workspace, "a.py", None, None)
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: any(re.search("last save: warm after .* s$", one) for one in told(rig)))
    await rig.until(lambda: any("open: a.py, warm on e0" in one for one in told(rig)))
    lines = told(rig)
    said = "<a.py= api of a.py\nanother body that is long enough to fill blocks>"
    assert lines[lines.index("  in the journal (tokens, file):") + 1].split() == [str(len(said)), "a.py"]
    assert any(one.split()[1:] == ["of", "a.py", "skeleton:", "test"] for one in lines)
    rig.engines.clear()
    rig.contexts.engines_changed()
    assert "  no engine serves it now" in told(rig)


async def test_a_name_cannot_speak_to_the_terminal(rig: Rig) -> None:
    await rig.write({"a\x1b[2Jé.py": "api"})
    await rig.in_service()
    lines = told(rig)
    assert any("a\\x1b[2Jé.py" in one for one in lines)
    assert not [one for one in lines if "\x1b" in one]


def test_a_name_of_several_keys_is_shown_for_each_and_none_says_that_there_is_none() -> None:
    space = {"name": "x", "files": 1, "bytes": 2048, "revision": 3, "context": {"models": {}, "reason": "not in use"}}
    spaces = [space | {"owner": "laptop"}, space | {"owner": "server"}, space | {"name": "y", "owner": "laptop"}]
    lines = console.workspace_shown(spaces, "x")
    assert [one for one in lines if one.startswith("workspace")] == [
        "workspace x, of the key laptop: 1 file, 2.0 KiB, revision 3",
        "workspace x, the server's own: 1 file, 2.0 KiB, revision 3",
    ]
    with pytest.raises(console.NoWorkspace, match=r"'z'\. It has: x, y\."):
        console.workspace_shown(spaces, "z")
    with pytest.raises(console.NoWorkspace, match="It has none"):
        console.workspace_shown([], "z")


def sized(*sizes: int) -> dict[str, File]:
    return {f"f{number}": File(f"f{number}", b"", size, 0) for number, size in enumerate(sizes)}


def test_what_is_over_a_limit_is_counted_once_for_each_change_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    census = Census("repo", max_file=2048, max_files=3)
    caplog.set_level(logging.INFO)
    census.tell(sized(1, 2, 2048))
    assert (census.shown(sized(1, 2, 2048))["reasons"], caplog.records) == ([], [])
    many = sized(1, 2, 3, 4, 4000)
    assert census.left(many) == builds.Left()  # not told that they changed
    census.changed()
    for _ in range(2):
        census.tell(many)
        census.changed()
    census.tell(sized(1, 2))
    census.tell(many)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "workspace repo" in record.message
    census.changed()
    shown = census.shown(many)
    assert {name: shown[name] for name in shown if name != "reasons"} == {
        "files": 2,
        "too_large": 1,
        "beyond_limit": 1,
        "max_bytes": 2048,
        "max_files": 3,
    }
    assert shown["reasons"][0].startswith("1 file beyond the 3 that pack, skeletons and snippets are made from")
    assert shown["reasons"][1] == "1 file over 2 KiB: never read, nor when saved"


def test_a_second_limit_is_logged_when_it_is_reached(caplog: pytest.LogCaptureFixture) -> None:
    census = Census("repo", max_file=100, max_files=1)
    caplog.set_level(logging.INFO)
    for files in (sized(101), sized(101, 1, 2), sized(101)):
        census.changed()
        census.tell(files)
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]


async def test_status_counts_what_packs_cannot_hold(rig: Rig) -> None:
    await rig.write({"a.py": "small", "big.json": "x" * (builds.MAX_FILE + 1)})
    await rig.in_service()
    left = rig.contexts.status(rig.workspace)["left_out"]
    assert (left["files"], left["too_large"], left["beyond_limit"]) == (1, 1, 0)
    assert (left["max_bytes"], left["max_files"]) == (512 * 1024, 20_000)
    await rig.write({"big.json": None})
    await rig.until(lambda: rig.contexts.status(rig.workspace)["left_out"]["files"] == 0)
    assert MODEL in rig.contexts.status(rig.workspace)["models"]


def test_the_pages_name_the_limits() -> None:
    page = (ROOT / "docs" / "indexing.md").read_text()
    assert f"{builds.MAX_FILES:,} files" in page
    assert f"{builds.MAX_FILE // 1024} KiB" in page
