"""Text to token ids as the engine would make them, but with no way for user code to become a special token.

Used by everything in `prompts`. A prompt is sent as token ids, put together from token lists that were made apart:
`tokens(A) + (separator,) + tokens(B)`. For that to be exact, an `Encoder` differs from the tokenizer it wraps:

- A special string inside a text ("<|fim_prefix|>" in a file about models) stays ordinary text. `encode_special_tokens`
  does this for tokens marked special; models also have control tokens that are *not* marked (Qwen's `<|fim_prefix|>`,
  DeepSeek's `<｜fim▁hole｜>`), so those are marked here. As a last guard the ids are looked at.
- Nothing is added: no BOS, no leading space (SentencePiece's "dummy prefix"), no truncation, no padding, no dropout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import xxhash
from tokenizers import Tokenizer

from aicockpit.errors import AicockpitError

PIECE_CHARS = 65_536
"""A longer text is encoded in pieces of at most this many characters, cut in front of a line that is not indented."""

LIMIT_CHARS = 4_000_000
"""The longest text that is encoded at all."""

_RULES = b"1\n"  # raise it when the ids of a text change: lists that were kept under the old fingerprint are void
_TEXT_TAGS = frozenset(
    [
        "a",
        "b",
        "i",
        "u",
        "s",
        "p",
        "em",
        "br",
        "hr",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "li",
        "ol",
        "ul",
        "td",
        "th",
        "tr",
        "dd",
        "dl",
        "dt",
        "del",
        "ins",
        "sub",
        "sup",
        "img",
        "pre",
        "code",
        "table",
        "tbody",
        "thead",
        "tfoot",
        "caption",
        "strong",
        "blockquote",
        "div",
        "span",
    ]
)
_BRACKETED = re.compile(r"▁?(?:</?([^<>]+)>|\[[^\[\]]+\])", re.DOTALL)
_CUT = re.compile(r"\n(?=\S)")


class TokenizerMissing(AicockpitError):
    """A model folder has no tokenizer that can be read. The message says what to do."""


class TextTooLong(AicockpitError):
    """A text is longer than LIMIT_CHARS."""


class Encoder:
    """A model's tokenizer for pieces of prompts. Never changes, so threads may share it.

    `specials`: the control tokens and their ids. `fingerprint`: 32 hex digits, other when ids may be other.
    `bos`: the token that this tokenizer puts in front of a text, None when it puts none.
    `prepends_space`: the tokenizer would put a space in front of a text (the Encoder does not).
    """

    __slots__ = ("_control", "_parts", "_tokenizer", "bos", "fingerprint", "prepends_space", "specials")

    def __init__(self, document: bytes, config: Mapping[str, Any] | None = None) -> None:
        """From the bytes of a tokenizer.json and, where there is one, the decoded tokenizer_config.json.

        Raises ValueError: not a tokenizer.json that this version of `tokenizers` reads.
        """
        data = _json(document)
        try:
            added = _control_tokens(data)
            self.prepends_space = _without_prefix(data)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("it is not built like a tokenizer.json") from error
        self.specials: Mapping[str, int] = MappingProxyType({token: added[token] for token in sorted(added)})
        self.fingerprint = xxhash.xxh3_128_hexdigest(_RULES + document)
        self._tokenizer = Tokenizer.from_buffer(msgspec.json.encode(data))
        self._tokenizer.encode_special_tokens = True
        self._control = frozenset(added.values())
        self._parts = re.compile("|".join(re.escape(t) for t in sorted(added, key=len, reverse=True)) or r"(?!)")
        self.bos = _bos(self._tokenizer, self.specials, config or {})

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text. A character that the vocabulary cannot write is left out. Raises TextTooLong."""
        if len(text) > LIMIT_CHARS:
            raise TextTooLong(
                f"a text of {len(text)} characters is too long for a prompt (the limit is {LIMIT_CHARS}): send less"
            )
        if not text.isascii():  # half a surrogate pair is no text
            text = text.encode("utf-8", "replace").decode("utf-8")
        if len(text) <= PIECE_CHARS:
            return self._encode(text)
        return tuple(token for piece in pieces(text, PIECE_CHARS) for token in self._encode(piece))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, control tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._control.isdisjoint(ids):
            return tuple(ids)
        # A vocabulary that has the control token as a word of its own, or a byte that it cannot write (the unknown
        # token then stands for it, which some models share with the end of text).
        found = [self._tokenizer.encode(part, add_special_tokens=False).ids for part in self._broken(text)]
        return tuple(token for part in found for token in part if token not in self._control)

    def _broken(self, text: str) -> Iterator[str]:
        """The text in parts, cut inside of every special string."""
        start = 0
        for match in self._parts.finditer(text):
            middle = (match.start() + match.end()) // 2
            yield text[start:middle]
            start = middle
        yield text[start:]


