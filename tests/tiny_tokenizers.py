"""Small real tokenizers for tests: trained on a few lines, with the control tokens of a model family."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from aicockpit.prompts.tokens import Encoder

LINES = (
    "def add(first, second):\n    return first + second\n",
    "import os\nfrom pathlib import Path\n\n# src/main.py\nclass Sum:\n    total = 0\n",
    "const value = items.map((item) => item.price);\n",
)

FAMILIES: dict[str, tuple[str, ...]] = {
    "qwen": (
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
        *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    ),
    "codegemma": ("<bos>", "<eos>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"),
    "granite": ("<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    "fim-pipes": ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    "starcoder2": ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<repo_name>", "<file_sep>"),
    "codeqwen": ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<reponame>", "<file_sep>"),
    "granite3": ("<|end_of_text|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<filename>", "<reponame>"),
    "mellum": (
        *("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<filename>", "<reponame>"),
        *("<system>", "<user>", "<assistant>"),
    ),
    "starcoder": ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<filename>", "<reponame>"),
    "fim": ("</s>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    "deepseek": (
        *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"),
        "<|EOT|>",
    ),
    "seedcoder": (
        *("<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"),
        *("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
    ),
    "codellama": ("<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    "codestral": ("<unk>", "<s>", "</s>", "[INST]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    "plain-files": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>"),
    "plain": ("<s>", "</s>"),
}
SENTENCEPIECE = ("codellama", "codestral")


def byte_level(tokens: Iterable[str] = (), *, special: bool = True, lines: Iterable[str] = LINES) -> bytes:
    """A tokenizer.json like Qwen's or StarCoder's. `special` False: its control tokens are not marked as such."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return _with_tokens(made, tokens, special)


def sentencepiece(tokens: Iterable[str] = ()) -> bytes:
    """A tokenizer.json like Llama's: bytes as a fallback, and a space put in front of each text."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(decoder)
    start = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=500, special_tokens=start, show_progress=False, max_token_length=8)
    )
    data = json.loads(made.to_str())
    data["added_tokens"] = data["added_tokens"][:1]  # the bytes are words, as in Llama's own file
    return _with_tokens(Tokenizer.from_str(json.dumps(data)), tokens, True)


def _with_tokens(made: Tokenizer, tokens: Iterable[str], special: bool) -> bytes:
    names = [token for token in tokens if made.token_to_id(token) is None]
    (made.add_special_tokens if special else made.add_tokens)(names)
    return made.to_str().encode()


def of_family(name: str) -> Encoder:
    """An encoder with the control tokens of a family of FAMILIES."""
    return Encoder(sentencepiece(FAMILIES[name]) if name in SENTENCEPIECE else byte_level(FAMILIES[name]))
