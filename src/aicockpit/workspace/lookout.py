"""Where somebody works in an open file, and the similar snippets that were found for that place.

A request only leaves the text before its cursor here. Whether that place is another one, and when it is searched for,
is decided later, by the room's task. No I/O; `opened.py` owns one for each open file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from aicockpit.prompts import similar
from aicockpit.workspace.builds import Similar, Snippet

# Characters before the cursor that are remembered: CHUNK_LINES lines of usual length.
PLACE_CHARS = 8_000
# Snippets that take more of the budget than this, since it became smaller, are searched for anew.
_OVER = 1.25
# A search comes at the earliest so many times later as the last one's snippets took to get warm: warming for one who
# moves on and on leaves an engine most of its time.
_REST = 3.0


@dataclass(slots=True)
class Lookout:
    """See the module. `place`: the text before the cursor, not looked at yet; or `line`, from 1, of the stored file.

    `used`: the words of the last search, None before the first. Times are on the owner's clock: no look before
    `next_at`. `wait_s`, from one search to the next: some times as long as what was found needed to get warm; doubled
    when it was not warm by then: one moves faster than the engine warms, and each search would only fill its cache.
    `fresh_at`: when it was found, None once it was warm.
    """

    place: str = ""
    line: int | None = None
    used: frozenset[str] | None = None
    found: Similar = field(default_factory=Similar)
    next_at: float = 0.0
    wait_s: float = 0.0
    fresh_at: float | None = None
    warm_s: float = 0.0
    stale: bool = False
    searching: bool = False
    problem: str = ""

    @property
    def pending(self) -> bool:
        """There is something to look at."""
        return bool(self.place) or self.line is not None or self.stale

    def see(self, prefix: str) -> bool:
        """A request has this text before its cursor. True when there was nothing to look at before it."""
        if not prefix:
            return False
        news = not self.pending
        self.place, self.line = prefix[-PLACE_CHARS:], None
        return news

    def point(self, line: int) -> bool:
        """An editor is at this line. True when there was nothing to look at before it."""
        news = not self.pending
        self.place, self.line = "", max(1, line)
        return news

    def check(self, files: Mapping[str, bytes], packed: Collection[bytes], budget: int) -> None:
        """What was found is outdated when its text is another one, stands in the pack by now, or has lost its room."""
        self.stale = self.used is not None and (
            len(self.found.tokens) > _OVER * budget
            or any(files.get(one.path) != one.content or one.content in packed for one in self.found.snippets)
        )

    def due(self, now: float) -> bool:
        """It is time to look."""
        return self.pending and not self.searching and now >= self.next_at

    def look(self, now: float, rest_s: float) -> frozenset[str]:
        """The words to search for; none when the place is much the same, or there is nothing to go by."""
        words, self.place, self.line = similar.query(self.place), "", None
        self.next_at = now + max(rest_s, self.wait_s)
        if words and (self.used is None or similar.moved(self.used, words)):
            return words
        return (self.used or frozenset()) if self.stale else frozenset()

    def warmed(self, now: float) -> None:
        """What was found is warm on some engine."""
        if self.fresh_at is not None:
            self.warm_s, self.fresh_at = now - self.fresh_at, None

    def begin(self, now: float, first_s: float, most_s: float) -> None:
        """A search begins; when the next one may."""
        late = self.fresh_at is not None and bool(self.found.tokens)
        self.searching = True
        self.wait_s = max(first_s, min(2 * self.wait_s if late else _REST * self.warm_s, most_s))
        self.next_at = now + self.wait_s

    def take(self, now: float, words: frozenset[str], found: Similar) -> None:
        """A search has ended. The same snippets in another order stay as they stand, which is warm."""
        there = {one.key: one for one in found.snippets}
        before = [one.key for one in self.found.snippets]
        if there.keys() == set(before):
            found = replace(found, tokens=self.found.tokens, snippets=tuple(there[key] for key in before))
        else:
            self.fresh_at = now
        self.used, self.found, self.problem, self.searching, self.stale = words, found, "", False, False

    def fail(self, problem: str, again_at: float) -> None:
        """A search has failed: what was found before stays."""
        self.problem, self.searching, self.next_at = problem, False, again_at


def reason_for(snippet: Snippet) -> str:
    """Why it was chosen, for people."""
    return f"like the lines above the cursor ({snippet.score:.0%} of the words in common)"
