"""An HTML page as blocks: headings with their anchors, text, code word for word; navigation is left out."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from aicockpit.documents.values import Block, Document, Limits

# The first of them that holds most of the page's text is the page.
_MAIN = (
    "[itemprop=articleBody]",
    "[role=main]",
    "main",
    "article",
    "div.document div.body",
    ".markdown-body",
    ".rst-content",
    "#content",
)
_DROPPED = (
    "script, style, noscript, template, svg, canvas, iframe, object, video, audio, form, button, input, select, "
    "dialog, nav, footer, aside, [role=navigation], [role=banner], [role=contentinfo], [role=search], "
    "[aria-hidden=true], [hidden], a.headerlink, a.anchor, a.hash-link, .headerlink, .breadcrumb, "
    ".breadcrumbs, .toctree-wrapper, .sphinxsidebar, .sidebar, .toc, #toc, .table-of-contents, "
    ".edit-this-page, .linenos, .linenodiv, "
    ".rst-footer-buttons, .prev-next-area, .pagination-nav, .md-source-file, .skip-link, .visually-hidden, .sr-only"
)
_BLOCKS = frozenset(
    """
    address article blockquote body center dd details div dl dt fieldset figcaption figure footer h1 h2 h3 h4 h5 h6
    header hr li main ol p pre section summary table tbody td tfoot th thead tr ul
    """.split()  # noqa: SIM905
)
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
# A main part with less of the page's text than this share is a wrong one.
_SHARE = 0.25
# Nested deeper, a part is taken as plain text.
_DEEPEST = 150
# Nested deeper, a page is not parsed: browsers stop at 512.
_NESTED = 4000
_OPENED = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
_TAG = re.compile(r"<[^<>]{0,2000}>")
# Without an end, or ended by the next of its kind.
_SHORT = frozenset(
    """
    area base br col embed hr img input link meta source track wbr p li dt dd tr td th tbody thead tfoot option
    """.split()  # noqa: SIM905
)
_LANGUAGE = re.compile(r"(?:language|lang|highlight(?:-source)?|brush:)[-: ]([A-Za-z0-9+#_.-]+)")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f\xa0]+")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# What the web calls so is another one.
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}


def decode(raw: bytes, declared: str = "", look: bool = True) -> str:
    """Text of a page. In order: byte order mark, the header's charset, `<meta charset>`, UTF-8, Windows-1252.

    A charset that does not fit the bytes is passed over: many servers tell the same one of every file.
    """
    for bom, name in _BOMS:
        if raw.startswith(bom):
            return raw[len(bom) :].decode(name, "replace")
    found = _CHARSET.search(raw[:4096]) if look else None
    told = [declared, found.group(1).decode("ascii") if found else ""]
    for name in [*(_codec(one) for one in told if one), "utf-8"]:
        if name:
            try:
                return raw.decode(name)
            except (UnicodeDecodeError, LookupError):
                continue
    return raw.decode("cp1252", "replace")


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name.strip()).name
    except (LookupError, ValueError):
        return ""
    return _MEANT.get(found, found)


def read(text: str, limits: Limits | None = None) -> Document:
    """A page's blocks and links. Anything is a page: a broken one is read as a browser would."""
    limits = limits or Limits()
    if nesting(text) > _NESTED:
        return Document(
            "", tuple(Block("text", part) for part in re.split(r"\n\s*\n", _TAG.sub(" ", text)) if part.strip())
        )
    tree = LexborHTMLParser(text)
    links, base = _links(tree, limits.links)
    title = _title(tree)
    for node in tree.css(_DROPPED):
        if node.tag not in ("body", "html", "main", "article"):
            node.decompose(recursive=True)
    body = tree.body
    if body is None:
        return Document(title, (), links, base)
    writer = _Writer()
    writer.walk(_main(tree, body), 0)
    writer.end()
    first = next((block.text for block in writer.blocks if block.kind == "heading" and block.level == 1), "")
    return Document(first or title, tuple(writer.blocks), links, base)


def nesting(text: str) -> int:
    """How deep its elements may be nested, at most: parsing takes the square of it."""
    deepest = depth = 0
    for match in _OPENED.finditer(text):
        if match.group(1):
            depth = max(0, depth - 1)
        elif match.group(2).lower() not in _SHORT:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


def _links(tree: LexborHTMLParser, most: int) -> tuple[tuple[str, ...], str]:
    found: dict[str, None] = {}
    for node in tree.css("a[href], area[href]"):
        if (href := node.attributes.get("href")) and "nofollow" not in (node.attributes.get("rel") or ""):
            found[href] = None
            if len(found) >= most:
                break
    for node in tree.css("meta[http-equiv]"):
        if (node.attributes.get("http-equiv") or "").lower() == "refresh":
            where = re.search(r"url\s*=\s*['\"]?([^'\"\s]+)", node.attributes.get("content") or "", re.IGNORECASE)
            if where:
                found[where.group(1)] = None
    base = tree.css_first("base[href]")
    return tuple(found), (base.attributes.get("href") or "") if base is not None else ""


