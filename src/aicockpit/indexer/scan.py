"""The tree as it is on disk: which files belong to the workspace, and the hash of each. Used by one thread.

Paths are bytes, relative to the root, with `/` between the parts and `b""` for the root itself. Symlinks are never
followed, at no part of a path (`inside.py`). A folder is watched before it is listed, so that what changes afterwards
is an event.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from aicockpit.indexer import git, inside
from aicockpit.indexer.ignore import GIT_FILE, OWN_FILE, Rules, load
from aicockpit.indexer.ledger import Entry, inode
from aicockpit.indexer.node import Node
from aicockpit.indexer.paths import join, place, split, within
from aicockpit.indexer.reading import READERS, Listing, Read, ahead, listing, mode_of, place_of, read

Report = Callable[[str, int, int], None]
# Folder, its path, the file's name, and whether it may be sent although its content looks like a secret.
Todo = tuple[Node, bytes, bytes, bool]


class Stopped(Exception):
    """The scan was told to stop."""


class RootGone(Exception):
    """The root is not there, or cannot be listed: nothing may be concluded about its files."""


@dataclass(slots=True)
class Delta:
    """What a scan found. `entries`: new knowledge, None: gone. `content`: those whose content the gateway must learn.

    `again`: files that would not hold still. `held`: kept out since their content looks like a secret. `left_out`: how
    many were kept out, for each reason.
    """

    entries: dict[bytes, Entry | None] = field(default_factory=dict)
    content: set[bytes] = field(default_factory=set)
    again: set[bytes] = field(default_factory=set)
    held: set[bytes] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)


class Tree:
    """The files of a root. `enter` and `leave` are told which folders to watch."""

    def __init__(
        self,
        root: bytes,
        limit: int,
        enter: Callable[[bytes], None] = lambda folder: None,
        leave: Callable[[bytes], None] = lambda folder: None,
    ) -> None:
        self.root, self.limit = root, limit
        self._enter, self._leave = enter, leave
        self.top = Node()
        self.place = ""  # which folder the root is
        self.work_tree: git.WorkTree | None = None
        self.git = git.Git()
        self._rules = Rules()
        self._top = -1  # descriptor of the root during a look
        self._stopped = False
        self._todo: list[Todo] = []
        self._gone: dict[int, tuple[bytes, Entry]] = {}
        self._delta = Delta()

    def stop(self) -> None:
        """From any thread: a scan under way ends with Stopped."""
        self._stopped = True

    def remember(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Take over what a ledger knows, before the first scan."""
        folder, node = b"", self.top
        for path, entry in entries:
            above, _, name = path.rpartition(b"/")
            if above != folder or not path:
                folder, node = above, self.top.make(above)
            node.files[name] = entry

    def files(self) -> Iterator[tuple[bytes, Entry]]:
        """Everything that belongs to the workspace, in no particular order."""
        stack = [(b"", self.top)]
        while stack:
            folder, node = stack.pop()
            for name, entry in node.files.items():
                if not entry.why:
                    yield join(folder, name), entry
            stack.extend((join(folder, name), below) for name, below in node.folders.items())

    def entry(self, path: bytes) -> Entry | None:
        """The entry of a file that belongs to the workspace."""
        above, _, name = path.rpartition(b"/")
        node = self.top.find(above)
        found = node.files.get(name) if node else None
        return None if found is None or found.why else found

    def scan(self, report: Report) -> Delta:
        """Everything, with the rules read afresh. Raises RootGone, Stopped."""
        with self._opened():
            self._begin()
            self.git.problem = ""
            self.work_tree = git.find(self.root)
            self._rules = git.rules(self.root, self.work_tree, self.git)
            self._walk(b"", self.top, self._rules, closed=False, report=report)
            return self._finish(report)

    def refresh(self, paths: Iterable[bytes], report: Report) -> Delta:
        """Look again at these paths, which may be files or folders, there or gone. Raises RootGone, Stopped."""
        wanted = sorted({place(path) for path in paths})
        if b"" in wanted or self.top.rules is None:
            return self.scan(report)
        with self._opened():
            if place_of(self._top) == self.place:
                self._begin()
                walked: set[bytes] = set()
                for path in wanted:
                    above, name = split(path)
                    if not within(path, walked) and (node := self.top.find(above)) is not None:
                        self._look(node, above, name, walked, report)
                return self._finish(report)
        return self.scan(report)

    def rules_changed(self) -> bool:
        """git's index or an ignore file outside the tree has changed: does another file belong to the workspace now?"""
        return git.rules(self.root, git.find(self.root), self.git) != self._rules

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """The root stays the same one during a look."""
        try:
            self._top = inside.open_root(self.root)
        except OSError as error:
            raise RootGone(str(error)) from error
        try:
            yield
        finally:
            os.close(self._top)
            self._top = -1

    def _begin(self) -> None:
        self._todo, self._gone, self._delta = [], {}, Delta()

    def _look(self, node: Node, folder: bytes, name: bytes, walked: set[bytes], report: Report) -> None:
        """One name in a known folder."""
        path = join(folder, name)
        try:
            seen = inside.lstat(self._top, path)
        except (FileNotFoundError, NotADirectoryError):
            self._drop_name(node, folder, name)
            return
        except OSError:
            self._delta.left_out["unreadable"] += 1
            return
        if stat.S_ISDIR(seen.st_mode):
            walked.add(path)
        for below, inner, closed in self._entry(node, folder, name, seen.st_mode, lambda: seen):
            self._walk(below, inner, node.known_rules, closed=closed, report=report)

    def _entry(
        self, node: Node, folder: bytes, name: bytes, mode: int, seen: Callable[[], os.stat_result]
    ) -> Iterator[tuple[bytes, Node, bool]]:
        """Decide on one name; yields the folder to walk, if it is one that belongs to the workspace."""
        path, rules = join(folder, name), node.known_rules
        if stat.S_ISDIR(mode):
            self._drop_file(node, folder, name)
            why = rules.excludes(path, name, True)
            closed = why == "git" and path in rules.tracked
            if why and not closed:
                self._drop_folder(node, folder, name)
                return
            below = node.folders.get(name)
            if below is None:
                below = node.folders[name] = Node()
            yield path, below, closed
            return
        self._drop_folder(node, folder, name)
        why = rules.excludes(path, name, False) if stat.S_ISREG(mode) else "special"
        if not why:
            try:
                info = seen()
            except OSError:
                why = "unreadable"
            else:
                known = node.files.get(name)
                if known is not None and self._stands(known, info, rules, path):
                    self._keep(known, path)
                    return
                why = "large" if info.st_size > self.limit else ""
        if why:
            self._delta.left_out[why] += 1
            self._drop_file(node, folder, name)
        else:
            self._todo.append((node, folder, name, rules.allows(path, name)))

    def _stands(self, known: Entry, seen: os.stat_result, rules: Rules, path: bytes) -> bool:
        """What is known holds. Of a secret it depends on the `.aicockpitignore` files too."""
        if not known.same(seen) or seen.st_size > self.limit:
            return False
        return not known.secret or bool(known.why) != rules.allows(path, split(path)[1])

    def _keep(self, known: Entry, path: bytes) -> None:
        """It is what it was."""
        if known.why:
            self._delta.left_out[known.why] += 1
            if known.secret:
                self._delta.held.add(path)

    def _walk(self, folder: bytes, node: Node, rules: Rules, *, closed: bool, report: Report) -> None:
        stack = [(folder, node, rules, closed)]
        count = 0
        while stack:
            folder, node, rules, closed = stack.pop()
            self._check()
            self._enter(folder)
            try:
                descriptor, found = listing(self._top, folder)
            except OSError as error:
                self._unlisted(folder, node, error)
                continue
            try:
                stack += self._listed(folder, node, rules, closed, found, descriptor)
            finally:
                os.close(descriptor)
            count += len(found)
            report("scan", count, 0)

    def _listed(
        self, folder: bytes, node: Node, rules: Rules, closed: bool, found: Listing, descriptor: int
    ) -> list[tuple[bytes, Node, Rules, bool]]:
        """What a folder holds; the folders in it to walk."""
        if not folder:
            self._settle(empty=not found)
        if folder and b".git" in found and self._foreign(folder):
            self._drop_name(self.top.make(split(folder)[0]), *split(folder))
            return []
        contents = [load(name, folder=descriptor) if name in found else None for name in (GIT_FILE, OWN_FILE)]
        inner = node.rules = rules.enter(folder, *contents, closed=closed)
        for name in [name for name in node.files if name not in found]:
            self._drop_file(node, folder, name)
        for name in [name for name in node.folders if name not in found]:
            self._drop_folder(node, folder, name)
        walks: list[tuple[bytes, Node, Rules, bool]] = []
        for name, entry in found.items():
            if name == b".git" or (rules.ignore_case and name.lower() == b".git"):
                continue
            stat_of = lambda entry=entry: entry.stat(follow_symlinks=False)  # noqa: E731
            for below, child, shut in self._entry(node, folder, name, mode_of(entry), stat_of):
                walks.append((below, child, inner, shut))
        return walks

    def _settle(self, *, empty: bool) -> None:
        """The root is listed. Another folder, and empty: the mount point of a disk that is not there."""
        found = place_of(self._top)
        if place_of(self.root) != found:  # it went while we looked: an open folder that was deleted looks empty
            raise RootGone
        if self.place not in ("", found) and empty and (self.top.files or self.top.folders):
            raise RootGone
        self.place = found

    def _foreign(self, folder: bytes) -> bool:
        """A repository of its own inside our work tree: git lists nothing of it, unless it tracks files in there."""
        if self.work_tree is None or git.git_folder(os.path.join(self.root, folder)) is None:
            return False
        return not git.tracks_inside(self.root, folder, self.git)

    def _unlisted(self, folder: bytes, node: Node, error: OSError) -> None:
        if not folder:
            raise RootGone(str(error)) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            self._delta.left_out["unreadable"] += isinstance(error, PermissionError)
            self._drop_name(self.top.make(folder.rpartition(b"/")[0]), *split(folder))
        else:  # a network share that fails for a moment is no reason to forget what lies in it
            node.rules = node.rules or self._rules
            self._delta.left_out["unreadable"] += 1

    def _drop_name(self, node: Node, folder: bytes, name: bytes) -> None:
        self._drop_file(node, folder, name)
        self._drop_folder(node, folder, name)

    def _drop_file(self, node: Node, folder: bytes, name: bytes) -> None:
        entry = node.files.pop(name, None)
        if entry is None:
            return
        path = join(folder, name)
        self._gone[entry.inode] = name, entry
        self._delta.entries[path] = None
        if not entry.why:
            self._delta.content.add(path)

    def _drop_folder(self, node: Node, folder: bytes, name: bytes) -> None:
        below = node.folders.pop(name, None)
        stack = [(join(folder, name), below)] if below else []
        while stack:
            place, gone = stack.pop()
            self._leave(place)
            for file in list(gone.files):
                self._drop_file(gone, place, file)
            stack.extend((join(place, inner), node) for inner, node in gone.folders.items())

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

    def _finish(self, report: Report) -> Delta:
        """Read what is new."""
        todo, self._todo = self._todo, []
        if len(todo) <= READERS:
            for number, item in enumerate(todo):
                self._take(item, self._read(item))
                report("hash", number + 1, len(todo))
        elif todo:
            self._read_many(todo, report)
        delta, self._delta, self._gone = self._delta, Delta(), {}
        return delta

    def _read_many(self, todo: list[Todo], report: Report) -> None:
        done = 0
        with contextlib.closing(ahead(todo, self._read)) as chunks:  # no thread reads on when the root is closed
            for chunk in chunks:
                for item, found in chunk:
                    self._take(item, found)
                done += len(chunk)
                report("hash", done, len(todo))
                self._check()

    def _read(self, item: Todo) -> Read:
        _, folder, name, allowed = item
        path = join(folder, name)
        if self._gone:  # a folder was renamed: its files are what they were
            try:
                seen = inside.lstat(self._top, path)
            except OSError:
                return Read(None, why="gone")
            before, known = self._gone.get(inode(seen), (b"", None))
            # By another name its content may be judged otherwise.
            if known is not None and before == name and not known.secret and known.same(seen):
                return Read(known)
        found = read(self._top, path, self.limit, allowed=allowed)
        return Read(found.entry, why=found.why, moving=found.moving)

    def _take(self, item: Todo, found: Read) -> None:
        node, folder, name, _ = item
        if found.why and found.why != "gone":
            self._delta.left_out[found.why] += 1
        if found.why == "secret":
            self._delta.held.add(join(folder, name))
        if found.entry is None:
            self._drop_file(node, folder, name)
        else:
            self._set(node, join(folder, name), name, found.entry, self._delta)
        if found.moving:
            self._delta.again.add(join(folder, name))

    def learn(self, path: bytes, found: Read) -> Delta:
        """A file was read for another reason, and is not what it was."""
        self._begin()
        folder, name = split(path)
        node = self.top.find(folder)
        if node is not None and name in node.files:
            self._take((node, folder, name, False), found)
        return self._finish(lambda phase, done, total: None)

    def _set(self, node: Node, path: bytes, name: bytes, entry: Entry, delta: Delta) -> None:
        known = node.files.get(name)
        node.files[name] = entry
        delta.entries[path] = entry
        before, after = known.hash if known else b"", entry.hash
        gone_before = path in delta.content
        if before != after or gone_before:
            delta.content.add(path)
