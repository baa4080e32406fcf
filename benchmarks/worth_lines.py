"""The lines to score and the prompts in front of them: which lines, what is held out, what each variant shows.

A line is scored from the end of the line before it, so that its indentation is tokenised as in a file. The open file
is held out: the pack is built without it, its neighbourhood from its text without the line, and no snippet is its own.

`similar` is the peers' way: searched for at the line itself. What is shipped is `similar held`: the cursor comes
walking down to the line, a search is made where the words around it have changed (`similar.moved`), and its snippets
stand in the prompt some lines later, when they are warm.
"""

from __future__ import annotations

import random
import re
from collections import ChainMap, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import xxhash

from aicockpit.prompts import pack, similar
from aicockpit.prompts.chat import system_text, with_context
from aicockpit.prompts.fim import Style
from aicockpit.prompts.languages import TEXT, Grammars, language_of
from aicockpit.prompts.neighbours import neighbours
from aicockpit.prompts.skeleton import Analysis, analyse
from aicockpit.prompts.tokens import Encoder

NONE, PACK, NEAR = "none", "pack", "neighbourhood"
PEERS, HELD, TWICE = "similar", "similar held", "twice similar held"
# The segments of each variant, in the order in which they stand in the prompt.
SEGMENTS: Mapping[str, tuple[str, ...]] = {
    NONE: (),
    PACK: (PACK,),
    NEAR: (NEAR,),
    f"{PACK} + {NEAR}": (PACK, NEAR),
    PEERS: (PEERS,),
    HELD: (HELD,),
    f"{PACK} + {HELD}": (PACK, HELD),
    f"{NEAR} + {HELD}": (NEAR, HELD),
    f"{PACK} + {NEAR} + {HELD}": (PACK, NEAR, HELD),
    TWICE: (TWICE,),
    f"{PACK} + {TWICE}": (PACK, TWICE),
    f"{PACK} + {NEAR} + {TWICE}": (PACK, NEAR, TWICE),
}
VARIANTS = tuple(SEGMENTS)
CHAT = {f"chat: {name}": name for name in (NONE, PACK, NEAR, HELD)}
RANDOM, CROSS = "random", "cross"
WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
STATEMENT = re.compile(r"\s*(import|from|use|#include|require|package|using)\b")
COMMENT = re.compile(r"\s*(#|//|/\*|\*|\"\"\"|''')")
LONGEST, SHORTEST = 40, 3  # tokens of a line
NEIGHBOURS = 40
# Methods of the built-in types: a file that defines one as well is not where such a call leads.
BUILT_IN = frozenset(name for kind in (str, bytes, dict, list, set, int, object) for name in dir(kind))
SNIPPET_LINES = 32
WALK = 64  # lines above the scored one where the file is opened, at most
LATE = 2  # lines written between a search and its snippets being warm
ASKED = "This is {path} as far as it is written:\n\n```\n{text}\n```\n\nReply with its next line and nothing else."


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of the pack, the neighbourhood, the similar snippets, and of the file before and behind the line."""

    pack: int = 1_024
    near: int = 512
    similar: int = 512
    before: int = 384
    after: int = 96


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: `number` from 0 in `path`; `symbol` is what a cross line takes from another file."""

    path: str
    number: int
    kind: str
    symbol: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.path}:{self.number}"