def load(folder: Path) -> Encoder:
    """The encoder of a Hugging Face model folder. Raises TokenizerMissing."""
    try:
        document = (folder / "tokenizer.json").read_bytes()
    except OSError as error:
        raise TokenizerMissing(
            f"{folder} has no tokenizer.json that can be read ({error.strerror or error}), so prompts with repository "
            "context cannot be made for this model. If the folder has another kind of tokenizer, let transformers "
            f"convert it once: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        ) from error
    try:
        config = _json((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        config = {}  # it only tells about BOS, which the tokenizer mostly tells itself
    try:
        return Encoder(document, config)
    except ValueError as error:
        raise TokenizerMissing(
            f"{folder / 'tokenizer.json'} cannot be used ({error}). Fetch the model again, or update AiCockpit's "
            "package `tokenizers` if the model is newer than it."
        ) from error


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in pieces of at most `limit` characters.

    A cut lies in front of a line that is not indented, where byte-level tokenizers split anyway, if the second half
    of a piece has one; else at the limit. Either way it depends on nothing but the text.
    """
    start = 0
    while len(text) - start > limit:
        cuts = [match.end() for match in _CUT.finditer(text, start + limit // 2, start + limit)]
        end = cuts[-1] if cuts else start + limit
        yield text[start:end]
        start = end
    yield text[start:]


def _json(document: bytes) -> dict[str, Any]:
    data = msgspec.json.decode(document)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _is_control(content: str, special: bool) -> bool:
    """A tag of HTML that is one token (Gemma) is text; any other bracketed token is for control."""
    match = _BRACKETED.fullmatch(content)
    return special or (match is not None and (match[1] or "").lower() not in _TEXT_TAGS)


def _control_tokens(data: dict[str, Any]) -> dict[str, int]:
    """The control tokens; marks them as special in `data`, and takes out what makes ids depend on anything else."""
    control: dict[str, int] = {}
    for token in data.get("added_tokens") or ():
        if _is_control(token["content"], bool(token.get("special"))):
            token["special"] = True
            control[token["content"]] = token["id"]
    data["truncation"] = data["padding"] = None
    if isinstance(model := data.get("model"), dict) and model.get("dropout"):
        model["dropout"] = None
    return control


def _without_prefix(data: dict[str, Any]) -> bool:
    """Takes the space out that a tokenizer puts in front of a text; True if there was one."""
    found = [step for key in ("normalizer", "pre_tokenizer") for step in _steps(data, key) if _prefixes(step)]
    data["normalizer"] = _filtered(data.get("normalizer"), "normalizers", "Prepend")
    if found:
        data["decoder"] = _filtered(data.get("decoder"), "decoders", "Strip")
    for step in [*found, *_steps(data, "decoder")]:
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    return bool(found)


def _prefixes(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never")
    return step["type"] == "Prepend" or (step["type"] == "ByteLevel" and bool(step.get("add_prefix_space")))


def _steps(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, sequences taken apart."""
    todo, found = [data.get(key)], []
    while todo:
        step = todo.pop(0)
        if isinstance(step, dict):
            inner = step.get("normalizers") or step.get("pretokenizers") or step.get("decoders") or []
            todo = [*inner, *todo]
            found.append(step)
    return found


def _filtered(step: dict[str, Any] | None, key: str, without: str) -> dict[str, Any] | None:
    if step is None or step["type"] == without:
        return None
    if key not in step:
        return step
    return {**step, key: [kept for inner in step[key] if (kept := _filtered(inner, key, without)) is not None]}


def _bos(tokenizer: Tokenizer, specials: Mapping[str, int], config: Mapping[str, Any]) -> int | None:
    """What the post-processor puts in front, unless the configuration says in so many words that it is (not) wanted.

    (Llama-like models have `add_bos_token` there, which transformers obeys even against the tokenizer.json.)
    """
    token = config.get("bos_token")
    named = specials.get(token.get("content", "") if isinstance(token, dict) else str(token))
    asked = config.get("add_bos_token")
    if asked is False:
        return None
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    if len(whole) > len(bare) and whole[0] in specials.values() and whole[: len(bare)] != bare:
        return int(whole[0])
    return named if asked is True else None
