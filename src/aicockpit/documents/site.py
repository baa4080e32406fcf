"""What a site says of itself before it is read: robots.txt, sitemaps, llms.txt. The text in, decisions out; pure."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from html import unescape
from urllib.parse import urljoin

from protego import Protego

from aicockpit.documents import address
from aicockpit.documents.address import Site
from aicockpit.documents.net import ROBOT
from aicockpit.errors import BadRequest

_LOC = re.compile(r"<(?:\w+:)?loc>\s*(?:<!\[CDATA\[)?\s*([^<\s\]]{1,2048})", re.IGNORECASE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]{0,300}\]\(\s*<?([^)\s>]{1,2048})")
_PAGE = re.compile(r"^(?:(?:```|~~~)|# +(\S.*)$)", re.MULTILINE)
_SOURCE = re.compile(r"^\s*(?:(?:Source|URL|Link)(?: URL)?\s*:\s*|<)?(https?://[^\s>)]{4,2048})>?\s*$", re.IGNORECASE)
_SLOWEST_S = 5.0
ROBOTS_MOST = 512 * 1024
# Fewer links than this are a note, not a list of the documentation.
_LISTED = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """What robots.txt allows us. `delay_s`: between two requests, None where it does not say."""

    robots: Protego | None
    delay_s: float | None
    sitemaps: tuple[str, ...]
    closed: str = ""

    def allows(self, url: str) -> bool:
        return not self.closed and (self.robots is None or bool(self.robots.can_fetch(url, ROBOT)))


def rules(status: int, text: str) -> Rules:
    """By RFC 9309: none where there is no file, everything forbidden while the site cannot give it."""
    if status == 429 or status >= 500:
        return Rules(None, None, (), f"robots.txt answered {status}: the site does not want to be read now")
    if status != 200:
        return Rules(None, None, ())
    robots = Protego.parse(text)
    delay = robots.crawl_delay(ROBOT)
    slow = None if delay is None else min(max(0.0, float(delay)), _SLOWEST_S)
    return Rules(robots, slow, tuple(robots.sitemaps)[:10])


def sitemap(raw: bytes, most: int) -> tuple[list[str], bool]:
    """The addresses in a sitemap, and whether they are sitemaps again. Not parsed as XML, so entities cannot grow."""
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = zlib.decompressobj(31).decompress(raw, most)
        except zlib.error:
            return [], False
    text = raw[:most].decode("utf-8", "replace")
    return [unescape(match.group(1)) for match in _LOC.finditer(text)], "<sitemapindex" in text[:2000].lower()


def is_text(media: str, body: bytes) -> bool:
    """Is it a text, and not the page that a site answers to everything?"""
    return (
        media in ("text/plain", "text/markdown", "text/x-markdown", "application/octet-stream", "")
        and body.lstrip()[:1] != b"<"
    )


def listed(text: str, base: str, site: Site) -> list[str]:
    """The pages that an llms.txt names, of this source; [] where it names too few to be a list."""
    found = (site.link(base, match.group(1)) for match in _LINK.finditer(text))
    pages = list(dict.fromkeys(url for url in found if url))
    return pages if len(pages) >= _LISTED else []


def parts(text: str, url: str, site: Site) -> list[tuple[str, str, str]]:
    """Pages in an llms-full.txt: (address, title, Markdown). A page begins with a heading of level 1 outside code.

    Where the line after says where the page is, that is its address, else the file's own.
    """
    starts, inside = list[re.Match[str]](), False
    for match in _PAGE.finditer(text):
        if match.group(1) is None:
            inside = not inside
        elif not inside:
            starts.append(match)
    ends = [match.start() for match in starts[1:]] + [len(text)]
    found = []
    if starts and text[: starts[0].start()].strip():
        found.append((url, "", text[: starts[0].start()]))
    for match, end in zip(starts, ends, strict=False):
        body = text[match.end() : end].lstrip("\n")
        first, _, rest = body.partition("\n")
        where = url
        if said := _SOURCE.match(first):
            where, body = _of_site(said.group(1), url, site), rest
        found.append((where, match.group(1).strip(), f"# {match.group(1).strip()}\n\n{body}"))
    return found or [(url, "", text)]


def _of_site(said: str, url: str, site: Site) -> str:
    try:
        clean = address.clean(urljoin(url, said))
    except (ValueError, BadRequest):
        return url
    return clean if site.same_site(clean) else url
