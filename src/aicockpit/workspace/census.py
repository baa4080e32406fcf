"""How many files of a workspace are never read for its context, and why: `tree.py` keeps one, `status.py` shows it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from aicockpit.workspace.builds import MAX_FILE, MAX_FILES, Left, left_by_limits, why_left
from aicockpit.workspace.manifest import File

logger = logging.getLogger(__name__)


class Census:
    """Counts a room's files when asked, once for each change, and says in the log that a limit is reached, once."""

    def __init__(self, repo: str, max_file: int = MAX_FILE, max_files: int = MAX_FILES) -> None:
        self._repo, self._limits = repo, (max_file, max_files)
        self._left: Left | None = None
        self._told = (False, False)

    def changed(self) -> None:
        """The files are others."""
        self._left = None

    def count(self, files: Mapping[str, File]) -> None:
        """The files are these. In any thread: it takes milliseconds for a large tree."""
        self._left = left_by_limits(files.values(), *self._limits)

    def follow(self, gone: Iterable[File | None], come: Iterable[File | None], files: int) -> None:
        """Some files gave way to others (None: was not there, is not there), and there are so many now."""
        if self._left is not None:
            max_file, max_files = self._limits
            large = self._left.large + _over(come, max_file) - _over(gone, max_file)
            self._left = Left(large=large, beyond=max(0, files - large - max_files))

    def left(self, files: Mapping[str, File]) -> Left:
        """Files over the limits, as the files are now."""
        if self._left is None:
            self._left = left_by_limits(files.values(), *self._limits)
        return self._left

    def tell(self, files: Mapping[str, File]) -> None:
        """A line in the log for a limit that was not reached before; many files too many deserve a warning."""
        left = self.left(files)
        reached = (left.beyond > 0, left.large > 0)
        if any(now and not before for now, before in zip(reached, self._told, strict=True)):
            level = logging.WARNING if left.beyond else logging.INFO
            told = "; ".join(why_left(left, *self._limits))
            logger.log(level, "workspace %s: left out of its context: %s", self._repo, told)
        self._told = (reached[0] or self._told[0], reached[1] or self._told[1])

    def shown(self, files: Mapping[str, File]) -> dict[str, Any]:
        """For the API: counts, the limits, and a sentence for each that is reached."""
        left, (max_file, max_files) = self.left(files), self._limits
        return {
            "files": left.large + left.beyond,
            "too_large": left.large,
            "beyond_limit": left.beyond,
            "max_bytes": max_file,
            "max_files": max_files,
            "reasons": list(why_left(left, max_file, max_files)),
        }


def _over(files: Iterable[File | None], size: int) -> int:
    return sum(file is not None and file.size > size for file in files)
