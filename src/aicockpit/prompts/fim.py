"""Fill-in-the-middle: how each model family wants a repository and the file around the cursor written down.

The family is told by the tokenizer's control tokens, never by the model's name. A layout is written as its source
writes it, with {fields}; a control token in it becomes its id, what stands between two of them is encoded as one
text, so user text can never add a control token. A prompt is `header + item + item + ... + tail`.

Where the suffix stands behind the prefix, every key would have it computed anew. So the prefix ends with the line
before the cursor's, and what stands before the cursor in its own line is put behind the last control token, as if the
model had begun it: in the cache a key then costs that line. llama.cpp's `/infill` has the field `prompt` for it
(tools/server/README.md: "added after the FIM_MID token"), and llama.vim and llama.vscode fill it so. `NAME-whole` is
the layout as its source has it, with all in the prefix.

A tokenizer having the tokens does not prove that the model was trained with them (general Qwen and Mistral models
carry those of their coder relatives): `override` exists for that, and the reason is shown to the operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from aicockpit.errors import SettingError
from aicockpit.prompts.tokens import Encoder

_COMMENT = "# {path}\n{text}\n"
_PIPES = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
_PLAIN = "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
_LINE = "{line}"
_WHOLE = "-whole"
_ENDS = (
    *("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<end_of_turn>", "<|end_of_text|>", "<|eot_id|>", "<|EOT|>"),
    *("<｜end▁of▁sentence｜>", "<[end▁of▁sentence]>"),
)
"""Ends of a text or turn in the families below; those that a tokenizer has stop every completion."""

Part = int | str
"""Of a layout made ready: a token id, literal text, or the name of a field in braces."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table. `needs`: the control tokens that it is told by, all of which its layouts may use.

    `repo_tail` follows a header, `file_tail` is a whole prompt. {bos} is the token that begins a text, if the tokenizer
    or `starts` says there is one; {space} is a space where the tokenizer puts one in front of a text.
    `verified`: the layout, as `NAME-whole` has it, was checked against a text by the model's authors; otherwise
    `source` says what is not. `whole`: all that stands before the cursor is in the prefix.
    """

    name: str
    needs: tuple[str, ...]
    header: str
    item: str
    repo_tail: str
    file_tail: str
    source: str
    verified: bool = True
    whole: bool = False
    starts: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    fim: bool = True


# The order is the order of detection: the families with more companions first.
_FAMILIES = (
    Family(
        name="deepseek",
        needs=("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        header="{bos}<｜fim▁begin｜>",
        item="#{path}\n{text}\n",
        repo_tail="#{path}\n{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        file_tail="{bos}<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        source="DeepSeek-Coder model card; not verified: both of its examples (repository, infilling) in one prompt",
        verified=False,
        starts=("<｜begin▁of▁sentence｜>",),
    ),
    Family(
        name="seedcoder",
        needs=("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
        header="{bos}",
        item=_COMMENT,
        repo_tail="<[fim-suffix]>{suffix}<[fim-prefix]># {path}\n{prefix}<[fim-middle]>",
        file_tail="{bos}<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",
        source="Seed-Coder technical report (suffix first); not verified: files in front of the suffix",
        verified=False,
        starts=("<[begin▁of▁sentence]>",),
    ),
    Family(
        name="codellama",
        needs=("▁<PRE>", "▁<SUF>", "▁<MID>"),
        header="{bos}▁<PRE>",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}▁<SUF>{suffix}▁<MID>",
        file_tail="{bos}▁<PRE> {prefix}▁<SUF>{suffix}▁<MID>",
        source='CodeLlama infilling, "<PRE> P <SUF>S <MID>", the space before P counts; not verified: files in P',
        verified=False,
        starts=("<s>",),
        stops=("▁<EOT>",),
    ),
    Family(
        name="codestral",
        needs=("[PREFIX]", "[SUFFIX]"),
        header="{bos}",
        item="+++++ {path}\n{text}\n",
        repo_tail="[SUFFIX]{suffix}[PREFIX]{space}+++++ {path}\n{prefix}",
        file_tail="{bos}[SUFFIX]{suffix}[PREFIX]{space}{prefix}",
        source="mistral-common encode_fim; '+++++' as Continue has it; not verified: files before [SUFFIX]",
        verified=False,
        starts=("<s>",),
        stops=("[MIDDLE]",),
    ),
    Family(
        name="qwen",
        needs=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"),
        header="{bos}<|repo_name|>{repo}\n",
        item="<|file_sep|>{path}\n{text}\n",
        repo_tail="<|file_sep|>{path}\n" + _PIPES,
        file_tail="{bos}" + _PIPES,
        source="QwenLM/Qwen2.5-Coder examples/Qwen2.5-Coder.md (the same tokens in Qwen3-Coder)",
        stops=("<|fim_pad|>", "<|im_start|>"),
    ),
    Family(
        name="codegemma",
        needs=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"),
        header="{bos}",
        item="{path}\n{text}\n<|file_separator|>",
        repo_tail="{path}\n" + _PIPES,
        file_tail="{bos}" + _PIPES,
        source="CodeGemma technical report (arXiv 2406.11409), figure 2; Google's page on its prompt structure",
        starts=("<bos>",),
    ),
    Family(
        name="granite",
        needs=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|end_of_text|>"),
        header="{bos}<|fim_prefix|>",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
        file_tail="{bos}" + _PIPES,
        source="Granite 4, IBM's prompt guide as Continue cites it; not verified: files in the prefix",
        verified=False,
        stops=("<|fim_pad|>", "<|filename|>", "<|reponame|>", "<|start_of_role|>"),
    ),
    Family(
        name="fim-pipes",
        needs=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        header="{bos}<|fim_prefix|>",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
        file_tail="{bos}" + _PIPES,
        source="an unknown family with Qwen's infilling tokens; not verified",
        verified=False,
    ),
    Family(
        name="starcoder2",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"),
        header="{bos}<repo_name>{repo}",
        item="<file_sep>{path}\n{text}\n",
        repo_tail="<file_sep><fim_prefix>{path}\n{prefix}<fim_suffix>{suffix}<fim_middle>",
        file_tail="{bos}" + _PLAIN,
        source="StarCoder 2 paper (arXiv 2402.19173), section 5.1: the path stands inside <fim_prefix>",
        stops=("<fim_pad>",),
    ),
    Family(
        name="codeqwen",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<file_sep>"),
        header="{bos}<reponame>{repo}\n",
        item="<file_sep>{path}\n{text}\n",
        repo_tail="<file_sep>{path}\n" + _PLAIN,
        file_tail="{bos}" + _PLAIN,
        source="CodeQwen1.5 README; not verified: infilling behind other files",
        verified=False,
        stops=("<fim_pad>",),
    ),
    Family(
        name="granite3",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|end_of_text|>"),
        header="{bos}<fim_prefix>",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}<fim_suffix>{suffix}<fim_middle>",
        file_tail="{bos}" + _PLAIN,
        source="Granite 3 has StarCoder's tokens and its own end of text; not verified: files in the prefix",
        verified=False,
        stops=("<fim_pad>", "<filename>", "<reponame>", "<|start_of_role|>"),
    ),
    Family(
        name="mellum",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>", "<assistant>"),
        header="{bos}",
        item="<filename>{path}\n{text}\n",
        repo_tail="<filename>{path}\n<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>",
        file_tail="{bos}<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>",
        source="Mellum-4b-base model card, read in copies of it (suffix first); told from StarCoder by its chat roles",
        verified=False,
        stops=("<fim_pad>", "<reponame>"),
    ),
    Family(
        name="starcoder",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>", "<reponame>"),
        header="{bos}<reponame>{repo}",
        item="<filename>{path}\n{text}\n",
        repo_tail="<fim_prefix><filename>{path}\n{prefix}<fim_suffix>{suffix}<fim_middle>",
        file_tail="{bos}" + _PLAIN,
        source="StarCoder's format page (also Refact, Granite-code); not verified: several files, the path inside",
        verified=False,
        stops=("<fim_pad>", "<gh_stars>"),
    ),
    Family(
        name="fim",
        needs=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        header="{bos}<fim_prefix>",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}<fim_suffix>{suffix}<fim_middle>",
        file_tail="{bos}" + _PLAIN,
        source="an unknown family with StarCoder's infilling tokens; not verified",
        verified=False,
    ),
    Family(
        name="plain-files",
        needs=("<repo_name>", "<file_sep>"),
        header="{bos}<repo_name>{repo}",
        item="<file_sep>{path}\n{text}\n",
        repo_tail="<file_sep>{path}\n{prefix}",
        file_tail="{bos}{prefix}",
        source="SmolLM2: StarCoder 2's repository tokens and none for infilling; not verified: any training with them",
        verified=False,
        fim=False,
    ),
    Family(
        name="plain",
        needs=(),
        header="{bos}",
        item=_COMMENT,
        repo_tail="# {path}\n{prefix}",
        file_tail="{bos}{prefix}",
        source="a model without infilling tokens goes on from the prefix; what stands behind the cursor is not sent",
        fim=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Style:
    """A family's layouts with the ids of one tokenizer. `stops`: ids that end a completion, to be added to the
    client's own. `fim` False: the model goes on from the prefix, the suffix is not used. `source`: where the layout
    is from, `verified` whether it was checked there.
    """

    name: str
    fim: bool
    stops: tuple[int, ...]
    source: str
    verified: bool
    starts: int | None
    header_parts: tuple[Part, ...]
    item_parts: tuple[Part, ...]
    repo_parts: tuple[Part, ...]
    file_parts: tuple[Part, ...]

    def header(self, encoder: Encoder, repo: str) -> tuple[int, ...]:
        """The tokens before the first item. Raises TextTooLong, as the others do."""
        return self._render(encoder, self.header_parts, {"{repo}": one_line(repo)})

    def item(self, encoder: Encoder, path: str, text: str) -> tuple[int, ...]:
        """One file in repository form. Items stand behind each other as they are."""
        return self._render(encoder, self.item_parts, {"{path}": one_line(path), "{text}": text.rstrip("\n")})

    def tail(
        self, encoder: Encoder, path: str, prefix: str, suffix: str, *, repo_level: bool = True
    ) -> tuple[int, ...]:
        """The request's own part: the file around the cursor.

        `repo_level` True: it follows a header and any number of items. False: it is the whole prompt, with the token
        that begins a text, and without the path.
        """
        parts = self.repo_parts if repo_level else self.file_parts
        return self._render(encoder, parts, self._fields(path, prefix, suffix))

    def lead(self, encoder: Encoder, path: str, prefix: str, suffix: str) -> tuple[int, ...]:
        """`tail` at repository level up to the cursor: what a request keeps of it when its line grows.

        Where the suffix stands in front of the cursor, that is all of it for as long as the suffix is the same one.
        """
        last = _LINE if _LINE in self.repo_parts else "{prefix}"
        fields = self._fields(path, prefix, suffix if self.fim else "")
        return self._render(encoder, self.repo_parts[: self.repo_parts.index(last) + 1], fields)

    def _fields(self, path: str, prefix: str, suffix: str) -> dict[str, str]:
        line = prefix.rfind("\n") + 1 if _LINE in self.repo_parts else len(prefix)
        return {"{path}": one_line(path), "{prefix}": prefix[:line], "{suffix}": suffix, _LINE: prefix[line:]}

    def _render(self, encoder: Encoder, parts: tuple[Part, ...], fields: Mapping[str, str]) -> tuple[int, ...]:
        bos = self.starts if encoder.bos is None else encoder.bos
        known = {**fields, "{space}": " " if encoder.prepends_space else ""}
        ids: list[int] = []
        text: list[str] = []
        for part in parts:
            if isinstance(part, str) and part != "{bos}":
                text.append(known.get(part, part))
                continue
            ids += encoder.encode("".join(text)) if text else ()
            text = []
            ids += [part] if isinstance(part, int) else [] if bos is None else [bos]
        return (*ids, *encoder.encode("".join(text)))


def detect(specials: Mapping[str, int], override: str = "") -> tuple[Style, str]:
    """The style for a tokenizer with these control tokens, and why. `override`: a style's name, which then decides.

    Raises SettingError: no such style, or the tokenizer lacks what the style needs.
    """
    if override:
        family = _named(override)
        if missing := [token for token in family.needs if token not in specials]:
            raise SettingError(
                f"the fill-in-the-middle style {override} needs {', '.join(missing)}, which this model's tokenizer "
                f"does not have. It can use: {', '.join(f.name for f in _fitting(specials))}"
            )
        return _style(family, specials), f"chosen by the operator; {_told(family)}"
    family = next(_fitting(specials))
    return _style(family, specials), _told(family)


def styles() -> tuple[str, ...]:
    """The names that `override` takes."""
    return tuple(name for family in _FAMILIES for name in (family.name, *([family.name + _WHOLE] * _splits(family))))


def _fitting(specials: Mapping[str, int]) -> Iterator[Family]:
    return (family for family in _FAMILIES if all(token in specials for token in family.needs))


def _named(name: str) -> Family:
    for family in _FAMILIES:
        if family.name == name:
            return family
        if family.name + _WHOLE == name and _splits(family):
            return replace(family, name=name, whole=True)
    raise SettingError(f"there is no fill-in-the-middle style {name!r}. There are: {', '.join(styles())}")


def _told(family: Family) -> str:
    has = f"has {', '.join(family.needs)}" if family.needs else "has no fill-in-the-middle tokens"
    line = "; the cursor's line behind the suffix, as llama.cpp's /infill has it"
    return f"{has}: layout {family.name} ({family.source}{line if _splits(family) and not family.whole else ''})"


def _style(family: Family, specials: Mapping[str, int]) -> Style:
    stops = {specials[token] for token in (*_ENDS, *family.needs, *family.stops) if token in specials}
    return Style(
        name=family.name,
        fim=family.fim,
        stops=tuple(sorted(stops)),
        source=family.source,
        verified=family.verified,
        starts=next((specials[token] for token in family.starts if token in specials), None),
        header_parts=_parts(family, family.header, specials),
        item_parts=_parts(family, family.item, specials),
        repo_parts=_parts(family, family.repo_tail, specials),
        file_parts=_parts(family, family.file_tail, specials),
    )


def _splits(family: Family) -> bool:
    """Does the suffix stand behind the prefix?"""
    return -1 < family.file_tail.find("{prefix}") < family.file_tail.find("{suffix}")


def _parts(family: Family, layout: str, specials: Mapping[str, int]) -> tuple[Part, ...]:
    """The layout cut at its control tokens and fields, before any user text is in it."""
    if "{suffix}" in layout and _splits(family) and not family.whole:
        layout += _LINE
    cut = re.split(f"({'|'.join([*map(re.escape, family.needs), r'{[a-z]+}'])})", layout)
    return tuple(specials[part] if part in family.needs else part for part in cut if part)


def one_line(name: str) -> str:
    """A name with no line break in it, so that it cannot look like more than a name."""
    return " ".join(name.splitlines())
