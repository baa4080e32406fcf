"""What is known of a folder of the workspace: its files, the folders in it, its rules. `scan.py` keeps the top one."""

from __future__ import annotations

from aicockpit.indexer.ignore import Rules
from aicockpit.indexer.ledger import Entry


class Node:
    """A folder that belongs to the workspace."""

    __slots__ = ("files", "folders", "rules")

    def __init__(self) -> None:
        self.files: dict[bytes, Entry] = {}
        self.folders: dict[bytes, Node] = {}
        self.rules: Rules | None = None

    def find(self, folder: bytes) -> Node | None:
        """A folder in this one, by its path from here."""
        node: Node | None = self
        for part in folder.split(b"/") if folder else ():
            node = node.folders.get(part) if node else None
        return node

    def make(self, folder: bytes) -> Node:
        """As `find`; what is missing on the way is made."""
        node = self
        for part in folder.split(b"/") if folder else ():
            node = node.folders.setdefault(part, Node())
        return node

    @property
    def known_rules(self) -> Rules:
        """Of a folder that was walked."""
        assert self.rules is not None, "only walked folders are asked"
        return self.rules
