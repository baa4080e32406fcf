"""Source trees to replay: a git history, or a source distribution with a history that is made up.

A made-up history takes real lines out of the newest tree and lets the "commits" add them again, so that what is
typed is what was really written. Everything is a function of the tree and the seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

SUFFIXES = frozenset(
    [
        ".py",
        ".pyi",
        ".js",
        ".jsx",
        ".mjs",
        ".cjs",
        ".ts",
        ".tsx",
        ".go",
        ".rs",
        ".java",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cs",
        ".rb",
        ".php",
        ".kt",
        ".swift",
        ".scala",
    ]
)
LARGEST = 200_000  # bytes; what is larger is generated or data
PACKAGES = ("httpx==0.28.1", "click==8.5.1", "starlette==1.10.0")


class CorpusError(Exception):
    """A tree that could not be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The new text of each file that changed; None where it was deleted."""

    changes: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class History:
    """A tree, what was then done to it, and the tree of another branch."""

    name: str
    base: Mapping[str, str]
    commits: tuple[Commit, ...]
    other: Mapping[str, str]
    note: str


def is_source(path: str) -> bool:
    return PurePosixPath(path).suffix in SUFFIXES


def folder_tree(folder: Path) -> dict[str, str]:
    """The source files below a folder, hidden folders left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and is_source(name) and path.is_file() and path.stat().st_size <= LARGEST:
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return found


def archive_tree(archive: Path) -> dict[str, str]:
    """The source files of a source distribution, without its outermost folder. Nothing is unpacked to disk."""
    found = {}
    with tarfile.open(archive) as file:
        for member in file:
            name = member.name.partition("/")[2]
            if not member.isfile() or not is_source(name) or member.size > LARGEST:
                continue
            inside = file.extractfile(member)
            if inside is not None:
                found[name] = inside.read().decode("utf-8", "replace")
    return dict(sorted(found.items()))


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """The source distributions, fetched by pip where they are not there yet. Raises CorpusError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package in packages:
        name, _, version = package.partition("==")
        pattern = f"{name}-{version or '*'}.tar.gz"
        if not list(folder.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps"]
            done = subprocess.run([*command, "-d", str(folder), package], capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                raise CorpusError(f"pip could not download {package}: {last}. Give a folder instead: replay.py PATH")
        found += sorted(folder.glob(pattern))[-1:]
    return found


def _git(folder: Path, *words: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(["git", "-C", str(folder), *words], input=data, capture_output=True, check=False)
    if done.returncode:
        raise CorpusError(f"git {words[0]} failed in {folder}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _blobs(folder: Path, hashes: Iterable[str]) -> dict[str, str | None]:
    """The text of each blob; None for what is too large."""
    wanted = sorted(set(hashes))
    out = _git(folder, "cat-file", "--batch", data="".join(f"{h}\n" for h in wanted).encode()) if wanted else b""
    found: dict[str, str | None] = {}
    at = 0
    for name in wanted:
        end = out.index(b"\n", at)
        words = out[at:end].split()
        if len(words) != 3 or words[1] != b"blob":
            raise CorpusError(f"git has no blob {name} in {folder}: {out[at:end].decode(errors='replace')}")
        size = int(words[2])
        found[name] = out[end + 1 : end + 1 + size].decode("utf-8", "replace") if size <= LARGEST else None
        at = end + 1 + size + 1
    return found


def _git_tree(folder: Path, commit: str) -> dict[str, str]:
    rows = _git(folder, "ls-tree", "-r", "-z", commit).decode("utf-8", "replace").split("\0")
    named: dict[str, str] = {}
    for row in filter(None, rows):
        about, _, path = row.partition("\t")
        mode, kind, name = about.split()
        if kind == "blob" and mode != "120000" and is_source(path):
            named[path] = name
    texts = _blobs(folder, named.values())
    return {path: text for path, name in sorted(named.items()) if (text := texts[name]) is not None}


def changes_between(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    """What turns one tree into the other."""
    return {path: new.get(path) for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)}


def git_history(folder: Path, commits: int) -> History:
    """The last `commits` of the first-parent line that touch source; the branch is an older commit of it."""
    line = _git(folder, "rev-list", "--first-parent", "HEAD").decode().split()
    if len(line) < 3:
        raise CorpusError(f"{folder} has {len(line)} commits: too few to replay")
    count = min(commits, len(line) - 2)
    trees = [_git_tree(folder, name) for name in reversed(line[: count + 1])]
    steps = [Commit(changes_between(old, new)) for old, new in pairwise(trees)]
    older = line[min(len(line) - 1, count + 50)]
    note = f"{count} commits up to {line[0][:10]}, other branch: {older[:10]}"
    name = folder.resolve().name
    return History(name, trees[0], tuple(s for s in steps if s.changes), _git_tree(folder, older), note)


def _hunk(lines: Sequence[str], rng: random.Random, size: int) -> tuple[int, int] | None:
    """First and last line (exclusive) of code that may be taken out; None in a file that is too short."""
    if len(lines) < 60:
        return None
    for _ in range(20):
        first = rng.randrange(20, len(lines) - size - 5)
        inside = [line for line in lines[first : first + size] if len(line.strip()) > 3]
        if len(inside) >= max(2, size - 2):
            return first, first + size
    return None


def made_history(name: str, tree: Mapping[str, str], commits: int, seed: int) -> History:
    """A history that ends in `tree`: each commit adds lines to one file, to two more, and now and then a new file.

    Raises CorpusError when the tree is too small.
    """
    rng = random.Random(f"{seed} {name}")
    usable = [path for path, text in tree.items() if text.count("\n") >= 60]
    if len(usable) < 6:
        raise CorpusError(f"{name} has {len(usable)} source files of 60 lines and more: too few to replay")
    rng.shuffle(usable)
    fresh = usable[: min(max(1, commits // 3), len(usable) // 4)]
    edited = usable[len(fresh) :]
    now = {path: text for path, text in tree.items() if path not in fresh}
    steps: list[Commit] = []  # from the last to the first
    for number in range(commits):
        changes: dict[str, str | None] = {}
        for place, size in enumerate((8, 5, 5)):
            path = edited[(3 * number + place) % len(edited)]
            lines = now[path].splitlines(keepends=True)
            found = _hunk(lines, rng, size)
            if found and path not in changes:
                changes[path] = now[path]
                now[path] = "".join(lines[: found[0]] + lines[found[1] :])
        steps.append(Commit(changes))
    steps.reverse()
    for number, path in enumerate(fresh):
        where = number * len(steps) // len(fresh)
        steps[where] = Commit({**steps[where].changes, path: tree[path]})
    other = {path: text for path, text in now.items() if rng.random() > 0.05}
    for path in [path for path in other if rng.random() < 0.4]:
        lines = other[path].splitlines(keepends=True)
        if found := _hunk(lines, rng, 12):
            other[path] = "".join(lines[: found[0]] + lines[found[1] :])
    note = f"{commits} made-up commits of real lines, {len(tree)} files, seed {seed}"
    return History(name, now, tuple(s for s in steps if s.changes), other, note)


def history_of(path: Path, commits: int, seed: int) -> History:
    """Of a folder with git, its history; of another folder or an archive, a made-up one."""
    if path.is_file():
        return made_history(path.name.removesuffix(".tar.gz"), archive_tree(path), commits, seed)
    if not path.is_dir():
        raise CorpusError(f"there is no {path}")
    if (path / ".git").exists():
        return git_history(path, commits)
    return made_history(path.resolve().name, folder_tree(path), commits, seed)
