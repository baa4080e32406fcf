"""`kv_tier.py identity` and `kills`: with the tier an engine answers as without, and after a kill -9 too."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx

from benchmarks.bars import Bar, checked
from benchmarks.kv_bench import ALWAYS, NEVER, Bench
from benchmarks.kv_engine import Completion, Engine, texts, together

BLOCK, ANSWER = 32, 12
# Long prompts are computed in several steps, four of them at a time.
AT_ONCE, LONG_PROMPTS = 4, 8
CHUNKS = ("--max-num-batched-tokens", "512")
# Requests begin in one order, so that steps without a tier and with one that stores are made of the same chunks.
_APART_S = 0.03
KILLED_PROMPTS, KILLED_TOKENS = 4, 500
# So small that blocks are written while others are computed: half of it holds back what waits.
KILLED_BUFFER = 16_000_000

Met = Literal["a block that was being written", "some blocks written, others not", "no block", "all blocks written"]


@dataclass(slots=True)
class Passes:
    """Answers to the same prompts, by pass. `plain`: passes without a tier, in the order cold, warm, and so on."""

    prompts: list[list[int]]
    plain: dict[str, list[Completion]] = field(default_factory=dict)
    storing: list[Completion] = field(default_factory=list)
    loading: list[Completion] = field(default_factory=list)

    def all(self) -> dict[str, list[Completion]]:
        return {**self.plain, "disk tier, storing": self.storing, "disk tier, loading": self.loading}

    def same(self, found: Sequence[Completion], name: str) -> int:
        """How many answers are those of that pass without a tier."""
        return sum(one.tokens == other.tokens for one, other in zip(found, self.plain[name], strict=True))

    def known(self, found: Sequence[Completion]) -> int:
        """How many answers any pass without a tier gave to the same prompt."""
        given = [{one.tokens for one in answers} for answers in zip(*self.plain.values(), strict=True)]
        return sum(one.tokens in answers for one, answers in zip(found, given, strict=True))

    def whole(self) -> int:
        """Of how many prompts every whole block was loaded; the last token is always computed."""
        wanted = [(len(prompt) - 1) // BLOCK * BLOCK for prompt in self.prompts]
        return sum(one.cached == cached for one, cached in zip(self.loading, wanted, strict=True))


@dataclass(slots=True)
class Troubles:
    """Blocks, over all engines with the tier."""

    failed_loads: int = 0
    not_stored: int = 0

    def add(self, made: Engine) -> None:
        made.settled()
        self.failed_loads += int(made.metric("aicockpit_kv_disk_load_failures_total"))
        self.not_stored += int(made.metric("aicockpit_kv_disk_unstored_blocks_total"))


def identity(bench: Bench, count: int) -> bool:
    """Short prompts one at a time, long ones four at a time. One core, so that sums are made in one order."""
    with bench.engine(None, *CHUNKS, cores="0") as made:
        short, long = _prompts(made, count)
        _plain(bench, made, short, long)
    troubles = Troubles()
    for name, wish in (("storing", NEVER | {"store": True}), ("loading", ALWAYS)):
        with bench.engine(bench.tier("identity"), *CHUNKS, cores="0") as made:
            began = time.monotonic()
            answers = [made.complete(prompt, ANSWER, wish=wish) for prompt in short.prompts]
            batch = [one for group in _groups(long.prompts) for one in _at_once(made, group, wish)]
            troubles.add(made)
        if name == "storing":
            short.storing, long.storing = answers, batch
        else:
            short.loading, long.loading = answers, batch
        bench.note(f"disk tier, {name}: {time.monotonic() - began:.0f} s")
    return told(bench, short, long, troubles)


def _prompts(made: Engine, count: int) -> tuple[Passes, Passes]:
    chance = random.Random(5)
    short = [made.tokens(text)[: chance.randrange(65, 500)] for text in texts(count, 4_000)]
    # The first token is one of its own: nothing of these is found of the short ones.
    long = [
        [2_000 + number, *made.tokens(text)][: chance.randrange(2_000, 2_300)]
        for number, text in enumerate(texts(LONG_PROMPTS, 11_000))
    ]
    if len(short) < count or len(long) < LONG_PROMPTS or min(map(len, long)) < 2_000:
        raise SystemExit("this repository has too little text")
    return Passes(short), Passes(long)


def _plain(bench: Bench, made: Engine, short: Passes, long: Passes) -> None:
    """Each twice, one right after the other: the engine's memory holds a few prompts only."""
    began = time.monotonic()
    both = [made.complete(prompt, ANSWER) for prompt in short.prompts for _ in range(2)]
    short.plain = {"no tier, cold": both[::2], "no tier, warm": both[1::2]}
    both = [made.complete(prompt, ANSWER) for prompt in long.prompts for _ in range(2)]
    cold: list[Completion] = []
    warm: list[Completion] = []
    for group in _groups(long.prompts):
        made.forget()
        cold += _at_once(made, group, None)
        warm += _at_once(made, group, None)
    long.plain = {
        "no tier, cold": cold,
        "no tier, warm": warm,
        "no tier, one at a time, cold": both[::2],
        "no tier, one at a time, warm": both[1::2],
    }
    bench.note(f"no tier: {time.monotonic() - began:.0f} s")


