"""What `worth_journal.py` scores: commits of a git repository as scenes, the lines they added, the prompts in front."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import xxhash

from aicockpit.prompts import fim, journal, pack, tokens
from aicockpit.prompts.languages import TEXT, Grammars
from aicockpit.prompts.skeleton import Analysis, analyse
from aicockpit.workspace.track import EpochLimits
from benchmarks.corpus import LARGEST, CorpusError, is_source
from benchmarks.worth_lines import BUILT_IN, CROSS, RANDOM, WORD, Corpus, Sizes

VARIANTS = ("none", "journal", "pack", "pack and journal")
PER_COMMIT = 2  # lines of either kind
SHORTEST_SYMBOL = 4
FILES = (2, 20)  # source files of a commit that is one piece of work
_LINK, _NOTHING = "120000", "0" * 40
_COMMIT = "\x02"


@dataclass(frozen=True, slots=True)
class Scene:
    """One commit: the source tree before it, and (old, new) text of each source file that it touched."""

    id: str
    before: Mapping[str, str]
    changes: Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Tokens of the journal and of the pack in front of it (0: none), and of the file around the line."""

    journal: int = 500
    pack: int = 1024
    before: int = 384
    after: int = 96

    @property
    def variants(self) -> tuple[str, ...]:
        return VARIANTS if self.pack else VARIANTS[:2]


@dataclass(frozen=True, slots=True)
class Line:
    """An added line: `number` from 0 in the new text of `path`; `symbol` is what it takes from another changed file."""

    scene: Scene
    path: str
    number: int
    kind: str
    symbol: str

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.scene.id}:{self.path}:{self.number}"


def scenes(folder: Path, commits: int) -> tuple[list[Scene], str]:
    """Those of the last `commits` on the first-parent line that touch as many source files, oldest first, and a note
    that says which commits were looked at. Raises CorpusError.
    """
    names = _git(folder, "rev-list", "--first-parent", f"--max-count={commits + 1}", "HEAD").decode().split()
    if len(names) < 2:
        raise CorpusError(f"{folder} has {len(names)} commits: too few")
    steps = list(_steps(folder, names[-1]))
    base = dict(_listed(folder, names[-1]))
    wanted = {hash for _, changes in steps for hash in changes.values() if hash} | set(base.values())
    texts = _texts(folder, wanted)
    tree = {path: texts[hash] for path, hash in base.items() if hash in texts}
    found = []
    for name, hashes in steps:
        # What is too large is not there, before or after.
        new = {path: texts.get(hash) if hash else None for path, hash in hashes.items()}
        changes = {path: (tree.get(path), text) for path, text in new.items() if tree.get(path) != text}
        if FILES[0] <= len(changes) <= FILES[1]:
            found.append(Scene(name, dict(tree), changes))
        for path, text in new.items():
            tree.pop(path, None)
            if text is not None:
                tree[path] = text
    return found, f"{len(names) - 1} commits up to {names[0][:10]}"


def added(old: str | None, new: str) -> set[int]:
    """Numbers of the lines of `new` that `old` has not got; where lines went, that of the line behind them."""
    codes = SequenceMatcher(None, (old or "").splitlines(), new.splitlines(), autojunk=False).get_opcodes()
    return {n for tag, _, _, first, end in codes if tag != "equal" for n in range(first, max(end, first + 1))}


def written(old: str | None, new: str) -> set[int]:
    """Numbers of the added lines whose text is new: what only moved was not written then."""
    known, rows = set((old or "").splitlines()), new.splitlines()
    return {number for number in added(old, new) if number < len(rows) and rows[number] not in known}


