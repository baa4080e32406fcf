"""One pattern of a `.gitignore` as a regular expression over bytes, with git's own meaning (its wildmatch.c and dir.c).

The general library for this differs from git: character classes such as `[[:alpha:]]`, escapes inside brackets, a
trailing backslash or tab, `foo**/bar`. `tests/test_indexer_ignore.py` holds each of these against the real git.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPECIAL = b"*?[\\"
_CLASSES = {
    b"alnum": re.compile(rb"[0-9A-Za-z]"),
    b"alpha": re.compile(rb"[A-Za-z]"),
    b"blank": re.compile(rb"[ \t]"),
    b"cntrl": re.compile(rb"[\x00-\x1f\x7f]"),
    b"digit": re.compile(rb"[0-9]"),
    b"graph": re.compile(rb"[!-~]"),
    b"lower": re.compile(rb"[a-z]"),
    b"print": re.compile(rb"[ -~]"),
    b"punct": re.compile(rb"[!-/:-@\[-`{-~]"),
    b"space": re.compile(rb"[ \t\n\v\f\r]"),
    b"upper": re.compile(rb"[A-Z]"),
    b"xdigit": re.compile(rb"[0-9A-Fa-f]"),
}


class _Never(Exception):
    """The pattern can match nothing: an open bracket, an unknown class, a lone backslash at its end."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`regex` is for the name alone if `name_only`, else for the path below the pattern's own folder."""

    regex: bytes
    name_only: bool
    directories_only: bool
    negated: bool


def parse(line: bytes, *, ignore_case: bool = False) -> Pattern | None:
    """A line without its line end; None for an empty line, a comment, and a pattern that can match nothing."""
    text = _trimmed(line.partition(b"\0")[0])
    if not text or text.startswith(b"#"):
        return None
    negated = text.startswith(b"!")
    text = text[negated:]
    directories_only = text.endswith(b"/")
    if directories_only:
        text = text[:-1]
    name_only = b"/" not in text
    if not text:
        return None
    if text.startswith(b"/"):
        text = text[1:]
    # git compares what stands before the first special character as it is. So `**` right behind it counts as the
    # pattern's beginning: `foo**/bar` matches `foox/y/bar`.
    plain = next((place for place, byte in enumerate(text) if byte in _SPECIAL), len(text))
    try:
        regex = _literal(text[:plain], ignore_case) + _translate(text[plain:], not name_only, ignore_case)
    except _Never:
        return None
    return Pattern(regex, name_only, directories_only, negated)


def _trimmed(line: bytes) -> bytes:
    """Without trailing spaces, but for escaped ones; other white space stays."""
    end, place = -1, 0
    while place < len(line):
        if line[place] == 0x20:
            end = place if end < 0 else end
        else:
            if line[place] == 0x5C:
                place += 1
                if place == len(line):
                    return line
            end = -1
        place += 1
    return line if end < 0 else line[:end]


def _literal(text: bytes, ignore_case: bool) -> bytes:
    return b"".join(_byte(bytes((byte,)), ignore_case) for byte in text)


def _byte(char: bytes, ignore_case: bool) -> bytes:
    """Only ASCII letters have a case, as in git."""
    if ignore_case and char.isalpha():
        return b"[" + char.lower() + char.upper() + b"]"
    return re.escape(char)


def _translate(text: bytes, paths: bool, ignore_case: bool) -> bytes:
    """`paths`: stars and question marks stop at slashes, `**` between slashes does not."""
    out, place = [], 0
    while place < len(text):
        char = text[place : place + 1]
        if char == b"*":
            end = place
            while text[end : end + 1] == b"*":
                end += 1
            part, place = _stars(text, place, end, paths)
            out.append(part)
        elif char == b"?":
            out.append(b"[^/]" if paths else b"(?s:.)")
            place += 1
        elif char == b"[":
            members, place = _bracket(text, place + 1, ignore_case)
            out.append(_one_of(members - {0x2F} if paths else members))
        elif char == b"\\":
            if place + 1 == len(text):
                raise _Never
            out.append(_byte(text[place + 1 : place + 2], ignore_case))
            place += 2
        else:
            out.append(_byte(char, ignore_case))
            place += 1
    return b"".join(out)


def _stars(text: bytes, place: int, end: int, paths: bool) -> tuple[bytes, int]:
    """The stars in text[place:end]: their regular expression, and where the pattern goes on."""
    if not paths:
        return b"(?s:.*)", end
    after = text[end : end + 2]
    bounded = (place == 0 or text[place - 1] == 0x2F) and (not after or after[:1] == b"/" or after == b"\\/")
    if end - place < 2 or not bounded:
        return b"[^/]*", end
    if after[:1] == b"/":
        return b"(?s:.*/)?", end + 1
    return b"(?s:.*)", end


def _one_of(members: set[int]) -> bytes:
    if not members:
        raise _Never
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(members)) + b"]"


def _bracket(text: bytes, place: int, ignore_case: bool) -> tuple[set[int], int]:
    """The bytes that a bracket stands for, and where the pattern goes on behind it."""
    negated = text[place : place + 1] in (b"!", b"^") and place < len(text)
    place += negated
    members: set[int] = set()
    previous, first = 0, True
    while first or text[place : place + 1] != b"]":
        first = False
        if place >= len(text):
            raise _Never
        byte = text[place]
        following = text[place + 1 : place + 2]
        if byte == 0x5C:
            place += 1
            byte = _at(text, place)
            members.add(byte)
        elif byte == 0x2D and previous and following and following != b"]":
            place += 1
            high = _at(text, place)
            if high == 0x5C:
                place += 1
                high = _at(text, place)
            members.update(range(previous, high + 1))
            if ignore_case:
                members.update(low for low in range(0x61, 0x7B) if previous <= low - 0x20 <= high)
            byte = 0
        elif byte == 0x5B and following == b":":
            found = _named_class(text, place + 2, ignore_case)
            if found is None:
                members.add(byte)
            else:
                more, place = found
                members |= more
                byte = 0
        else:
            members.add(byte)
        previous = byte
        place += 1
    if ignore_case:  # git lowers the letter of the path, not those in the bracket
        members -= set(range(0x41, 0x5B))
        if not negated:
            members |= {byte - 0x20 for byte in members if 0x61 <= byte <= 0x7A}
        else:
            members |= {byte - 0x20 for byte in range(0x61, 0x7B) if byte in members}
    return (set(range(1, 256)) - members if negated else members - {0}), place + 1


def _named_class(text: bytes, start: int, ignore_case: bool) -> tuple[set[int], int] | None:
    """`[:name:]` at `start`, behind its colon; None when no `:]` ends it, and it is a plain bracket."""
    end = text.find(b"]", start)
    if end < 0:
        raise _Never
    if end == start or text[end - 1 : end] != b":":
        return None
    name = text[start : end - 1]
    if name not in _CLASSES:
        raise _Never
    members = {byte for byte in range(1, 128) if _CLASSES[name].match(bytes((byte,)))}
    if name == b"upper" and ignore_case:
        members |= set(range(0x61, 0x7B))
    return members, end


def _at(text: bytes, place: int) -> int:
    if place >= len(text):
        raise _Never
    return text[place]
