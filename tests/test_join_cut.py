"""What of a long prompt goes along: all of it where no context is wanted, else a window, and the record says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aicockpit.gateway.join import Cut
from aicockpit.workspace.head import Head
from fake_client import start_fake
from join_rig import HEAD, Warm, joined, sent, warm_head
from rig import Rig, engine_of
from tiny_tokenizers import of_family

LONG = "".join(f"before_{number}\n" for number in range(400)) + "here"
BEHIND = "\n" + "".join(f"behind_{number}\n" for number in range(100))
BODY = {"model": "fake", "prompt": LONG, "max_tokens": 2, "workspace": "proj", "path": "a.py"}


@dataclass
class Listening(Warm):
    """Keeps the text before the cursor that it was told of, by path."""

    texts: dict[str, str] = field(default_factory=dict)

    def seen(self, workspace_id: int, model: str, path: str, tail: tuple[int, ...], prefix: str = "") -> None:
        super().seen(workspace_id, model, path, tail, prefix)
        self.texts[path] = prefix


async def account(rig: Rig, **fields: Any) -> dict[str, Any]:
    answer = await rig.client.post("/v1/completions", json={**BODY, **fields})
    assert answer.status_code == 200, answer.text
    found = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
    return dict(found["context"])


async def test_a_prompt_that_wants_no_context_is_sent_as_it_came(tmp_path: Path) -> None:
    warm = Warm({"fake-0": warm_head()})
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            told = await account(rig, context="none")
            body = sent(fake)
    assert body == {"model": "fake", "prompt": LONG, "max_tokens": 2}
    assert told["cut_lines"] == {"before": 0, "behind": 0}
    assert (told["outcome"], told["predicted_cached"]) == ("none_asked", 0)
    assert not warm.of("seen")
    assert not warm.of("head")


async def test_a_suffix_without_context_is_whole_too(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm({"fake-0": warm_head()}), engine_of(fake)) as rig:
            told = await account(rig, context="none", suffix=BEHIND)
            whole = of_family("qwen").decode(sent(fake)["prompt"])
            alone = await account(rig, suffix=BEHIND, context="none", path="", prompt="x = ")
            short = of_family("qwen").decode(sent(fake)["prompt"])
            too_long = await rig.client.post(
                "/v1/completions", json={**BODY, "context": "none", "suffix": "x" * 70_000}
            )
    line = LONG.rfind("\n") + 1
    assert whole == f"<|fim_prefix|>{LONG[:line]}<|fim_suffix|>{BEHIND}<|fim_middle|>{LONG[line:]}"
    assert short == f"<|fim_prefix|><|fim_suffix|>{BEHIND}<|fim_middle|>x = "
    assert told["cut_lines"] == alone["cut_lines"] == {"before": 0, "behind": 0}
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "prompt_too_long")


@pytest.mark.parametrize("head", [warm_head(), Head(reason="warming 40 %")], ids=["warm", "cold"])
async def test_a_window_is_told_of_in_lines(tmp_path: Path, head: Head) -> None:
    warm = Listening({"fake-0": head})
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, warm, engine_of(fake)) as rig:
            told = await account(rig, suffix=BEHIND)
            text = of_family("qwen").decode(sent(fake)["prompt"][len(head.tokens) :])
            second = await account(rig, suffix=BEHIND, path="b.py", prompt="short", context="auto")
    lines = LONG.splitlines() + BEHIND.splitlines()
    missing = [line for line in lines if line and line not in text.replace("<", "\n").replace(">", "\n").splitlines()]
    before, behind = told["cut_lines"]["before"], told["cut_lines"]["behind"]
    assert before == sum(line.startswith("before") for line in missing) > 0
    assert behind == sum(line.startswith("behind") for line in missing) > 0
    assert second["cut_lines"]["before"] == 0
    assert second["cut_lines"]["behind"] == behind
    # The window is what the workspace hears of, since its beginning is found again by it.
    assert warm.texts == {"a.py": LONG.split("\n", before)[-1], "b.py": "short"}


async def test_a_suffix_that_the_model_has_no_form_for_is_told_as_cut(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm(), engine_of(fake), family="plain-files") as rig:
            told = await account(rig, prompt="x = ", suffix="a\nb\nc")
    assert told["cut_lines"] == {"before": 0, "behind": 3}


@pytest.mark.parametrize(
    ("whole", "kept", "cut"),
    [
        (("a\nb\nc", "\nd\ne\n"), ("a\nb\nc", "\nd\ne\n"), (0, 0)),
        (("a\nb\nc", "\nd\ne\n"), ("c", "\nd\n"), (2, 1)),
        (("long line", "long rest"), ("line", "long"), (1, 1)),  # in part counts
        (("", ""), ("", ""), (0, 0)),
        (("", "x\ny\nz\n"), ("", "X\ny\n"), (0, 1)),  # one that was held
        (("", "x\n"), ("", "X\ny\nz\n"), (0, 0)),
    ],
)
def test_lines_are_counted_whole_or_in_part(
    whole: tuple[str, str], kept: tuple[str, str], cut: tuple[int, int]
) -> None:
    assert Cut.of(whole[0], kept[0], whole[1], kept[1]) == Cut(*cut)


async def test_token_ids_are_never_cut(tmp_path: Path) -> None:
    ids = list(range(20, 1020))
    with start_fake(tmp_path) as fake:
        async with joined(tmp_path, Warm({"fake-0": warm_head()}), engine_of(fake)) as rig:
            told = await account(rig, prompt=ids)
            assert sent(fake)["prompt"] == [*HEAD, *ids]
            assert told["cut_lines"] == {"before": 0, "behind": 0}
            assert told["outcome"] == "warm"
