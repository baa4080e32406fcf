"""A marked section of a Markdown page: `<!-- bench:NAME:begin -->` to `<!-- bench:NAME:end -->`."""

from __future__ import annotations

from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """The two comments between which `name`'s section stands."""
    return f"<!-- bench:{name}:begin -->", f"<!-- bench:{name}:end -->"


def replaced(text: str, name: str, part: str) -> str:
    """`text` with the section's inside replaced; appended with its markers when it has none.

    Raises ValueError when a marker is missing, doubled, or in the wrong order.
    """
    begin, end = markers(name)
    block = f"{begin}\n{part}\n{end}"
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    first, last = text.find(begin), text.find(end)
    if text.count(begin) != 1 or text.count(end) != 1 or last < first:
        raise ValueError(f"the markers {begin} and {end} must stand once each, in this order")
    return text[:first] + block + text[last + len(end) :]


def write(path: Path, name: str, part: str) -> None:
    """Put the generated part into the page; makes the page when it is missing."""
    text = path.read_text() if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(replaced(text, name, part))
