"""Whatever the order of saves, steps of prefetchers, builds and restarts: no cold head, and no save is lost."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import EpochLimits
from epoch_rig import Given, Rig

FILES = ("a.py", "b.py", "c.py", "d.py")
STEPS = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(FILES), st.booleans()),
    st.tuples(st.just("warm"), st.sampled_from(("e0", "e1")), st.integers(0, 400)),
    st.tuples(st.just("warm"), st.sampled_from(("e0", "e1")), st.none()),
    st.tuples(st.just("restart"), st.sampled_from(("e0", "e1")), st.none()),
    st.tuples(st.just("rest"), st.integers(1, 40), st.none()),
    st.tuples(st.just("focus"), st.sampled_from(FILES), st.none()),
    st.tuples(st.just("type"), st.sampled_from(FILES), st.integers(1, 90)),
    st.tuples(st.just("move"), st.sampled_from(FILES), st.sampled_from(("body", "v0", "v1", "v2 v3"))),
    st.tuples(st.just("give up"), st.sampled_from(("e0", "e1")), st.booleans()),
    st.tuples(st.just("build"), st.booleans(), st.none()),
    st.tuples(st.just("server"), st.none(), st.none()),
    st.tuples(st.just("stash"), st.integers(2, 4), st.integers(0, 20)),
)

# For how long an open file may keep an older head.
PATIENCE_S = 0.03


def versions(text: str) -> dict[str, int]:
    """The version of each file that a head tells of last."""
    found = {}
    for path, first, second in re.findall(r"\[(\S+): v(\d+)\]|<(?=(\S+)= v)", text):
        found[path or second] = int(first or 0)
    for path, version in re.findall(r"<(\S+)= v(\d+)", text):
        found[path] = int(version)
    return found


def newer(told: dict[str, int], before: dict[str, int]) -> bool:
    """Nothing in it is older."""
    return all(told.get(name, -1) >= version for name, version in before.items())


async def _walk(rig: Rig, steps: list[tuple[str, object, object]]) -> None:
    now = dict.fromkeys(FILES, 0)
    seen: dict[str, dict[str, int]] = {}  # by engine, and by engine and open file
    history: list[tuple[float, str, dict[str, int]]] = []
    stashed = False
    await rig.write(dict.fromkeys(FILES, "v0\nbody"))
    for what, one, two in [*steps, ("build", True, None)]:
        if what == "save":
            now[str(one)] += 1
            await rig.write({str(one): f"v{now[str(one)]}\n{'body' * (30 if two else 1)}"})
        elif what == "warm":
            rig.engines[str(one)].warm(tokens=two if isinstance(two, int) else None)
        elif what == "restart":
            rig.engines[str(one)].open()
            seen = {key: told for key, told in seen.items() if not key.startswith(str(one))}
            history = [row for row in history if row[1] != one]
            rig.contexts.engines_changed()
        elif what == "rest" and isinstance(one, int):
            await asyncio.sleep(one / 1000)
        elif what == "focus":
            await rig.contexts.focus(rig.workspace, str(one))
        elif what == "type":
            rig.typed(str(one), "x" * int(str(two)))
        elif what == "move":
            rig.typed(str(one), "x", prefix=str(two))
        elif what == "give up":
            script = rig.engines[str(one)]
            script.states = {target.key: WarmState.STUCK for target in script.targets if target.key[3] and two}
        elif what == "build":
            rig.builder.gate.set() if one else rig.builder.gate.clear()
        elif what == "server":
            await rig.restart()
            await rig.contexts.restore()
            seen.clear()
            history.clear()
        elif what == "stash":  # from now on an older text is no mistake
            stashed = True
            texts = {path: f"v{now[path]}\nbody" for path in FILES[: int(str(one))]}
            await rig.write(texts)
            await asyncio.sleep(int(str(two)) / 1000)
            await rig.write({path: f"v{now[path] + 50}\nother" for path in texts})
            await asyncio.sleep(int(str(two)) / 1000)
            await rig.write(texts)
        for engine in rig.engines:
            for path in ("", *FILES):
                asked = time.monotonic()
                text = rig.text(engine, path)  # asserts that it is resident
                assert not text or text[-1] in "#]>)}", "not a legal cut"
                told, before = versions(text), seen.get(f"{engine}/{path}", {})
                assert stashed or newer(told, before), "an older text again"
                assert bool(text) or not seen.get(f"{engine}/", {}), "cold again"
                if text:
                    seen[f"{engine}/{path}"] = told
                # What a request without a path got: an open file may be behind it, but not for long.
                late = [row[2] for row in history if row[1] == engine and asked >= row[0] + PATIENCE_S]
                assert stashed or all(newer(told, row) for row in late), "withheld for too long"
            history.append((time.monotonic(), engine, seen.get(f"{engine}/", {})))
    for script in rig.engines.values():
        script.auto = True
    rig.head()
    rig.contexts.engines_changed()
    await rig.until(lambda: all(versions(rig.text(name, path)) == now for name in rig.engines for path in ("", *FILES)))


async def _walked(folder: Path, steps: list[tuple[str, object, object]], focuses: int) -> None:
    limits = EpochLimits(idle_s=0.02, retry_s=0.02, bulk=3, focuses=focuses, patience_s=PATIENCE_S, search_s=0.005)
    worth = {"completion": Given(4000, 100, 60, 60), "chat": Given(0, 0, 0)}
    rig = Rig(folder, limits=limits, worth=worth, names=("e0", "e1")).start()
    try:
        await _walk(rig, steps)
    finally:
        await rig.close()


@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.lists(STEPS, max_size=25), st.sampled_from((2, 4)))
def test_no_order_of_events_serves_what_is_cold_or_loses_a_save(
    steps: list[tuple[str, object, object]], focuses: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_walked(Path(folder), steps, focuses))
