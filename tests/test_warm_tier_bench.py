"""The rows of restarts with a KV tier: what is sent how often, and what the table says of it. No server runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import warm_tier
from benchmarks.warm_rig import Answer
from benchmarks.warm_tier import Started, Tiers


class Rig:
    """A server: the first prompt after a start is computed, or loaded where it has a tier; what it did, in order."""

    def __init__(self, tier: str) -> None:
        self.tier, self.done = tier, ["start"]

    def __getattr__(self, name: str) -> Any:
        """Watching, waiting and restarting are noted."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *told: self.done.append(name)

    def places(self, count: int) -> list[tuple[str, str, str]]:
        return [("a.py", "one", "two")] * count

    def prompt_tokens(self, *place: str) -> list[int]:
        return [1] * 2_600

    def send(self, tokens: list[int], salt: str = "") -> Answer:
        fresh = self.done[-1] in ("start", "wait_ready")
        self.done.append("cold" if salt else "first" if fresh else "warm")
        slow = bool(salt) or (fresh and self.tier == "none")
        return Answer(4.0 if slow else 0.2, 2_600, 0, 0 if slow else 2_592)

    def lane(self) -> dict[str, Any]:
        return {"engines": {"one": {"origin": {"computed": 640, "memory": 0, "tier": 1_888}}}}


@pytest.fixture
def rigs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Rig]:
    made: list[Rig] = []

    @contextmanager
    def start_rig(
        folder: Path, repo: Path, budget: int, say: Console, tier: str = "none", model: str = ""
    ) -> Iterator[Rig]:
        assert bool(model) == (folder.name == "replica"), "only a replica serves the files of another"
        model_folder = folder / "state" / "models" / "one"
        model_folder.mkdir(parents=True)
        (model_folder / "config.json").write_text("{}")
        made.append(Rig(tier))
        yield made[-1]

    monkeypatch.setattr(warm_tier, "start_rig", start_rig)
    return made


def test_a_full_run_has_three_of_everything_and_a_second_replica(rigs: list[Rig], tmp_path: Path) -> None:
    found = warm_tier.measure(tmp_path, tmp_path, 4096, 3, Console(file=io.StringIO()))
    none, disk, replica = rigs
    assert (len(found.cold), len(found.none.first), len(found.disk.first), len(found.replica.first)) == (3, 3, 3, 1)
    assert (none.tier, disk.tier == replica.tier, none.done.count("restart_engine")) == ("none", True, 5)
    assert disk.done.index("open") < disk.done.index("cold"), "nothing is warmed beside what is timed"
    assert found.tokens == 2_600


def test_a_replicas_own_pack_is_warmed_in_an_engine_that_had_no_prompt(rigs: list[Rig], tmp_path: Path) -> None:
    """Else what the tier gave to the prompt counts as found for the pack."""
    found = warm_tier.measure(tmp_path, tmp_path, 4096, 1, Console(file=io.StringIO()))
    did = [one for one in rigs[2].done if one in ("first", "restart_engine", "watch", "wait_warm")]
    assert did == ["first", "restart_engine", "watch", "wait_warm"]
    assert found.replica.warm_after == [], "it indexes the repository, too"


def test_the_table_has_the_second_replica_and_says_through_the_gateway() -> None:
    started = Started([0.2, 0.3, 0.2], [2_592] * 3, [1.6, 1.7], [640], [1_888])
    replica = Started([0.25], [2_592], [], [0], [2_528])
    text = warm_tier.table(Tiers(2_600, [4.0, 3.9, 4.1], [0.2] * 9, started, started, replica))
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert head[0].endswith("through the gateway")
    assert rows[-1] == [
        *("first in a second replica, disk tier", "1", "0.250", "16.0x", "2592 of 2600", "", "0", "2528"),
    ]
    assert [row[1] for row in rows] == ["3", "9", "3", "3", "1"]
