"""Which files of a tree belong to the workspace: `.gitignore` as git reads it, `.aicockpitignore`, and secrets.

Pure but for `load`. A `Rules` belongs to one folder and decides on the entries of that folder; the walk in `scan.py`
asks it for every name and never enters what is excluded, which is why `!` inside an ignored folder has no effect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aicockpit.indexer import secrets
from aicockpit.indexer.wildmatch import Pattern, parse

GIT_FILE, OWN_FILE = b".gitignore", b".aicockpitignore"
FILES = (GIT_FILE, OWN_FILE)
MAX_IGNORE_FILE = 16 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """The patterns of one file; `kind` is "git", "own" or "secret".

    `base`: their folder below the top, `b""` or ending in `/`.
    """

    base: bytes
    kind: str
    patterns: tuple[tuple[re.Pattern[bytes], Pattern], ...]
    names: re.Pattern[bytes] | None
    paths: re.Pattern[bytes] | None

    def decide(self, path: bytes, name: bytes, directory: bool) -> bool | None:
        """True: excluded, False: included by `!`, None: not mentioned. The last pattern that matches decides."""
        below = path[len(self.base) :]
        named = self.names is not None and self.names.fullmatch(name)
        pathed = self.paths is not None and self.paths.fullmatch(below)
        if not named and not pathed:
            return None
        for regex, pattern in reversed(self.patterns):
            if pattern.directories_only and not directory:
                continue
            if regex.fullmatch(name if pattern.name_only else below):
                return not pattern.negated
        return None


def block(content: bytes, base: bytes = b"", *, kind: str = "git", ignore_case: bool = False) -> Block | None:
    """The patterns of an ignore file's content; None when it has none."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [parse(line.removesuffix(b"\r"), ignore_case=ignore_case) for line in lines]
    patterns = tuple((re.compile(pattern.regex), pattern) for pattern in found if pattern is not None)
    if not patterns:
        return None
    names = [pattern.regex for _, pattern in patterns if pattern.name_only]
    paths = [pattern.regex for _, pattern in patterns if not pattern.name_only]
    return Block(base, kind, patterns, _any(names), _any(paths))


def _any(parts: Sequence[bytes]) -> re.Pattern[bytes] | None:
    """One expression for all: most names match none of them, and are told so in one go."""
    return re.compile(b"|".join(b"(?:" + part + b")" for part in parts)) if parts else None


def secret_names() -> Block | None:
    return block("\n".join(secrets.NAMES).encode(), kind="secret", ignore_case=True)


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds in one folder. Blocks stand in order of rising precedence: outer folders first.

    The `.aicockpitignore` files decide before the secrets, these before git's own. `prefix`: the watched root below the
    top of its work tree, `b""` or ending in `/`. `tracked`: files that git tracks although its patterns exclude them,
    and the folders on the way to them; relative to the watched root. `closed`: inside an excluded folder, where only
    tracked files count.
    """

    git: tuple[Block, ...] = ()
    own: tuple[Block, ...] = ()
    prefix: bytes = b""
    ignore_case: bool = False
    tracked: frozenset[bytes] = field(default=frozenset(), repr=False)
    closed: bool = False

    def excludes(self, path: bytes, name: bytes, directory: bool) -> str:
        """Why an entry is left out: "git", "own", "secret"; "" when it is not. `path` is relative to the watched root.

        A folder that is left out by git is yet to be walked when it is in `tracked`, with `enter(closed=True)`.
        """
        full = self.prefix + path if self.prefix else path
        for part in reversed(self.own):
            verdict = part.decide(full, name, directory)
            if verdict is not None:
                if verdict:
                    return part.kind
                if part.kind == "own":
                    return ""
        if self.closed:
            return "" if path in self.tracked and not directory else "git"
        for part in reversed(self.git):
            verdict = part.decide(full, name, directory)
            if verdict is not None:
                return "git" if verdict and (directory or path not in self.tracked) else ""
        return ""

    def allows(self, path: bytes, name: bytes) -> bool:
        """Has a `.aicockpitignore` brought this file back by a pattern that matches the file itself?"""
        full = self.prefix + path if self.prefix else path
        for part in reversed(self.own):
            if part.kind == "own" and (verdict := part.decide(full, name, False)) is not None:
                return not verdict
        return False

    def enter(self, folder: bytes, git_content: bytes | None, own_content: bytes | None, *, closed: bool) -> Rules:
        """The rules inside `folder` (relative to the watched root), given its own ignore files."""
        base = self.prefix + folder + b"/" if folder else self.prefix
        case = self.ignore_case
        git = None if closed or not git_content else block(git_content, base, ignore_case=case)
        own = block(own_content, base, kind="own", ignore_case=case) if own_content else None
        if git is None and own is None and closed == self.closed:
            return self
        return replace(
            self,
            git=(*self.git, git) if git else self.git,
            own=(*self.own, own) if own else self.own,
            closed=closed,
        )


def including(path: str) -> str:
    """The line for a `.aicockpitignore` in the watched folder that brings back one file."""
    special = re.sub(r"([*?\[\\])", r"\\\1", path)
    return "!/" + (special[:-1] + "\\ " if special.endswith(" ") else special)


def load(path: bytes, *, follow: bool = False, folder: int | None = None) -> bytes | None:
    """An ignore file's content; None when there is none. In the tree git does not follow symlinks.

    `folder`: the descriptor that a relative path is of.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
    except OSError:
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(MAX_IGNORE_FILE)
    except OSError:
        return None
