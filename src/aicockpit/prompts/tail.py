"""The window around the cursor, cut so that typing changes nothing in front of what is typed.

Pure. A window that slid by one line with each new line would change the first block of the tail, and with it every
block after it, at each of them. Here it moves by a step of 64 lines, and rests in between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Characters, and characters per token of a model's length: code has about three in a token.
_PREFIX_CHARS, _SUFFIX_CHARS = 24_000, 8_000
_PREFIX_SHARE, _SUFFIX_SHARE = 1.1, 0.35
# Whole lines by which the beginning of a window is found again in a file.
_SAMPLE_LINES = 8
_HEAD_TOKENS = 50
_NEARLY = 0.1
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class TailLimits:
    """How much of the file goes along. Raises ValueError when it makes no sense.

    `prefix_lines`: whole lines in front of the cursor's own that are sought; there are between one `step` less and
    one `step` more of them, at first half a `step`. `suffix_lines`: lines behind the cursor, its own rest counted.
    `*_chars`: never more.
    """

    prefix_lines: int = 256
    suffix_lines: int = 32
    step: int = 64
    prefix_chars: int = _PREFIX_CHARS
    suffix_chars: int = _SUFFIX_CHARS

    def __post_init__(self) -> None:
        if min(self.suffix_lines, self.suffix_chars) < 0 or min(self.step, self.prefix_chars) < 1:
            raise ValueError("the limits of a window must be positive")
        if self.prefix_lines < self.step:
            raise ValueError(f"prefix_lines ({self.prefix_lines}) must be at least one step ({self.step})")


def limits_of(max_len: int) -> TailLimits:
    """Windows that leave half of a model's length (tokens) to context and answer."""
    return TailLimits(
        prefix_chars=max(1, min(_PREFIX_CHARS, int(max_len * _PREFIX_SHARE))),
        suffix_chars=min(_SUFFIX_CHARS, int(max_len * _SUFFIX_SHARE)),
    )