@dataclass(frozen=True, slots=True)
class Prompts:
    """The token ids in front of the line for each variant, and the line's own; for chat, the messages."""

    line: tuple[int, ...]
    text: str
    before: Mapping[str, tuple[int, ...]]
    said: tuple[int, ...]  # the line as an answer in a chat, without the line feed in front of it
    chats: Mapping[str, list[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Walk:
    """How a cursor came to a line: the query in use there, its age in lines, searches made, lines walked."""

    query: frozenset[str]
    age: int
    searches: int
    lines: int


class Corpus:
    """A tree with its analyses, and the prompts for its lines."""

    def __init__(self, name: str, tree: Mapping[str, str], encoder: Encoder, style: Style, sizes: Sizes) -> None:
        self.name, self.tree, self.sizes = name, dict(tree), sizes
        self._encoder, self._style = encoder, style
        self._grammars = Grammars()
        self.analyses = {path: analyse(path, text, self._grammars) for path, text in self.tree.items()}
        self._items = pack.ItemCache(2_000_000)
        self._packs: dict[str, pack.Pack] = {}
        self._homes: dict[str, set[str]] = defaultdict(set)
        for path, analysis in self.analyses.items():
            for symbol in analysis.defines:
                self._homes[symbol].add(path)
        self._pieces = [(path, chunk, set(WORD.findall(chunk))) for path, chunk in self._cut()]
        self._chunks = similar.Chunks()
        for path, text in sorted(self.tree.items()):
            self._chunks.add(path, text)

    def samples(self, count: int, seed: int) -> tuple[list[Sample], float]:
        """`count` random and `count` cross lines in an order whose every part is balanced, and the share of lines
        that are cross lines."""
        everything = [sample for path in sorted(self.tree) for sample in self._eligible(path)]
        cross = [sample for sample in everything if sample.kind == CROSS]
        rng = random.Random(f"{seed} {self.name} worth")
        plain = [
            Sample(s.path, s.number, RANDOM, s.symbol) for s in rng.sample(everything, min(count, len(everything)))
        ]
        picked = [*plain, *rng.sample(cross, min(count, len(cross)))]
        return balanced(picked, rng), len(cross) / max(1, len(everything))

    def prompts(self, sample: Sample) -> Prompts:
        """Every variant for one line."""
        lines = self.tree[sample.path].splitlines(keepends=True)
        prefix, suffix = self.window(sample.path, sample.number)
        encoder, style = self._encoder, self._style
        alone = style.tail(encoder, sample.path, prefix, suffix, repo_level=False)
        tail = style.tail(encoder, sample.path, prefix, suffix, repo_level=True)
        header = style.header(encoder, self.name)
        packed = self._pack(sample.path)
        without = "".join(lines[: sample.number] + lines[sample.number + 1 :])
        packs = [(item.path, item.text) for item in packed.items]
        held, snippets = self._held(sample, self.sizes.similar)
        twice, _ = self._held(sample, 2 * self.sizes.similar)
        near, skeletons = self._near(sample.path, without, ())
        behind, _ = self._near(sample.path, without, [path for path, _ in packs])
        parts = {
            PACK: packed.tokens[packed.header :],
            PEERS: self._peers(sample.path, prefix),
            HELD: held,
            TWICE: twice,
        }
        before = {}
        for variant, names in SEGMENTS.items():
            parts[NEAR] = behind if PACK in names else near
            context = tuple(token for name in names for token in parts[name])
            before[variant] = header + context + tail if context else alone
        shown: dict[str, list[tuple[str, str]]] = {NONE: [], PACK: packs, NEAR: skeletons, HELD: snippets}
        target = lines[sample.number].rstrip("\n")
        chats = {chat: self._chat(sample.path, prefix, shown[name]) for chat, name in CHAT.items()}
        return Prompts(encoder.encode("\n" + target), "\n" + target, before, encoder.encode(target), chats)

    def walk(self, sample: Sample) -> Walk:
        """The cursor comes down to the line from up to WALK lines above it."""
        lines = self.tree[sample.path].splitlines()
        start = max(0, sample.number - xxhash.xxh3_64_intdigest(sample.id.encode()) % WALK)
        made = used = start
        asked = query = similar.query("\n".join(lines[:start]))
        searches = 1
        for number in range(start + 1, sample.number + 1):
            now = similar.query("\n".join(lines[:number]))
            if similar.moved(asked, now):
                asked, made, searches = now, number, searches + 1
            if number >= made + LATE and query is not asked:
                query, used = asked, made
        return Walk(query, sample.number - used, searches, sample.number - start)

    def _held(self, sample: Sample, budget: int) -> tuple[tuple[int, ...], list[tuple[str, str]]]:
        """What is shipped: the tokens, and the (path, text) that they show."""
        found = self._chunks.search(self.walk(sample).query, (sample.path,))
        tokens, items = similar.segment(found, self.tree.get, self._style, self._encoder, budget)
        return tokens, [(item.path, item.text) for item in items]

    def _chat(self, path: str, prefix: str, items: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        context = system_text(items, self.name, self._encoder.specials)
        return with_context([{"role": "user", "content": ASKED.format(path=path, text=prefix)}], context)

    def window(self, path: str, number: int) -> tuple[str, str]:
        """The text before the line, without the newline in front of it, and behind it."""
        lines = self.tree[path].splitlines(keepends=True)
        before = self._fit(lines[:number], self.sizes.before)
        after = self._fit(lines[number + 1 :][::-1], self.sizes.after)[::-1]
        return "".join(before).removesuffix("\n"), "\n" + "".join(after)

    def _fit(self, lines: Sequence[str], limit: int) -> list[str]:
        kept: list[str] = []
        for line in reversed(lines):
            limit -= len(self._encoder.encode(line))
            if limit < 0 and kept:
                break
            kept.append(line)
        return kept[::-1]

    def _eligible(self, path: str) -> Iterator[Sample]:
        """Lines of code with something in front of them; those that use another file's symbol are cross lines."""
        if self.analyses[path].language == TEXT:
            return
        lines = self.tree[path].splitlines()
        own = set(self.analyses[path].defines)
        uses = self._uses(path)
        for number in range(5, len(lines)):
            line = lines[number]
            names = WORD.findall(line)
            if not names or len(line) > 160 or not lines[number - 1].strip() or COMMENT.match(line):
                continue
            if STATEMENT.match(line) or not SHORTEST <= len(self._encoder.encode(line)) <= LONGEST:
                continue
            used = [name for name in names if (number, name) in uses]
            symbol = self._foreign(path, number, used, own)
            yield Sample(path, number, CROSS if symbol else RANDOM, symbol)

    def _uses(self, path: str) -> set[tuple[int, str]]:
        """(line, name) of every reference in the code: words in comments and strings are none."""
        language = language_of(path)
        if language is None:
            return set()
        source = self.tree[path].encode("utf-8", "replace")
        grammar = self._grammars.get(language)
        found = grammar.captures(grammar.parse(source)).get("ref", ())
        return {(node.start_point[0], source[node.start_byte : node.end_byte].decode()) for node in found}

    def _foreign(self, path: str, number: int, names: Sequence[str], own: set[str]) -> str:
        """A symbol of the line that at most three other files define, this one does not, and the window hides."""
        wanted = []
        for name in names:
            homes = self._homes.get(name, set())
            if (
                len(name) > 3
                and name not in BUILT_IN
                and homes
                and len(homes) <= 3
                and path not in homes
                and name not in own
            ):
                wanted.append(name)
        if not wanted:
            return ""
        before, after = self.window(path, number)
        visible = {*WORD.findall(before), *WORD.findall(after)}
        return next((name for name in wanted if name not in visible), "")

    def _pack(self, path: str) -> pack.Pack:
        """The pack of the tree without one file; the last few are remembered."""
        if path not in self._packs:
            if len(self._packs) > 8:
                self._packs.clear()
            texts = {_hash(text): text for text in self.tree.values()}
            sources = [
                pack.Source(other, _hash(text), 0, self.analyses[other])
                for other, text in sorted(self.tree.items())
                if other != path
            ]
            self._packs[path] = pack.build(
                sources, texts.__getitem__, self._style, self._encoder, self.name, self.sizes.pack, self._items
            )
        return self._packs[path]

    def _near(self, path: str, text: str, without: Collection[str]) -> tuple[tuple[int, ...], list[tuple[str, str]]]:
        own: dict[str, Analysis] = {path: analyse(path, text, self._grammars)}
        found: list[int] = []
        shown = []
        for other in neighbours(path, ChainMap(own, self.analyses), NEIGHBOURS):
            skeleton = self.analyses[other].skeleton
            if other in without or other == path or not skeleton:
                continue
            item = self._style.item(self._encoder, other, skeleton)
            if len(found) + len(item) <= self.sizes.near:
                found += item
                shown.append((other, skeleton))
        return tuple(found), shown

    def _cut(self) -> Iterator[tuple[str, str]]:
        for path, text in sorted(self.tree.items()):
            rows = text.splitlines(keepends=True)
            for start in range(0, len(rows), SNIPPET_LINES):
                yield path, "".join(rows[start : start + SNIPPET_LINES])

    def _peers(self, path: str, prefix: str) -> tuple[int, ...]:
        """The peers' way: the snippets of other files whose words overlap most with the lines before the cursor."""
        query = set(WORD.findall("\n".join(prefix.splitlines()[-SNIPPET_LINES:])))
        ranked = sorted(
            (-len(query & words) / max(1, len(query | words)), place)
            for place, (other, _, words) in enumerate(self._pieces)
            if other != path and query & words
        )
        parts: list[tuple[int, ...]] = []
        left = self.sizes.similar
        for _, place in ranked[:20]:
            other, chunk, _ = self._pieces[place]
            item = self._style.item(self._encoder, other, chunk)
            if len(item) <= left:
                left -= len(item)
                parts.insert(0, item)  # the best stands nearest to the cursor
        return tuple(token for part in parts for token in part)


def balanced(samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
    """An order in which each beginning holds about as many of either kind, while a file's lines stay together in
    small groups: they share their context in the engine's cache."""
    groups: dict[str, list[list[Sample]]] = {RANDOM: [], CROSS: []}
    files: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        files[sample.path, sample.kind].append(sample)
    for (_, kind), found in sorted(files.items()):
        groups[kind] += [found[start : start + 4] for start in range(0, len(found), 4)]
    for found_groups in groups.values():
        rng.shuffle(found_groups)
    ordered: list[Sample] = []
    taken = {RANDOM: 0, CROSS: 0}
    follows = False  # the last group is the second of its file: go on with another file
    while any(groups.values()):
        kind = min((k for k in groups if groups[k]), key=lambda k: taken[k])
        last = ordered[-1].path if ordered and not follows else ""
        group = next((g for g in groups[kind] if g[0].path == last), groups[kind][0])
        follows = group[0].path == last
        groups[kind].remove(group)
        taken[kind] += len(group)
        ordered += group
    return ordered


def _hash(text: str) -> bytes:
    return xxhash.xxh3_128(text.encode("utf-8", "surrogatepass")).digest()