def _groups(prompts: Sequence[list[int]]) -> list[Sequence[list[int]]]:
    return [prompts[at : at + AT_ONCE] for at in range(0, len(prompts), AT_ONCE)]


def _at_once(made: Engine, prompts: Sequence[list[int]], wish: Mapping[str, Any] | None) -> list[Completion]:
    return together([partial(made.complete, prompt, ANSWER, wish=wish) for prompt in prompts], _APART_S)


def bars(short: Passes, long: Passes, troubles: Troubles) -> list[Bar]:
    """All passes count, and all failures."""
    count, batch = len(short.prompts), len(long.prompts)
    cold, warm = short.same(short.storing, "no tier, cold"), short.same(short.loading, "no tier, warm")
    known = (long.known(long.storing), long.known(long.loading))
    whole = (short.whole(), long.whole())
    return [
        checked(
            "stored one at a time, all answers are those without a tier, cold", cold == count, f"{cold} of {count}"
        ),
        checked(
            "loaded one at a time, all answers are those without a tier, warm", warm == count, f"{warm} of {count}"
        ),
        checked(
            f"{AT_ONCE} long ones at a time, an engine without a tier gave each answer to the same prompt too",
            known == (batch, batch),
            f"{known[0]} of {batch} stored, {known[1]} of {batch} loaded",
        ),
        checked(
            "of every prompt all whole blocks were loaded",
            whole == (count, batch),
            f"{whole[0]} of {count}, {whole[1]} of {batch}",
        ),
        checked(
            "no load failed, and every block was stored",
            troubles == Troubles(),
            f"{troubles.failed_loads} failed, {troubles.not_stored} not stored",
        ),
    ]


def told(bench: Bench, short: Passes, long: Passes, troubles: Troubles) -> bool:
    """Tell it; whether the bars are cleared."""
    for title, passes in (("one at a time", short), (f"{AT_ONCE} at a time", long)):
        lengths = [len(prompt) for prompt in passes.prompts]
        head = (f"prompts of {min(lengths)} to {max(lengths)} tokens, {title}", "prompts", "with cached tokens")
        rows = [
            (
                *(name, f"{len(found)}", f"{sum(one.cached > 0 for one in found)}"),
                *(f"{passes.same(found, plain)}" for plain in ("no tier, cold", "no tier, warm")),
                f"{passes.known(found)}",
            )
            for name, found in passes.all().items()
        ]
        bench.table((*head, "as no tier, cold", "as no tier, warm", "as any without a tier"), rows)
    return bench.bars(bars(short, long, troubles))


@dataclass(frozen=True, slots=True)
class Kill:
    """What one kill left: `partial` files, and how many `of` the blocks of its prompts on disk."""

    partial: int
    written: int
    of: int

    @property
    def met(self) -> Met:
        if self.partial:
            return "a block that was being written"
        if self.written == 0:
            return "no block"
        return "all blocks written" if self.written >= self.of else "some blocks written, others not"


