"""What the indexer takes from git: where the work tree begins, the ignore files outside it, tracked files.

Reads files, and asks the `git` command where only it knows: its configuration, and its index. Without the command,
or outside a work tree, the rules of the ignore files stand alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from aicockpit.indexer.ignore import GIT_FILE, OWN_FILE, Block, Rules, block, load, secret_names

COMMAND_LIMIT_S = 60.0
_HEAD = re.compile(rb"ref:\s*refs/|[0-9a-f]{40,64}\s*$")


@dataclass(frozen=True, slots=True)
class WorkTree:
    """`top`: the folder with `.git`. `folder`: this work tree's own git folder; `common`: the one it shares."""

    top: bytes
    folder: bytes
    common: bytes


class Git:
    """Asks the `git` command. When it fails, its last good answer to the question stands, and `problem` says so."""

    def __init__(self) -> None:
        self.problem = ""
        self._answers: dict[tuple[bytes, tuple[str, ...]], bytes] = {}

    def ask(self, folder: bytes, *words: str, none: int = 0) -> bytes:
        """What a git command prints; nothing when there is no git. `none`: the exit status of an empty answer."""
        command = shutil.which("git")
        if command is None:
            return b""
        try:
            done = subprocess.run(
                [command, *words],
                cwd=folder,
                env=environment(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=COMMAND_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return self._last(folder, words, str(error))
        if done.returncode not in (0, none):
            return self._last(folder, words, done.stderr.decode("utf-8", "replace").strip())
        answer = self._answers[folder, words] = done.stdout if done.returncode == 0 else b""
        return answer

    def _last(self, folder: bytes, words: tuple[str, ...], why: str) -> bytes:
        last = self._answers.get((folder, words))
        stands = "its ignore files alone decide" if last is None else "its last answer stands"
        self.problem = f"git fails in {os.fsdecode(folder)}, so {stands}: {why or 'no reason given'}"
        return last or b""


def find(root: bytes) -> WorkTree | None:
    """The work tree that an absolute folder lies in; None when there is none."""
    top = root
    while True:
        folder = git_folder(top)
        if folder is not None:
            return WorkTree(top, folder, _common(folder))
        above = os.path.dirname(top)
        if above == top:
            return None
        top = above


def git_folder(top: bytes) -> bytes | None:
    """The git folder of the work tree that begins at `top`: its `.git`, or the one that a file `.git` names."""
    place = os.path.join(top, b".git")
    if os.path.isdir(place):
        return place if _is_git_folder(place) else None
    content = load(place, follow=True)
    if content is None or not content.startswith(b"gitdir: "):
        return None
    folder = os.path.normpath(os.path.join(top, content[8:].rstrip(b"\r\n")))
    return folder if _is_git_folder(folder) else None


def _is_git_folder(folder: bytes) -> bool:
    head = load(os.path.join(folder, b"HEAD"), follow=True)
    common = _common(folder)
    parts = (os.path.join(common, b"objects"), os.path.join(common, b"refs"))
    return head is not None and _HEAD.match(head) is not None and all(os.path.isdir(part) for part in parts)


def _common(folder: bytes) -> bytes:
    """Linked work trees share the folder that `commondir` names."""
    content = load(os.path.join(folder, b"commondir"), follow=True)
    return os.path.normpath(os.path.join(folder, content.rstrip(b"\r\n"))) if content else folder


def rules(root: bytes, tree: WorkTree | None, ask: Git) -> Rules:
    """The rules that hold at `root` before its own ignore files are read; its tracked exceptions included."""
    secret = secret_names()
    own: tuple[Block, ...] = (secret,) if secret else ()
    if tree is None:
        return Rules(own=own)
    settings = _settings(root, ask)
    ignore_case = settings.get(b"core.ignorecase", b"").lower() in (b"true", b"yes", b"on", b"1")
    files = exclude_files(root, tree, settings)
    outside = [block(load(path, follow=True) or b"", ignore_case=ignore_case) for path in files]
    below = os.path.relpath(root, tree.top)
    prefix = b"" if below == b"." else below + b"/"
    found = Rules(tuple(part for part in outside if part), own, b"", ignore_case)
    place, ignored = b"", False
    for part in prefix.split(b"/")[:-1]:
        above = os.path.join(tree.top, place)
        content = None if ignored else load(os.path.join(above, GIT_FILE))
        found = found.enter(place, content, load(os.path.join(above, OWN_FILE)), closed=False)
        place = place + b"/" + part if place else part
        ignored = ignored or bool(found.excludes(place, part, True))
    # A folder that git ignores, yet was named to us: of git's rules, those inside it alone.
    return Rules(() if ignored else found.git, found.own, prefix, ignore_case, tracked(root, ask))


def rule_files(root: bytes, tree: WorkTree, ask: Git) -> list[bytes]:
    """The files outside the walk over `root` on which `rules` depends, there or not."""
    found = [*exclude_files(root, tree, _settings(root, ask)), os.path.join(tree.folder, b"index")]
    found += [os.path.join(tree.common, b"config"), os.path.expanduser(b"~/.gitconfig"), _user_file(b"config")]
    above = root
    while above != tree.top:
        above = os.path.dirname(above)
        found += [os.path.join(above, GIT_FILE), os.path.join(above, OWN_FILE)]
    return list({place: None for path in found for place in (path, os.path.realpath(path))})


def _settings(root: bytes, ask: Git) -> dict[bytes, bytes]:
    """The two settings of git that matter here; `--type=path` resolves a `~` and leaves the rest alone."""
    listed = ask.ask(root, "config", "-z", "--type=path", "--get-regexp", r"^core\.(ignorecase|excludesfile)$", none=1)
    pairs = (line.partition(b"\n") for line in listed.split(b"\0"))
    return {name: value if separator else b"true" for name, separator, value in pairs}


def exclude_files(root: bytes, tree: WorkTree, settings: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """The ignore files outside the tree, in order of rising precedence: the user's, and `info/exclude`."""
    named = settings.get(b"core.excludesfile", b"") or _user_file(b"ignore")
    return os.path.join(root, named), os.path.join(tree.common, b"info", b"exclude")


def _user_file(name: bytes) -> bytes:
    """Where git looks for a user's file of that name."""
    config = os.environb.get(b"XDG_CONFIG_HOME") or os.path.expanduser(b"~/.config")
    return os.path.join(config, b"git", name)


def tracked(root: bytes, ask: Git) -> frozenset[bytes]:
    """Files below `root` that git tracks although a pattern excludes them, and the folders on the way to each."""
    listed = ask.ask(root, "ls-files", "-z", "-c", "-i", "--exclude-standard")
    found: set[bytes] = set()
    for path in listed.split(b"\0"):
        while path and path not in found:
            found.add(path)
            path = os.path.dirname(path)
    return frozenset(found)


def tracks_inside(root: bytes, folder: bytes, ask: Git) -> bool:
    """Has the index files below `folder`? git then enters the folder even when a repository of its own lies there."""
    listed = ask.ask(root, "--literal-pathspecs", "ls-files", "-z", "--", os.fsdecode(folder + b"/"))
    return any(path.startswith(folder + b"/") for path in listed.split(b"\0"))


def environment(outer: os._Environ[str]) -> dict[str, str]:
    """The user's, without what would point git at another repository; git may take no lock for us."""
    gone = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
    return {**{name: value for name, value in outer.items() if name not in gone}, "GIT_OPTIONAL_LOCKS": "0"}


def busy(tree: WorkTree | None) -> bool:
    """Is a git command changing the index, as a branch switch does from its beginning to its end?"""
    return tree is not None and os.path.exists(os.path.join(tree.folder, b"index.lock"))
