"""Similar snippets for the line that an editor names, before anybody has typed in the file."""

from __future__ import annotations

import asyncio
import threading

import pytest

from epoch_rig import Rig
from test_similar_warm import HERE, TAIL, rig, wish

__all__ = ["rig"]  # the fixture


async def test_an_editor_names_a_line_and_the_snippets_for_it_are_warm_before_the_first_key(rig: Rig) -> None:
    engine = rig.engines["e0"]
    text = "long\n" + "alpha beta gamma\n" * 40 + "red green blue\n" * 40
    await rig.write({"long.py": text})
    await rig.told("<long.py=")
    engine.warm()
    await rig.contexts.focus(rig.workspace, "long.py", 20)
    await rig.until(lambda: "{one.py~" in wish(rig, "long.py"))
    assert rig.builder.searches[-1].query >= {"alpha", "beta", "gamma"}
    await rig.contexts.focus(rig.workspace, "long.py", 80)
    await rig.until(lambda: "{two.py~" in wish(rig, "long.py"))
    engine.warm()
    assert "{two.py~" in rig.text(path="long.py")
    searches = len(rig.builder.searches)
    await rig.contexts.focus(rig.workspace, "long.py", 81)
    await rig.contexts.focus(rig.workspace, "nowhere.py", 5)
    await asyncio.sleep(0.05)
    assert len(rig.builder.searches) == searches
    assert "{two.py~" in rig.text(path="long.py")
    rig.typed("long.py", TAIL, prefix=HERE)
    await rig.until(lambda: "{one.py~" in wish(rig, "long.py"))


async def test_a_cursor_that_moves_on_while_its_place_is_read_is_followed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.write({"long.py": "long\n" + "alpha beta gamma\n" * 40 + "red green blue\n" * 40})
    await rig.told("<long.py=")
    read, reading, go_on = rig.store.blob, threading.Event(), threading.Event()

    def slow(content: bytes) -> bytes | None:
        reading.set()
        go_on.wait(5.0)
        return read(content)

    monkeypatch.setattr(rig.contexts._desk.store, "blob", slow)
    await rig.contexts.focus(rig.workspace, "long.py", 20)
    await rig.until(reading.is_set)
    await rig.contexts.focus(rig.workspace, "long.py", 80)
    monkeypatch.undo()
    go_on.set()
    await rig.until(lambda: "{two.py~" in wish(rig, "long.py"))