@dataclass(slots=True)
class Killed:
    """Of all kills; `loaded` in tokens, `refused` in blocks, `wrong` in answers."""

    kills: list[Kill] = field(default_factory=list)
    loaded: int = 0
    wrong: int = 0
    refused: int = 0


def kills(bench: Bench, rounds: int) -> bool:
    """Each engine first serves what the one killed before it had begun to store, and computes it too, and is killed:
    after a random time, in the middle of the next write."""
    tier = bench.tier("kills", buffer_bytes=KILLED_BUFFER)
    folder, chance = Path(tier["folder"]), random.Random(3)
    found = Killed()
    begun: list[list[int]] = []
    for number in range(rounds + 1):
        with bench.engine(tier, "--max-num-batched-tokens", "256", cores="0") as made:
            _serve(made, begun, found)
            if number == rounds:
                break
            begun = [[chance.randrange(1000, 40_000) for _ in range(KILLED_TOKENS)] for _ in range(KILLED_PROMPTS)]
            found.kills.append(_kill(made, begun, folder, chance))
        bench.note(f"kill {number + 1}: {found.kills[-1].met}, {found.kills[-1].written} of {found.kills[-1].of}")
    bench.tell(
        f"{rounds} kills; {found.loaded} tokens served from the disk afterwards, {found.wrong} answers wrong, "
        f"{found.refused} blocks refused. {met(found)}"
    )
    return fine(found)


def met(found: Killed) -> str:
    """What the kills met."""
    count = Counter(kill.met for kill in found.kills)
    return "They met: " + ", ".join(f"{what} {times}x" for what, times in count.most_common()) + "."


def fine(found: Killed) -> bool:
    """Nothing wrong was served, something was, and at least half of the kills met a write."""
    hit = sum(kill.met == "a block that was being written" for kill in found.kills)
    return found.wrong == 0 and found.loaded > 0 and 2 * hit >= len(found.kills)


def _serve(made: Engine, begun: Sequence[Sequence[int]], found: Killed) -> None:
    for prompt in begun:
        served = made.complete(prompt, ANSWER, wish=ALWAYS | {"store": False})
        made.forget()
        made.complete(prompt[: served.cached + 1], wish=NEVER)
        found.wrong += served.tokens != made.complete(prompt, ANSWER, wish=NEVER).tokens
        found.loaded += served.cached
        made.forget()
    made.complete([1] * 5)
    found.refused += int(made.metric("aicockpit_kv_disk_load_failures_total"))


def _kill(made: Engine, begun: Sequence[Sequence[int]], folder: Path, chance: random.Random) -> Kill:
    written, partials = len(list(folder.rglob("*.kv"))), set(folder.rglob("*.tmp"))
    threads = [threading.Thread(target=_until_killed, args=(made, prompt)) for prompt in begun]
    for thread in threads:
        thread.start()
    time.sleep(0.3 + 2 * chance.random())
    next_write(folder / ".lock", 2.0)
    time.sleep(0.001 * chance.random())
    made.kill()
    for thread in threads:
        thread.join()
    return Kill(
        len(set(folder.rglob("*.tmp")) - partials),
        len(list(folder.rglob("*.kv"))) - written,
        sum(len(prompt) // BLOCK for prompt in begun),
    )


def next_write(ledger: Path, limit_s: float) -> bool:
    """Until a block is entered in the folder's ledger, which is done just before its file is made; False: none was."""
    before, end = _entered(ledger), time.monotonic() + limit_s
    while time.monotonic() < end:
        if _entered(ledger) != before:
            return True
        time.sleep(0.0001)
    return False


def _entered(ledger: Path) -> bytes:
    with suppress(FileNotFoundError):
        return ledger.read_bytes()
    return b""


def _until_killed(made: Engine, prompt: Sequence[int]) -> None:
    with suppress(httpx.HTTPError, RuntimeError):
        made.complete(prompt, ANSWER)