def at_line(text: str, line: int) -> tuple[str, str]:
    """The text of a file before and behind a cursor at the end of `line` (from 1; the last line if it is past it).

    As editors send it: lines ended by `\n` alone, without a byte order mark. Where in its line the cursor is, nobody
    knows yet; at the end one goes on, and what is behind it stays the same when the next line is begun.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    end = -1
    for _ in range(max(1, line)):
        end = text.find("\n", end + 1)
        if end < 0:
            return text, ""
    return text[:end], text[end:]


def sample(prefix: str) -> str:
    """The first lines of a window that was sent, by which `found` knows it again."""
    end = -1
    for _ in range(_SAMPLE_LINES):
        later = prefix.find("\n", end + 1)
        if later < 0:
            break
        end = later
    return prefix[: end + 1]


def found(prefix: str, begun: str, limits: TailLimits) -> int | None:
    """The line, a multiple of the step, at which a window of this text began with the sample `begun`.

    None when that cannot be told: no such place, or the same lines at several.
    """
    at, line, places = 0, 0, []
    while begun:
        if line % limits.step == 0 and prefix.startswith(begun, at):
            places.append(line)
        at, line = prefix.find("\n", at) + 1, line + 1
        if not at:
            break
    return places[0] if len(places) == 1 else None


def window(prefix: str, suffix: str, limits: TailLimits, previous: int | None = None) -> tuple[str, str]:
    """What is sent of the text before and behind the cursor. The text at the cursor is never cut.

    `previous`: the line that the last window of this file began with (`first_line`), kept while it serves; without it
    the answer depends on nothing but the arguments.
    """
    begin = _offset(prefix, first_line(prefix, limits, previous))
    if len(prefix) - begin > limits.prefix_chars:
        begin = _squeezed(prefix, begin, limits)
    return prefix[begin:], _until(suffix, limits)


def first_line(prefix: str, limits: TailLimits, previous: int | None = None) -> int:
    """The line (from 0) that the window begins with, a multiple of the step; long lines may cut it shorter.

    A new window begins in the middle between the borders at which it would move, so that neither is near (the VS Code
    extension cuts its own in the same way, so what is warmed ahead begins where its request will). Told the answer of
    the call before, it moves only after a whole step of lines was added or taken away one by one since it last moved
    (half a step, if they came in larger pieces, or since it began): a cursor that goes to and fro over one place does
    not move it to and fro.
    """
    cursor = prefix.count("\n")
    if previous is not None and previous >= 0 and previous % limits.step == 0:
        kept = cursor - previous
        least = 0 if previous == 0 else limits.prefix_lines - limits.step
        if least <= kept < limits.prefix_lines + limits.step:
            return previous
    return max(0, (cursor - limits.prefix_lines + limits.step // 2) // limits.step * limits.step)


def hold(previous: str, now: str) -> str:
    """The suffix to send: the previous one while the text behind the cursor has nearly not changed, else `now`.

    A prompt whose suffix stands before the prefix, or whose middle follows it, is computed anew from the first token
    of the suffix that differs; a small edit far below the cursor is not worth that. But a suffix that says what the
    document no longer says is worse than a slow one, so it is held only if all of these are true:

    - the rest of the cursor's line, and the first line below it that is not blank, are the same;
    - among the first 50 words less than 10 % were edited;
    - of all lines less than 10 % are gone;
    - the cursor did not move over a line: that one now stands in the prefix and would be there twice.
    """
    if not previous or not now or previous == now:
        return now
    same = _opening(previous) == _opening(now) and not _moved(previous, now)
    return previous if same and _near_head(previous, now) and _near_lines(previous, now) else now


def _offset(text: str, line: int) -> int:
    """Where a line begins. Counted from the end, where it is near."""
    back = text.count("\n") - line
    end = len(text)
    for _ in range(back + 1):
        end = text.rfind("\n", 0, end)
    return end + 1


def _squeezed(prefix: str, begin: int, limits: TailLimits) -> int:
    """Where the window begins when its lines are too long: at a later step; within one step of lines that is too long
    in itself, at a multiple of a quarter of the limit from the beginning of that step."""
    last = prefix.count("\n") // limits.step * limits.step
    line = prefix.count("\n", 0, begin)
    while line < last:
        line += limits.step
        begin = _offset(prefix, line)
        if len(prefix) - begin <= limits.prefix_chars:
            return begin
    quarter = max(1, limits.prefix_chars // 4)
    over = len(prefix) - begin - limits.prefix_chars
    return begin + -(-over // quarter) * quarter


def _until(suffix: str, limits: TailLimits) -> str:
    """The suffix up to the end of a line; only a first line that is too long in itself is cut."""
    end = 0
    for _ in range(limits.suffix_lines):
        end = suffix.find("\n", end) + 1
        if not end:
            end = len(suffix)
            break
    if end <= limits.suffix_chars:
        return suffix[:end]
    return suffix[: suffix.rfind("\n", 0, limits.suffix_chars) + 1 or limits.suffix_chars]


def _opening(text: str) -> tuple[str, str]:
    """The rest of the cursor's line, and what follows up to the end of the first line that is not blank."""
    rest, _, below = text.partition("\n")
    match = re.match(r"\s*[^\n]*", below)
    return rest, match[0] if match else ""


def _moved(previous: str, now: str) -> bool:
    return _begins_inside(previous, now) or _begins_inside(now, previous)


def _begins_inside(text: str, other: str) -> bool:
    """Does `other` begin with what stands some lines further down in `text`?"""
    lines, others = text.split("\n"), other.split("\n")
    for skipped in range(1, min(len(lines), 64)):
        known = min(len(lines) - skipped, len(others), 16)
        # The last line compared may be cut by the window: its beginning is enough.
        if lines[skipped : skipped + known - 1] == others[: known - 1] and any(map(str.strip, others[: known - 1])):
            return True
    return False


def _near_head(previous: str, now: str) -> bool:
    a, b = (_WORDS.findall(text[:2_000])[:_HEAD_TOKENS] for text in (previous, now))
    return _distance(a, b) < _NEARLY * max(len(a), len(b))


def _near_lines(previous: str, now: str) -> bool:
    old = previous.split("\n")
    gone = Counter(old) - Counter(now.split("\n"))
    return gone.total() < _NEARLY * len(old)


def _distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
