"""gateway/trails.py: which engine had a file's last request, and what follows from it."""

from __future__ import annotations

from pathlib import Path

from aicockpit.gateway.trails import Trails
from fake_client import start_fake
from join_rig import Warm, joined, warm_head
from rig import engine_of

COMPLETION = {"model": "fake", "prompt": "def add(", "max_tokens": 2}


def test_the_newest_stay_and_one_asked_for_again_is_new() -> None:
    trails = Trails(kept=3)
    for number in range(3):
        trails.went(("me", "proj", "m", str(number)), f"e{number}")
    trails.went(("me", "proj", "m", "0"), "e9")
    trails.went(("me", "proj", "m", "3"), "e3")
    assert [trails.last(("me", "proj", "m", str(number))) for number in range(4)] == ["e9", "", "e2", "e3"]
    assert trails.last(("you", "proj", "m", "0")) == ""


async def test_a_file_stays_with_one_of_two_equally_warm_replicas(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with start_fake(tmp_path / "a") as one, start_fake(tmp_path / "b") as two:
        engines = engine_of(one, "a"), engine_of(two, "b")
        async with joined(tmp_path, Warm({"a": warm_head(), "b": warm_head()}), *engines) as rig:

            async def served(path: str) -> str:
                body = {**COMPLETION, "workspace": "proj", "path": path}
                return (await rig.client.post("/v1/completions", json=body)).headers["x-aicockpit-engine"]

            first = [await served("one.py") for _ in range(4)]
            second = [await served("two.py") for _ in range(4)]
            again = [await served("one.py") for _ in range(2)]
            loose = [
                (await rig.client.post("/v1/completions", json={**COMPLETION, "suffix": "x"})).headers[
                    "x-aicockpit-engine"
                ]
                for _ in range(8)
            ]
    # Each stays where it began, and a new file begins where fewer were sent.
    assert set(first) | set(second) == {"a", "b"}
    assert len(set(first)) == len(set(second)) == 1
    assert again == first[:2]
    assert set(loose) == {"a", "b"}
