"""The worth benchmark without a server: it starts an engine of its own for the model, and ends it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import kv_engine, worth, worth_engine
from benchmarks.worth_lines import VARIANTS, Sizes

from aicockpit.errors import ModelError
from aicockpit.models import locate, smollm2
from aicockpit.models.locate import ModelFiles
from worth_rig import SIZES, WORDS, corpus_of, tokenizer_in, tree_in

RIG = Path(__file__).parent / "worth_rig.py"


class Started:
    """Stands in for vLLM's command line with a process of `program`; what it was asked to run."""

    def __init__(self, *program: str) -> None:
        self.program = program
        self.runs: list[tuple[Path, int, tuple[str, ...]]] = []

    def __call__(self, model: Path, port: int, tier: Mapping[str, Any] | None, flags: Sequence[str]) -> list[str]:
        assert tier is None
        self.runs.append((model, port, tuple(flags)))
        return [sys.executable, *self.program, str(port)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tokenizer_in(tmp_path / "model")
    monkeypatch.setattr(worth, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(worth, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(worth, "files_of", lambda name: ModelFiles(made, "local", f"served-{name}"))
    return made


@pytest.fixture
def words(tmp_path: Path, model: Path) -> list[str]:
    return [str(tree_in(tmp_path / "small")), "--model", "m-135M", "--lines", "3", *WORDS]


def test_a_path_and_a_model_are_enough(
    words: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(str(RIG))
    monkeypatch.setattr(kv_engine, "command", started)
    assert worth.main([*words, "--chat", "--write"]) == 0
    ((folder, port, flags),) = started.runs
    assert folder == model
    assert flags == worth_engine.flags(SIZES)
    with pytest.raises(ConnectionRefusedError):  # it was ended
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    (kept,) = (tmp_path / "bench").glob("*.jsonl")
    assert kept.name.startswith("worth-served-m-135M-small-")
    results = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(results) == 6
    assert all(set(result["exact"]) == set(VARIANTS) for result in results)
    page = (tmp_path / "page.md").read_text()
    assert "<!-- bench:worth:served-m-135M:begin -->" in page
    assert "- model served-m-135M, prompts in the style qwen" in page
    assert worth.main([*words, "--chat"]) == 0  # nothing is left to score
    assert len(started.runs) == 1


def test_an_engine_that_does_not_get_ready_is_told_with_its_own_words(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(kv_engine, "command", Started("-c", "raise SystemExit('no engine is installed here')"))
    assert worth.main(words) == 2
    said = capsys.readouterr().out
    assert "cannot start: the engine is not ready" in said
    assert "no engine is installed here" in said
    assert "--engine or --gateway" in said
    assert not list((tmp_path / "bench").glob("*.jsonl"))


def test_an_interrupted_run_ends_its_engine(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    started = Started(str(RIG))
    monkeypatch.setattr(kv_engine, "command", started)
    monkeypatch.setattr(worth, "score", interrupted)
    assert worth.main(words) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", started.runs[0][1]), timeout=5).close()


def test_the_longest_prompt_has_room(tmp_path: Path) -> None:
    corpus = corpus_of(tree_in(tmp_path / "small"))
    lengths = []
    for sample in corpus.samples(20, 1)[0]:
        prompts = corpus.prompts(sample)
        lengths.append(max(map(len, prompts.before.values())) + 2 * len(prompts.line))
    words = worth_engine.flags(SIZES)
    window = int(words[words.index("--max-model-len") + 1])
    assert max(lengths) + worth_engine.ROOM / 2 < window
    assert int(worth_engine.flags(Sizes())[1]) < 8_192  # of the embedded model


def test_the_embedded_model_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(locate, "embedded", lambda name: name == smollm2.REPO_ID)
    monkeypatch.setattr(locate, "resolve", asked)
    monkeypatch.setattr(smollm2, "ensure", lambda state: tmp_path)
    found = worth_engine.files_of(smollm2.REPO_ID)
    assert (found.path, found.served_name) == (tmp_path, smollm2.REPO_ID)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        worth_engine.files_of(str(tmp_path / "nowhere"))
    assert worth.main([str(tmp_path), "--model", str(tmp_path / "nowhere")]) == 2
    assert "cannot start: The model folder" in capsys.readouterr().out