class Bench:
    """The prompts for lines of scenes. Analyses and packs are remembered."""

    def __init__(self, name: str, encoder: tokens.Encoder, style: fim.Style, setting: Setting) -> None:
        self.name, self.encoder, self.style, self.setting = name, encoder, style, setting
        self._sizes = Sizes(before=setting.before, after=setting.after)
        self._grammars = Grammars()
        self._analyses: dict[tuple[str, bytes], Analysis] = {}
        self._items = pack.ItemCache(2_000_000)
        self._packs: dict[tuple[str, str], tuple[int, ...]] = {}

    def lines(self, scene: Scene) -> list[Line]:
        """Every added line of code that may be scored, of either kind, where the journal has something to say."""
        found = []
        for path, (old, new) in sorted(scene.changes.items()):
            if new is None or self._analysis(path, new).language == TEXT or not self.journal(scene, path):
                continue
            alone = self._alone(path, new)
            eligible = {sample.number for sample in alone.samples(1_000_000, 1)[0]} & written(old, new)
            touched = self.touched(scene, path) & {name for name, _ in self._analysis(path, new).references}
            rows = new.splitlines()
            for number in sorted(eligible):
                before, after = alone.window(path, number)
                hidden = touched - {*WORD.findall(before), *WORD.findall(after)}
                symbol = next((word for word in WORD.findall(rows[number]) if word in hidden), "")
                found.append(Line(scene, path, number, CROSS if symbol else RANDOM, symbol))
        return found

    def touched(self, scene: Scene, path: str) -> set[str]:
        """Symbols that the commit changed or made in other files than this."""
        own = set(self._analysis(path, scene.changes[path][1] or "").defines)
        found: set[str] = set()
        for other, (old, new) in scene.changes.items():
            if other == path or new is None:
                continue
            analysis = self._analysis(other, new)
            before = set(self._analysis(other, old).defines) if old is not None else set()
            found |= set(analysis.defines) - before
            for number in added(old, new):
                around = [span for span in analysis.spans if span[1] <= number <= span[2]]
                if around:
                    found.add(max(around, key=lambda span: span[1])[0].rpartition(".")[2])
        return {name for name in found - own - BUILT_IN if len(name) >= SHORTEST_SYMBOL}

    def journal(self, scene: Scene, path: str) -> tuple[int, ...]:
        """What the workspace says of the commit's other files, saved before the line is written, in their order:
        entries that do not fit any more wait for the next pack, as there."""
        found: list[int] = []
        for other, (old, new) in sorted(scene.changes.items()):
            if other == path:
                continue
            known = [None if text is None else self._analysis(other, text) for text in (old, new)]
            text = journal.entry(other, old, new, known[0], known[1], EpochLimits().lines)
            ids = self.style.item(self.encoder, other, text) if text else ()
            if len(found) + len(ids) <= self.setting.journal:
                found += ids
        return tuple(found)

    def prompts(self, line: Line) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        """The tokens in front of the line for each variant, and its own."""
        encoder, style = self.encoder, self.style
        text = line.scene.changes[line.path][1] or ""
        prefix, suffix = self._alone(line.path, text).window(line.path, line.number)
        tail = style.tail(encoder, line.path, prefix, suffix, repo_level=True)
        said = self.journal(line.scene, line.path)
        before = {
            "none": style.tail(encoder, line.path, prefix, suffix, repo_level=False),
            "journal": style.header(encoder, self.name) + said + tail,
        }
        if self.setting.pack:
            packed = self._pack(line.scene, line.path)
            before |= {"pack": packed + tail, "pack and journal": packed + said + tail}
        return before, encoder.encode("\n" + text.splitlines()[line.number])

    def told(self, line: Line) -> bool:
        """The journal has this very line, from another file."""
        text = (line.scene.changes[line.path][1] or "").splitlines()[line.number].strip()
        said = self.encoder.decode(self.journal(line.scene, line.path))
        return any(row.strip() == text for row in said.splitlines())

    def _alone(self, path: str, text: str) -> Corpus:
        return Corpus(self.name, {path: text}, self.encoder, self.style, self._sizes)

    def _analysis(self, path: str, text: str) -> Analysis:
        key = path, xxhash.xxh3_128_digest(text.encode("utf-8", "replace"))
        if key not in self._analyses:
            self._analyses[key] = analyse(path, text, self._grammars)
        return self._analyses[key]

    def _pack(self, scene: Scene, path: str) -> tuple[int, ...]:
        """Of the tree before the commit, without the open file."""
        if (scene.id, path) not in self._packs:
            texts, sources = {}, []
            for other, text in sorted(scene.before.items()):
                hash = xxhash.xxh3_128_digest(text.encode("utf-8", "replace"))
                texts[hash] = text
                if other != path:
                    sources.append(pack.Source(other, hash, 0, self._analysis(other, text)))
            size = self.setting.pack
            made = pack.build(sources, texts.__getitem__, self.style, self.encoder, self.name, size, self._items)
            self._packs[scene.id, path] = made.tokens
        return self._packs[scene.id, path]


