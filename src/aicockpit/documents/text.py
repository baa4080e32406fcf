"""Markdown, reStructuredText and plain text as blocks. Line by line: what is not understood is text."""

from __future__ import annotations

import re

from aicockpit.documents import html
from aicockpit.documents.values import Block, Document, Limits

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*([^`\s{]*)")
_ATX = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*(?:\{#([\w-]+)\})?$")
_SETEXT = re.compile(r"^ {0,3}(=+|-+)\s*$")
_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]{0,300}\]\(\s*<?([^)\s>]{1,2048})")
_ADORNED = re.compile(r"^([=\-`:'\"~^_*+#<>.])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\. (?:code-block|code|sourcecode|literalinclude|highlight)::\s*(\S*)")
_OPTION = re.compile(r"\s+:[\w-]+:")
# Longer lines are no headings: patterns that look back and forth are tried on short ones only.
_LONGEST = 1000
_HTML_START = re.compile(r"^\s*(?:<!doctype html|<html|<\?xml)", re.IGNORECASE)
SUFFIXES = {
    **dict.fromkeys((".md", ".markdown", ".mdx", ".mkd"), "markdown"),
    **dict.fromkeys((".rst", ".rest"), "rst"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".txt", ".text", ".adoc", ".asciidoc", ".org"), "plain"),
}


def kind_of(name: str, media: str = "") -> str:
    """How a file or a page is read: html, markdown, rst, plain, or '' for one that is not."""
    suffix = "." + name.rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""
    by_name = SUFFIXES.get(suffix, "")
    if not media:
        return by_name
    if media in ("text/html", "application/xhtml+xml"):
        return "html"
    if media in ("text/markdown", "text/x-markdown"):
        return "markdown"
    if media in ("text/plain", "text/x-rst", "text/prs.fallenstein.rst"):
        return by_name if by_name in ("markdown", "rst") else "rst" if "rst" in media else "plain"
    return ""


def read(text: str, kind: str, name: str = "", limits: Limits | None = None) -> Document:
    """A document by its kind (`kind_of`); `name` is its title where it has none."""
    if kind == "html" or _HTML_START.match(text[:200]):
        document = html.read(text, limits)
    elif kind == "rst":
        document = _rst(text.expandtabs(4).splitlines())
    elif kind == "plain":
        document = Document("", tuple(Block("text", part) for part in _paragraphs(text)))
    else:
        document = _markdown(text, (limits or Limits()).links)
    if document.title or not name:
        return document
    return Document(name, document.blocks, document.links, document.base)


def _paragraphs(text: str) -> list[str]:
    return [part.strip("\n").rstrip() for part in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")) if part.strip()]


def _markdown(text: str, most: int) -> Document:
    text, title = text.replace("\r\n", "\n"), ""
    if text.startswith("---\n") and 0 < (end := text.find("\n---", 4)) < 20_000:
        found = _TITLE.search(text[4:end])
        title, text = found.group(1) if found else "", text[end + 4 :].partition("\n")[2]
    links = tuple(dict.fromkeys(match.group(1) for match in _LINK.finditer(text)))[:most]
    blocks: list[Block] = []
    lines, waiting = _outside_comments(text).split("\n"), list[str]()

    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := _FENCE.match(line):
            _flush(blocks, waiting)
            end = _fence_end(lines, number, fence.group(1))
            body = "\n".join(lines[number:end]).strip("\n")
            if body.strip():
                blocks.append(Block("code", f"{fence.group(2).lower()}\n{body}"))
            number = end + 1
        elif len(line) <= _LONGEST and (head := _ATX.match(line)):
            _flush(blocks, waiting)
            blocks.append(Block("heading", _plain(head.group(2)), len(head.group(1)), head.group(3) or ""))
        elif waiting and len(waiting) == 1 and waiting[0].strip() and (under := _SETEXT.match(line[:_LONGEST])):
            name = waiting.pop()
            blocks.append(Block("heading", _plain(name), 1 if under.group(1)[0] == "=" else 2))
        elif not line.strip():
            _flush(blocks, waiting)
        else:
            waiting.append(line)
    _flush(blocks, waiting)
    first = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), "")
    return Document(title or first, tuple(blocks), links)


def _outside_comments(text: str) -> str:
    """Comments removed; inside a fence they are code, so a text with both is left as it is."""
    if "```" in text or "~~~" in text:
        return text
    parts, at = list[str](), 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    return "".join(parts) + text[at:]


def _fence_end(lines: list[str], start: int, mark: str) -> int:
    """Index of the closing line, or the number of lines."""
    for number in range(start, len(lines)):
        line = lines[number].strip()
        if line.startswith(mark) and not line.strip(mark[0]):
            return number
    return len(lines)


def _plain(text: str) -> str:
    """A heading without its marks: links become their text."""
    text = text[:_LONGEST]
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"<[^>]{1,200}>|[*`]|(?<!\w)_|_(?!\w)", "", text).strip()[:300]


def _flush(blocks: list[Block], waiting: list[str]) -> None:
    """Lines of prose that something else ends become a block."""
    part = "\n".join(waiting).strip("\n").rstrip()
    if part.strip():
        blocks.append(Block("text", part))
    waiting.clear()


def _rst(lines: list[str]) -> Document:
    blocks: list[Block] = []
    waiting: list[str] = []
    levels: list[str] = []  # adornments in order of appearance: that is what their level is

    number = 0
    while number < len(lines):
        line, after = lines[number], lines[number + 1] if number + 1 < len(lines) else ""
        over = bool(_ADORNED.match(line)) and not waiting and bool(after.strip())
        if over and number + 2 < len(lines) and lines[number + 2].rstrip() == line.rstrip():
            blocks.append(_rst_heading(after, line[0] * 2, levels))
            number += 3
        elif line.strip() and not waiting and _ADORNED.match(after) and len(after.rstrip()) >= len(line.rstrip()):
            blocks.append(_rst_heading(line, after[0], levels))
            number += 2
        elif (code := _DIRECTIVE.match(line)) or line.rstrip().endswith("::"):
            if not code and not line.strip().startswith(".. "):
                waiting.append(line.rstrip()[:-1] if line.strip() != "::" else "")
            _flush(blocks, waiting)
            number, body = _indented(lines, number + 1, len(line) - len(line.lstrip()))
            if body and (code or not line.strip().startswith(".. ")):
                blocks.append(Block("code", f"{code.group(1).lower() if code else ''}\n{body}"))
            elif body:
                blocks.append(Block("text", body))
        else:
            if line.strip() and not line.startswith(".. _"):
                waiting.append(line)
            elif not line.strip():
                _flush(blocks, waiting)
            number += 1
    _flush(blocks, waiting)
    first = next((block.text for block in blocks if block.kind == "heading"), "")
    return Document(first, tuple(blocks))


def _rst_heading(text: str, mark: str, levels: list[str]) -> Block:
    if mark not in levels:
        levels.append(mark)
    clean = re.sub(r":[\w:]+:`([^`<]*)(?:<[^>]*>)?`|``", r"\1", text[:_LONGEST]).strip()
    return Block("heading", clean[:300], min(6, levels.index(mark) + 1))


def _indented(lines: list[str], start: int, margin: int) -> tuple[int, str]:
    """The block below a line, deeper than its margin, without the directive's options."""
    end = start
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > margin):
        end += 1
    body = lines[start:end]
    first = next((n for n, line in enumerate(body) if line.strip() and not _OPTION.match(line)), len(body))
    body = body[first:]
    depth = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    return end, "\n".join(line[depth:].rstrip() for line in body).strip("\n")
