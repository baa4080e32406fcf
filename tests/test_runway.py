"""What is warmed when a file is opened at a line: the beginning of the tail that a request there really sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aicockpit.gateway.voices import Voice
from aicockpit.gateway.windows import Window
from aicockpit.prompts.fim import detect
from aicockpit.prompts.tail import at_line, found, limits_of, sample
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import ModelSpec
from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.store import Store
from aicockpit.workspace.track import EpochLimits
from aicockpit.workspace.workshop import approach
from epoch_rig import BLOCK, MODEL, Given, Rig, digest, text_of
from fake_client import start_fake
from join_rig import Warm, joined, warm_head
from rig import engine_of
from tiny_tokenizers import FAMILIES, byte_level, of_family

QUIET = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)
MAX_LEN, STEP = 32_768, 64
PREFIX_FIRST = ("qwen", "starcoder2", "deepseek", "granite", "codellama", "plain-files", "plain")
SUFFIX_FIRST = ("seedcoder", "codestral", "mellum")
LINES = ("", "    return first + second", "def add(first, second):", "class Sum:  # ünï", "\ttotal = 0", "x" * 90)
VOICES = {
    name: Voice(encoder, *detect(encoder.specials), MAX_LEN)
    for name in (*PREFIX_FIRST, *SUFFIX_FIRST)
    if (encoder := of_family(name))
}


def code(count: int, first: int = 0) -> str:
    """Lines that are all different."""
    return "".join(f"    value_{number} = compute({number})\n" for number in range(first, first + count))


def ahead(voice: Voice, text: str, line: int, begun: str = "") -> tuple[int, ...]:
    return approach(voice.style, voice.encoder, voice.max_len, "src/a.py", text, line, begun)


def request(voice: Voice, prefix: str, suffix: str, window: Window | None = None) -> tuple[int, ...]:
    """The tail of a completion, made by the gateway's own window and voice."""
    sent = (window or Window()).move(prefix, suffix, voice.limits)
    return voice.tail("src/a.py", sent[0], sent[1] if voice.style.fim else "", True)


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def shown(text: str) -> list[str]:
    """The lines of a document as an editor has them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def behind(lines: list[str], line: int) -> str:
    """What stands behind the end of this line, from 1."""
    return "".join("\n" + one for one in lines[line:])


def test_every_family_is_tested() -> None:
    assert {name for name, voice in VOICES.items() if voice.style.name != name} == set()
    first = {name for name in FAMILIES if (style := detect(of_family(name).specials)[0]).fim and _suffix_first(style)}
    assert first == set(SUFFIX_FIRST)


def _suffix_first(style: Any) -> bool:
    return bool(style.repo_parts.index("{suffix}") < style.repo_parts.index("{prefix}"))


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(PREFIX_FIRST),
    count=st.sampled_from([0, 1, 5, 223, 224, 287, 288, 320, 351, 352, 700]) | st.integers(0, 700),
    some=st.lists(st.sampled_from(LINES), min_size=1, max_size=9),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    closed=st.booleans(),
    at=st.integers(-3, 720),
    column=st.integers(0, 100),
    typed=st.sampled_from(["", "ret", "x = (", "\n    ", "é"]),
)
@example(name="qwen", count=0, some=[""], end="\n", closed=False, at=1, column=0, typed="x")
@example(name="qwen", count=288, some=["x" * 90], end="\r\n", closed=False, at=289, column=3, typed="\n")
def test_what_is_warmed_is_found_up_to_the_block_before_the_cursors_line(
    name: str, count: int, some: list[str], end: str, closed: bool, at: int, column: int, typed: str
) -> None:
    voice = VOICES[name]
    text = end.join(some[number % len(some)] for number in range(count)) + (end if closed else "")
    lines = shown(text)
    row = min(max(1, at), len(lines)) - 1
    above = "".join(line + "\n" for line in lines[:row])
    prefix = above + lines[row][:column]
    if len(prefix) > voice.limits.prefix_chars * 0.9 or ("\n" in typed and (row - 223) % STEP == 0):
        return  # at the border of a window it matters in which column the cursor is, or that a line is begun
    warmed = ahead(voice, text, at)
    sent = request(voice, prefix + typed, "\n".join([lines[row][column:], *lines[row + 1 :]]))
    before = shared(request(voice, above, ""), sent)  # of the lines above the cursor's, what a request shares with it
    assert shared(warmed, sent) >= before - BLOCK
    assert shared(warmed, sent) // BLOCK >= before // BLOCK - 1
    assert len(warmed) <= len(request(voice, "\n".join(lines[: row + 1]), "\n".join(lines[row:])))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([*PREFIX_FIRST, *SUFFIX_FIRST]), count=st.integers(1, 700), at=st.integers(1, 700))
def test_at_the_end_of_the_line_all_of_it_is_the_beginning_of_the_request(name: str, count: int, at: int) -> None:
    """Suffix first too: it begins with the end of that line, also when the next line is begun there."""
    voice, lines = VOICES[name], shown(code(count))
    row = min(at, len(lines)) - 1
    prefix, suffix = "\n".join(lines[: row + 1]), behind(lines, row + 1)
    warmed = ahead(voice, code(count), at)
    assert request(voice, prefix, suffix)[: len(warmed)] == warmed
    if (row - 223) % STEP:  # else the new line moves the window
        kept = len(warmed)
        if voice.style.fim and name not in SUFFIX_FIRST:  # the line goes from behind the suffix into the prefix
            above = "".join(line + "\n" for line in lines[:row])
            kept = shared(request(voice, above, "q"), request(voice, above, "z"))
        assert shared(request(voice, prefix + "\n    new = 1", suffix), warmed) >= kept - 2


@pytest.mark.parametrize("length", [1024, 2048, 8192])
@pytest.mark.parametrize("line", [1, 60, 250, 640, 999])
def test_a_short_model_s_windows_are_cut_by_characters_in_the_same_way(length: int, line: int) -> None:
    encoder = of_family("qwen")
    voice = Voice(encoder, *detect(encoder.specials), length)
    lines = shown(code(1000))
    warmed = ahead(voice, code(1000), line)
    assert warmed == request(voice, "\n".join(lines[:line]), behind(lines, line))[: len(warmed)]
    # The VS Code extension sends a window of its own.
    begin = max(0, (line - 1 - 224) // STEP * STEP)
    assert warmed == request(voice, "\n".join(lines[begin:line]), behind(lines, line))[: len(warmed)]


@given(first=st.integers(1, 900), then=st.integers(1, 900))
@settings(max_examples=60, deadline=None)
def test_a_jump_is_cut_as_the_next_request_of_that_window_will_be(first: int, then: int) -> None:
    voice, lines, window = VOICES["qwen"], shown(code(900)), Window()
    prefix = "\n".join(lines[:first])
    begun = sample(window.move(prefix, "\n", voice.limits)[0])
    warmed = ahead(voice, code(900), then, begun)
    sent = request(voice, "\n".join(lines[:then]), behind(lines, then), window)
    # A window of less than a whole line above the cursor tells nothing of where it began.
    assert sent[: len(warmed)] == warmed or (first < 2 and 288 <= then - 1 < 320)


def test_a_place_that_two_windows_could_have_begun_at_tells_nothing() -> None:
    limits, same = limits_of(MAX_LEN), "x = 1\n" * 400
    assert found(same, sample(same), limits) is None
    assert found(code(400), sample(code(336, 64)), limits) == 64
    assert found(code(400), sample(code(10, 63)), limits) is None
    assert found(code(400), "", limits) is None
    assert found("", "x\n", limits) is None


def test_lines_are_counted_as_editors_do() -> None:
    assert at_line("a\r\nb\rc\n", 2) == ("a\nb", "\nc\n")
    assert at_line("\ufeffa\nb", 1) == ("a", "\nb")
    assert at_line("a\nb", 9) == at_line("a\nb", 2) == ("a\nb", "")
    assert at_line("a\n", 2) == ("a\n", "")
    assert at_line("", 0) == at_line("", 5) == ("", "")


async def test_the_builder_cuts_it_from_the_store(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_bytes(byte_level(FAMILIES["qwen"]))
    text = code(500)
    store, builder = Store(tmp_path / "state"), Builder(tmp_path / "state", inline=True)
    store.put_blobs([(digest(text.encode()), text.encode())])
    spec = ModelSpec(MODEL, tmp_path / "model", max_model_len=MAX_LEN)
    made = await builder.runway(spec, "src/a.py", digest(text.encode()), 300, "")
    assert made == ahead(VOICES["qwen"], text, 300)
    assert await builder.runway(spec, "src/a.py", digest(b"gone"), 300, "") == ()
    assert await builder.runway(spec, "src/a.py", None, 300, "") == ()
    unknown = ModelSpec(MODEL, tmp_path / "model")
    assert await builder.runway(unknown, "src/a.py", digest(text.encode()), 300, "") == ()
    await builder.close()
    store.close()


class _Heard(Warm):
    """Contexts that also remember the text before the cursor."""

    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...], prefix: str = "") -> None:
        self.told.append(("prefix", prefix))


async def test_the_gateway_tells_the_window_that_it_sent_and_it_is_found_again(tmp_path: Path) -> None:
    warm = _Heard({"fake-0": warm_head()})
    text = code(500)
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            body = {"model": "fake", "prompt": text, "max_tokens": 2, "workspace": "proj", "path": "a.py"}
            answer = await rig.client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    prefix = warm.of("prefix")[0][1]
    assert text.endswith(prefix)
    line = text[: -len(prefix)].count("\n")
    assert line > 0
    assert found(text, sample(prefix), limits_of(4096)) == line


# In a workspace. A token is a letter there, so a step of 64 lines of `code` is this many of them.

A_STEP = len(code(STEP, 300))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUIET).start()
    await made.write({"long.py": "api of long.py\n" + code(899), "b.py": "api of b.py\nbody"})
    await made.wanted()
    made.engines["e0"].warm()
    await made.until(lambda: made.head().tokens)
    yield made
    await made.close()


def tail_at(rig: Rig, line: int, typed: str = "") -> str:
    """The tail of a request at the end of that line, by a window that nothing was sent of."""
    text = "api of long.py\n" + code(899)
    prefix = "\n".join(text.split("\n")[:line]) + typed
    return Window().move(prefix, "", limits_of(100_000))[0]


def wish(rig: Rig, engine: str = "e0") -> str:
    return "".join(text_of(one.tokens) for one in rig.engines[engine].targets if one.key[3] == "long.py")


def told(rig: Rig) -> dict[str, Any]:
    focus = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]["focus"]
    return next(dict(one) for one in focus if one["path"] == "long.py")


async def focused(rig: Rig, line: int) -> None:
    await rig.contexts.focus(rig.workspace, "long.py", line)
    await rig.until(lambda: wish(rig).endswith("(near long.py)" + tail_at(rig, line)[:4096]))


async def test_after_focus_alone_the_first_request_computes_what_it_typed(rig: Rig) -> None:
    await focused(rig, 100)
    rig.engines["e0"].warm()
    assert told(rig)["runway_line"] == 100
    assert told(rig)["warm_on"] == ["e0"]
    assert rig.typed("long.py", tail_at(rig, 100, " + typed")) <= 2 * BLOCK
    assert rig.head(path="long.py").neighbourhood_tokens
    assert told(rig)["runway_line"] is None


async def test_without_focus_at_the_line_the_tail_is_computed(rig: Rig) -> None:
    await rig.contexts.focus(rig.workspace, "long.py")
    await rig.told("(near long.py)")
    await asyncio.sleep(0.05)
    assert wish(rig).endswith("(near long.py)")
    assert rig.builder.cut == []  # no line, no guess
    rig.engines["e0"].warm()
    assert rig.typed("long.py", tail_at(rig, 100)) > A_STEP


async def test_a_jump_warms_the_new_place_and_the_newest_wins(rig: Rig) -> None:
    await focused(rig, 80)
    rig.engines["e0"].warm()
    before = rig.head(path="long.py").tokens
    for line in (400, 600, 700):
        await rig.contexts.focus(rig.workspace, "long.py", line)
    await focused(rig, 700)
    assert sum(one.key[3] == "long.py" for one in rig.engines["e0"].targets) == 1
    assert rig.head(path="long.py").tokens is before  # no head is lost by a jump
    rig.engines["e0"].warm()
    limit = rig.contexts._limits.runway
    assert rig.typed("long.py", tail_at(rig, 700, " x")) <= max(0, len(tail_at(rig, 700)) - limit) + 2 * BLOCK


async def test_a_jump_within_what_is_warm_changes_no_wish(rig: Rig) -> None:
    await focused(rig, 120)
    rig.engines["e0"].warm()
    before = rig.engines["e0"].targets
    for line in (119, 40):
        await rig.contexts.focus(rig.workspace, "long.py", line)
        await rig.until(lambda line=line: ("long.py", line) in rig.builder.cut)  # type: ignore[misc]
        await asyncio.sleep(0.02)
    assert rig.engines["e0"].targets is before


async def test_a_request_knows_better_than_the_focus_before_it(rig: Rig) -> None:
    await focused(rig, 60)
    rig.engines["e0"].warm()
    unsaved = "never saved; " * 20
    rig.typed("long.py", unsaved)
    before = rig.engines["e0"].targets
    await rig.write({"long.py": "api of long.py\n" + code(700)})  # what is open was saved: no reason to cut anew
    await asyncio.sleep(0.1)
    assert len(rig.builder.cut) == 1
    await rig.write({"b.py": "api of b.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: wish(rig).endswith(unsaved))
    assert rig.engines["e0"].targets is not before


async def test_other_content_before_any_request_is_cut_anew(rig: Rig) -> None:
    await focused(rig, 60)
    await rig.write({"long.py": "api of long.py\n" + code(899, 5000)})
    await rig.until(lambda: wish(rig).endswith("value_5058 = compute(5058)"))


async def test_a_place_with_no_room_is_given_up_and_the_next_one_is_tried(rig: Rig) -> None:
    await focused(rig, 100)
    engine = rig.engines["e0"]
    engine.states[next(one.key for one in engine.targets if one.key[3] == "long.py")] = WarmState.STUCK
    engine.warm(only="''")
    await rig.until(lambda: wish(rig).endswith("(near long.py)"))
    engine.states.clear()
    await focused(rig, 60)
    engine.warm()
    assert rig.typed("long.py", tail_at(rig, 60)) <= 2 * BLOCK


async def test_a_lane_without_context_warms_no_tail(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=QUIET, worth={"completion": Given(0, 0, 0), "chat": Given(4000, 0, 0)}).start()
    await rig.write({"long.py": code(300)})
    await rig.contexts.focus(rig.workspace, "long.py", 200)
    await asyncio.sleep(0.1)
    assert rig.builder.cut == []
    await rig.close()