def _title(tree: LexborHTMLParser) -> str:
    node = tree.css_first("title")
    text = _flat(node.text(deep=True)) if node is not None else ""
    # `Page — Project 1.2 documentation`, `Page | Project`: the page comes first nearly everywhere.
    return re.split(r"\s+[|—·»]\s+", text, maxsplit=1)[0][:300]


def _main(tree: LexborHTMLParser, body: LexborNode) -> LexborNode:
    whole = len(_flat(body.text(deep=True)))
    for selector in _MAIN:
        found = tree.css(selector)
        if len(found) == 1 and len(_flat(found[0].text(deep=True))) >= _SHARE * whole:
            return found[0]
    return body


def _flat(text: str | None) -> str:
    return _SPACE.sub(" ", text or "").strip()


@dataclass(slots=True)
class _Writer:
    """Walks a page; what was written since the last block waits in `line`."""

    blocks: list[Block] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    anchor: str = ""
    mark: str = ""

    def end(self) -> None:
        """The paragraph is complete."""
        text, self.line = _flat("".join(self.line)), []
        if text:
            self.blocks.append(Block("text", self.mark + text))
            self.mark = self.mark and " " * len(self.mark)

    def walk(self, node: LexborNode, depth: int) -> None:
        if depth > _DEEPEST:
            self.line.append(node.text(deep=True, separator=" "))
            return
        child = node.child
        while child is not None:
            self._one(child, depth)
            child = child.next

    def _one(self, node: LexborNode, depth: int) -> None:
        tag = node.tag or ""
        if tag == "-text":
            self.line.append(node.text_content or "")
        elif tag in ("-comment", "_comment", "!--") or tag.startswith("-"):
            return
        elif tag in _HEADINGS:
            self._heading(node, _HEADINGS[tag])
        elif tag == "pre":
            self._code(node)
        elif tag == "br":
            self.line.append("\n")
        elif tag in ("code", "kbd", "samp", "tt") and "`" not in (text := _flat(node.text(deep=True))):
            self.line.append(f"`{text}`" if text else "")
        elif tag == "img":
            self.line.append(node.attributes.get("alt") or "")
        elif tag == "table":
            self._table(node, depth)
        elif tag == "dt" and (anchor := node.attributes.get("id")):
            self._signature(node, anchor)
        elif tag == "li":
            self.end()
            before, self.mark = self.mark, " " * len(self.mark) + "- "
            self.walk(node, depth + 1)
            self.end()
            self.mark = before
        elif tag in _BLOCKS:
            self.end()
            self.walk(node, depth + 1)
            self.end()
        else:
            self.walk(node, depth + 1)

    def _heading(self, node: LexborNode, level: int) -> None:
        self.end()
        text = _flat(node.text(deep=True)).rstrip("#¶ ").strip()
        if text:
            self.blocks.append(Block("heading", text[:300], level, _anchor(node)))

    def _signature(self, node: LexborNode, anchor: str) -> None:
        """A term that may be linked to, such as a function's signature: found as a heading is."""
        self.end()
        text = _flat(node.text(deep=True)).rstrip("#¶ ").strip()
        if text:
            self.blocks.append(Block("heading", text[:300], 6, anchor))

    def _code(self, node: LexborNode) -> None:
        self.end()
        text = (node.text(deep=True) or "").strip("\n").rstrip()
        if text:
            self.blocks.append(Block("code", f"{_language(node)}\n{text}"))

    def _table(self, node: LexborNode, depth: int) -> None:
        """A row a line. A table that is a frame for blocks (line numbers beside code, say) is walked as one."""
        self.end()
        if node.css_first("pre, table table, ul, ol, h1, h2, h3, h4") is not None:
            self.walk(node, depth + 1)
            self.end()
            return
        rows = []
        for row in node.css("tr"):
            cells = [_flat(cell.text(deep=True)) for cell in row.css("th, td")]
            if any(cells):
                rows.append("| " + " | ".join(cells) + " |")
        if rows:
            self.blocks.append(Block("text", "\n".join(rows)))


def _anchor(node: LexborNode) -> str:
    """Where a link to a heading goes: its own id, that of its section, or of an anchor inside it."""
    inner = node.css_first("[id], a[name]")
    parent = node.parent
    for one in (node, inner, parent if parent is not None and parent.tag in ("section", "div") else None):
        if one is not None and (found := one.attributes.get("id") or one.attributes.get("name")):
            return found[:200]
    return ""


def _language(node: LexborNode) -> str:
    """What a code block says it is written in: its class, its `<code>`'s, or those of the boxes around it."""
    code, parent = node.css_first("code"), node.parent
    around = [code, node, parent, parent.parent if parent is not None else None]
    for one in around:
        if one is not None and (match := _LANGUAGE.search(one.attributes.get("class") or "")):
            return "" if match.group(1) in ("default", "none", "text", "notranslate") else match.group(1).lower()
    return ""