def choose(bench: Bench, found: Sequence[Scene], count: int, seed: int) -> tuple[list[Line], float]:
    """`count` lines of either kind, a few of each commit, and the share of the second kind among all added lines."""
    order = list(found)
    random.Random(f"{seed} {bench.name} journal").shuffle(order)
    chosen: dict[str, list[Line]] = {RANDOM: [], CROSS: []}
    every = cross = 0
    for scene in order:
        if min(len(lines) for lines in chosen.values()) >= count:
            break
        rng = random.Random(f"{seed} {scene.id}")
        lines = bench.lines(scene)
        using = [line for line in lines if line.kind == CROSS]
        every, cross = every + len(lines), cross + len(using)
        anywhere = [Line(one.scene, one.path, one.number, RANDOM, one.symbol) for one in lines]
        for kind, these in ((RANDOM, anywhere), (CROSS, using)):
            room = max(0, min(PER_COMMIT, count - len(chosen[kind]), len(these)))
            chosen[kind] += rng.sample(these, room)
    together = sorted(
        chosen[RANDOM] + chosen[CROSS], key=lambda line: (order.index(line.scene), line.path, line.number)
    )
    return together, cross / max(1, every)


def _steps(folder: Path, base: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Each commit behind `base`, oldest first, with the new hash of each source file, None for one that went."""
    words = ("log", "--first-parent", "--diff-merges=first-parent", "--reverse", "--raw", "-z", "--no-renames")
    out = _git(folder, *words, "--abbrev=40", f"--format={_COMMIT}%H", f"{base}..HEAD").decode("utf-8", "replace")
    for part in out.split(_COMMIT)[1:]:
        name, *fields = part.split("\0")
        pairs = zip(fields[0::2], fields[1::2], strict=False)
        changes = {}
        for about, path in pairs:
            _, mode, _, hash, _ = about.strip().split()
            if is_source(path):
                changes[path] = None if hash == _NOTHING or mode == _LINK else hash
        yield name, changes


def _listed(folder: Path, commit: str) -> Iterator[tuple[str, str]]:
    for row in _git(folder, "ls-tree", "-r", "-z", commit).decode("utf-8", "replace").split("\0"):
        about, _, path = row.partition("\t")
        if about and is_source(path):
            mode, kind, hash = about.split()
            if kind == "blob" and mode != _LINK:
                yield path, hash


def _texts(folder: Path, hashes: Iterable[str]) -> dict[str, str]:
    """The text of each blob that is not too large."""
    wanted = sorted(hashes)
    out = _git(folder, "cat-file", "--batch", data="".join(f"{hash}\n" for hash in wanted).encode())
    found, at = {}, 0
    for hash in wanted:
        end = out.index(b"\n", at)
        words = out[at:end].split()
        if words[1:2] != [b"blob"]:  # a submodule's commit, or an object that a shallow copy lacks
            at = end + 1 + (int(words[2]) + 1 if len(words) == 3 else 0)
            continue
        size = int(words[2])
        if size <= LARGEST:
            found[hash] = out[end + 1 : end + 1 + size].decode("utf-8", "replace")
        at = end + 1 + size + 1
    return found


def _git(folder: Path, *words: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(["git", "-C", str(folder), *words], input=data, capture_output=True, check=False)
    if done.returncode:
        raise CorpusError(f"git {words[0]} failed in {folder}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
