"""The journal's worth: which commits and lines it takes, what stands in front of them, what it makes of the figures."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import worth_journal
from benchmarks.corpus import CorpusError
from benchmarks.worth_journal import Result, clustered, expected, gain, verdict
from benchmarks.worth_lines import CROSS, RANDOM
from benchmarks.worth_scenes import Bench, Scene, Setting, added, choose, scenes, written

from aicockpit.prompts import fim
from tiny_tokenizers import FAMILIES, byte_level, of_family
from worth_rig import Served

SETTING = Setting(journal=2000, pack=300, before=120, after=40)


class Model(Served):
    """Gives each token a log-probability that depends on everything before it; dies after so many requests."""

    def __init__(self, dies_after: int = 10**9) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.dies_after, self.asked = dies_after, 0
        self.begun()


class Handler(BaseHTTPRequestHandler):
    server: Model

    def log_message(self, format: str, *args: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        fine = self.server.asked <= self.server.dies_after
        data = json.dumps({"choices": list(self.choices(body))} if fine else {"error": "dead"}).encode()
        self.send_response(200 if fine else 500)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def choices(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for place, prompt in enumerate(body["prompt"] if "logprob_token_ids" in body else ()):
            tops = {f"token_id:{token}": -((sum(prompt) + token) % 97) / 50 for token in body["logprob_token_ids"]}
            yield {"index": place, "text": "", "logprobs": {"top_logprobs": [tops]}}
        if "prompt_logprobs" in body:
            yield {"index": 0, "prompt_logprobs": [{str(token): {"logprob": -1.0}} for token in body["prompt"]]}


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.excludesFile=/dev/null")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, files: Mapping[str, str | None], message: str = "x") -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink() if text is None else path.write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def module(number: int, times: int) -> str:
    """Grows with `times`: its helper gets another name, and so does what it takes from the next module."""
    lines = [f"from mod{(number + 1) % 4} import compute_{times}_{(number + 1) % 4}", ""]
    for each in range(6 + 2 * times):
        lines += [f"def work_{number}_{each}(value):", f"    total = value + {each}", "    total = total * 2"]
        lines += ["    if total > 100:", "        total = total - 1", "    more = total + value", ""]
        if each >= 6:
            lines[-1:] = [f"    more += compute_{times}_{(number + 1) % 4}(value + {each})", ""]
    return "\n".join([*lines, f"def compute_{times}_{number}(value):", f"    return value + {times}", ""])


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, {f"mod{n}.py": module(n, 0) for n in range(4)} | {"notes.md": "x"})
    for times in range(1, 5):
        commit(folder, {f"mod{n}.py": module(n, times) for n in range(4) if n != times % 4} | {"notes.md": f"{times}"})
        commit(folder, {f"mod{times % 4}.py": module(times % 4, times)})
    return folder


@pytest.fixture
def bench() -> Bench:
    encoder = of_family("qwen")
    return Bench("small", encoder, fim.detect(encoder.specials)[0], SETTING)


# Commits


def test_scenes_are_the_commits_that_touch_several_sources_with_the_tree_before_each(repo: Path) -> None:
    found, note = scenes(repo, 100)
    assert note.startswith("8 commits up to ")
    assert [sorted(scene.changes) for scene in found] == [
        [f"mod{n}.py" for n in range(4) if n != times % 4] for times in range(1, 5)
    ]
    first = found[0]
    assert first.before == {f"mod{n}.py": module(n, 0) for n in range(4)}
    assert first.changes["mod0.py"] == (module(0, 0), module(0, 1))
    for times, (scene, later) in enumerate(pairwise(found), 1):
        tree = {**scene.before, **{path: new for path, (_, new) in scene.changes.items()}}
        assert {path for path in tree if tree[path] != later.before[path]} == {f"mod{times}.py"}


def test_merges_renames_links_deletions_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, {"a.py": "a = 1\n", "b.py": "b = 1\n", "gone.py": "g = 1\n"})
    git(folder, "checkout", "-q", "-b", "side")
    commit(folder, {"a.py": "a = 2\n"})
    commit(folder, {"b.py": "b = 2\n", 'with "quote" é\n.py': "q = 1\n"})
    git(folder, "checkout", "-q", "main")
    commit(folder, {"c.py": "c = 1\n"})
    git(folder, "merge", "-q", "--no-ff", "-m", "m", "side")
    (folder / "gone.py").rename(folder / "moved.py")
    os.symlink("a.py", folder / "link.py")
    commit(folder, {"big.py": "x" * 300_000})
    found, _ = scenes(folder, 100)
    merged, last = found
    assert dict(merged.changes) == {
        "a.py": ("a = 1\n", "a = 2\n"),
        "b.py": ("b = 1\n", "b = 2\n"),
        'with "quote" é\n.py': (None, "q = 1\n"),
    }
    assert merged.before == {"a.py": "a = 1\n", "b.py": "b = 1\n", "gone.py": "g = 1\n", "c.py": "c = 1\n"}
    assert dict(last.changes) == {"gone.py": ("g = 1\n", None), "moved.py": (None, "g = 1\n")}
    with pytest.raises(CorpusError, match="too few"):
        scenes(folder, 0)
    with pytest.raises(CorpusError, match="git rev-list failed"):
        scenes(tmp_path, 10)


def test_added_lines_are_those_of_the_difference_and_written_ones_are_new() -> None:
    old, new = "a\nb\nc\nd\n", "a\nnew\nb\nd\na\n"
    assert added(old, new) == {1, 3, 4}  # "new", where "c" went, and the second "a"
    assert written(old, new) == {1}
    assert added(None, "a\nb\n") == written(None, "a\nb\n") == {0, 1}


# Lines and prompts


def test_cross_lines_use_what_the_commit_changed_elsewhere_and_the_window_hides(repo: Path, bench: Bench) -> None:
    scene = scenes(repo, 100)[0][0]
    lines = bench.lines(scene)
    cross = [line for line in lines if line.kind == CROSS]
    # mod1 was not touched by this commit, so what mod0 takes from it is no change of this commit.
    assert {(line.path, line.symbol) for line in cross} == {("mod2.py", "compute_1_3"), ("mod3.py", "compute_1_0")}
    for line in lines:
        old, new = scene.changes[line.path]
        assert new is not None
        assert new.splitlines()[line.number] not in (old or "").splitlines()
        assert line.symbol in new.splitlines()[line.number]
    assert bench.touched(scene, "mod2.py") >= {"compute_1_0", "compute_1_3", "work_0_7"}
    assert not bench.touched(scene, "mod2.py") & {"work_0_0", "work_3_1", "compute_1_2"}


def test_a_changed_body_counts_as_its_innermost_symbol(bench: Bench) -> None:
    old = "class Store:\n    def reading(self):\n        return 1\n\n    def writing(self):\n        return 2\n"
    scene = Scene("x", {}, {"store.py": (old, old.replace("return 2", "return 3")), "use.py": ("", "x = 1\n")})
    assert bench.touched(scene, "use.py") == {"writing"}


def test_the_journal_is_what_the_workspace_would_say_of_the_other_files(repo: Path, bench: Bench) -> None:
    scene = scenes(repo, 100)[0][0]
    encoder = bench.encoder
    said = encoder.decode(bench.journal(scene, "mod2.py"))
    assert "<|file_sep|>mod0.py\n" in said or "<|file_sep|>mod3.py\n" in said
    assert "mod2.py" not in said
    assert len(bench.journal(scene, "mod2.py")) <= SETTING.journal
    roomy = Bench("small", encoder, bench.style, Setting(journal=100_000))
    everything = encoder.decode(roomy.journal(scene, "mod2.py"))
    assert everything.index("mod0.py") < everything.index("mod3.py")
    assert "def compute_1_3(value):\n    return value + 1" in everything
    assert "def work_0_4" not in everything, "what has not changed is not told"


def test_every_variant_ends_in_the_same_window_and_none_holds_the_line(repo: Path, bench: Bench) -> None:
    scene = scenes(repo, 100)[0][0]
    line = next(line for line in bench.lines(scene) if line.kind == CROSS)
    before, ids = bench.prompts(line)
    text = (scene.changes[line.path][1] or "").splitlines()[line.number]
    decode = bench.encoder.decode
    assert decode(ids) == "\n" + text
    shown = {variant: decode(found) for variant, found in before.items()}
    assert all(text not in prompt for prompt in shown.values())
    window = shown["none"].removeprefix("<|fim_prefix|>")
    assert all(prompt.endswith(window) for prompt in shown.values())
    journal = decode(bench.journal(scene, line.path))
    assert [journal in shown[variant] for variant in shown] == [False, True, False, True]
    assert line.symbol not in shown["pack"], "the pack is of the tree before the commit"
    assert before["pack and journal"][: len(before["pack"]) - len(before["journal"])]
    assert shown["pack and journal"].index("<|repo_name|>") == 0


def test_a_line_that_another_file_got_as_well_is_told_apart(bench: Bench) -> None:
    rows = ["def first(value):", "    total = value + 1", "    total = total * 2", "    del value", "    return total"]
    other = "\n".join(["def second(value):", *rows[1:3], "    raise ValueError", ""])
    scene = Scene("x", {}, {"a.py": ("", "\n".join([*rows, *rows, ""])), "b.py": ("", other)})
    told = {line.number: bench.told(line) for line in bench.lines(scene) if line.path == "a.py"}
    assert told == {5: False, 6: True, 7: True, 8: False, 9: False}


def test_few_lines_of_each_commit_are_chosen_and_the_choice_is_the_same_each_time(repo: Path, bench: Bench) -> None:
    found, _ = scenes(repo, 100)
    lines, share = choose(bench, found, 100, 1)
    assert [line.id for line in lines] == [line.id for line in choose(bench, found, 100, 1)[0]]
    for scene in found:
        for kind in (RANDOM, CROSS):
            assert 1 <= sum(line.scene is scene and line.kind == kind for line in lines) <= 2
    assert len({line.id for line in lines}) == len(lines)
    assert 0 < share < 0.5
    assert len(choose(bench, found, 2, 1)[0]) == 4


# A whole run


@pytest.fixture
def words(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes(byte_level(FAMILIES["qwen"]))
    monkeypatch.setattr(worth_journal, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(worth_journal, "PAGE", tmp_path / "page.md")
    sizes = ["--journal", "2000", "--pack", "300", "--before", "120", "--after", "40"]
    return [str(repo), "--model", "m-135M", "--tokenizer", str(tmp_path / "tokenizer"), *sizes, "--lines", "4"]


def test_a_run_goes_on_where_it_was_interrupted_and_writes_its_section(words: list[str], tmp_path: Path) -> None:
    dying, fine = Model(dies_after=15), Model()
    try:
        assert worth_journal.main([*words, "--engine", dying.url]) == 1
        (kept,) = (tmp_path / "bench").iterdir()
        first = kept.read_text()
        assert 1 <= first.count("\n") <= 3
        kept.write_text(first + '{"id": "cut sho')
        words += ["--engine", fine.url, "--key", "secret", "--write"]
        assert worth_journal.main(words) == 0
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
        assert kept.read_text().startswith(first)
        assert len({row["id"] for row in rows}) == len(rows) == 8
        assert all(set(row["scores"]) == {"none", "journal", "pack", "pack and journal"} for row in rows)
        asked = fine.asked
        assert worth_journal.main(words) == 0
        assert fine.asked == asked
    finally:
        dying.stop()
        fine.stop()
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("<!-- bench:worth-journal:m-135M:begin -->")
    assert page.count("| pack and journal | 4 |") == 2
    assert "Shipped would be: " in page
    assert "secret" not in page
    assert str(tmp_path) not in page


def test_without_a_pack_there_are_two_variants_and_what_cannot_start_says_so(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model()
    try:
        assert worth_journal.main([*words, "--pack", "0", "--engine", model.url]) == 0
    finally:
        model.stop()
    (kept,) = (tmp_path / "bench").iterdir()
    assert {tuple(json.loads(line)["scores"]) for line in kept.read_text().splitlines()} == {("none", "journal")}
    assert worth_journal.main([str(tmp_path / "tokenizer"), *words[1:], "--engine", "http://127.0.0.1:9"]) == 2
    assert "cannot start: git" in capsys.readouterr().out


# Figures


def made(value: float, noise: float, kind: str = RANDOM, groups: int = 30, cross: bool = False) -> list[Result]:
    rng = random.Random(f"{value} {kind}")
    found = []
    for number in range(2 * groups):
        base, more = -1 - rng.random(), value + rng.gauss(0, noise)
        scores = {"none": base, "journal": base + more, "pack": base + 0.2, "pack and journal": base + 0.2 + more / 2}
        found.append(Result(f"{kind}{number}", kind, f"s{number // 2}", cross, 8, 300, scores))
    return found


def test_the_standard_error_counts_commits_where_their_lines_go_together() -> None:
    assert clustered([]).shown() == "-"
    single = [(str(place), float(place)) for place in range(1, 5)]
    assert clustered(single).value == 2.5
    assert clustered(single).error == pytest.approx(math.sqrt(5 / 3 / 4))
    twice = [(group, value) for group, value in single for _ in range(2)]
    assert clustered(twice).error == pytest.approx(clustered(single).error), "a copy of a line is no new one"
    assert clustered(twice).count == 8


def test_the_journal_s_gain_is_against_the_same_prompt_without_it() -> None:
    results = made(0.1, 0.001)
    assert gain(results, "journal", lambda r: True).value == pytest.approx(0.1, abs=0.001)
    assert gain(results, "pack and journal", lambda r: True).value == pytest.approx(0.05, abs=0.001)
    both = [*made(-0.1, 0), *made(0.4, 0, CROSS, cross=True), *made(9, 0, RANDOM, 3, cross=True)]
    assert expected(both, "journal", 0.25).value == pytest.approx(0.75 * -0.1 + 0.25 * 0.4)


def test_a_budget_is_shipped_only_where_the_gain_is_above_its_error() -> None:
    helps = [*made(0.1, 0.05), *made(0.3, 0.05, CROSS, cross=True)]
    assert verdict(helps, 0.1, SETTING, packed=True).startswith("2000 tokens: +0.0")
    assert "behind a pack" in verdict(helps, 0.1, SETTING, packed=True)
    assert "in front of the file" in verdict(helps, 0.1, SETTING, packed=False)
    harms = [*made(-0.1, 0.05), *made(0.3, 0.05, CROSS, cross=True)]
    assert verdict(harms, 0.1, SETTING, packed=True).startswith("none: -0.0")
    assert verdict(harms, 0.9, SETTING, packed=True).startswith("2000 tokens")
    assert verdict([], 0.1, SETTING, packed=True) == "none: too few lines are scored"
