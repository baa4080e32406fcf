"""Which addresses belong to a source, and which machines may be asked. Pure: no name is resolved here."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from aicockpit.errors import BadRequest

LONGEST = 2048
_PORTS = {"http": 80, "https": 443}
# Never pages of documentation; what has another suffix is asked for, and its Content-Type decides.
_OTHER = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|ico|bmp|avif|mp[34]|webm|ogg|wav|mov|woff2?|ttf|otf|eot|css|m?js|map|json|xml|rss|atom"
    r"|pdf|epub|zip|gz|tgz|bz2|xz|zst|7z|tar|whl|jar|exe|dmg|deb|rpm|apk|iso|wasm|csv|tsv|xlsx?|docx?|pptx?|ipynb|inv)$",
    re.IGNORECASE,
)
_INDEX = re.compile(r"/(?:index|default|readme)\.(?:x?html?|md)$", re.IGNORECASE)
_BAD = re.compile(r"[\x00-\x20\x7f\\]")
_V4_INSIDE = {
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64: the last 32 bits
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4: bits 16 to 48
}
# Where clouds tell machines their secrets: AWS, Alibaba, Azure, Google, Oracle, Scaleway; others are link-local.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "fd20:ce::254", "192.0.0.192", "fd00:42::42"),
    )
)
_REFUSED_V6 = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("64:ff9b:1::/48"))

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Site:
    """What belongs to a source: one origin, with or without `www.`, and the paths below `prefix`."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    def same_site(self, url: str) -> bool:
        """Is it the same host? http and https count as one where both have their usual port."""
        try:
            scheme, host, port = _door(url)
        except BadRequest:
            return False
        usual = port == _PORTS[scheme] and self.port == _PORTS[self.scheme]
        return _bare(host) == _bare(self.host) and (usual or (scheme, port) == (self.scheme, self.port))

    def holds(self, url: str) -> bool:
        """Is it a page of this source?"""
        if not self.same_site(url):
            return False
        path = urlsplit(url).path or "/"
        return path.startswith(self.prefix) or path == self.prefix.rstrip("/")

    def link(self, base: str, href: str) -> str | None:
        """The page that a link in the page `base` leads to, or None when it is none of this source."""
        href = href.strip()
        if not href or len(href) > LONGEST or href.startswith("#"):
            return None
        try:
            url = clean(urljoin(base, href))
        except (ValueError, BadRequest):
            return None
        if not self.holds(url) or _OTHER.search(urlsplit(url).path):
            return None
        # http://, www. and the like of the same site: one page has one address.
        parts = urlsplit(url)
        return self.origin + parts.path


def check(url: str) -> str:
    """The address that a user gave, cleaned, or BadRequest that says what is wrong with it."""
    text = url.strip()
    if "://" not in text and re.match(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?(/|$)", text):
        text = "https://" + text
    if len(text) > LONGEST:
        raise _wrong(f"the address is longer than {LONGEST} characters")
    return clean(text)


def clean(url: str) -> str:
    """Without fragment and query, with a normal path and quoting. Raises BadRequest."""
    scheme, host, port = _door(url)
    parts = urlsplit(url)
    path = parts.path or "/"
    folder = path.endswith(("/", "/.", "/.."))
    path = posixpath.normpath(
        quote(unquote(path, errors="surrogateescape"), safe="/~!$&'()*+,;=:@-._", errors="surrogateescape")
    )
    path = "/" + path.lstrip("/")
    if folder and path != "/":
        path += "/"
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit((scheme, shown if port == _PORTS[scheme] else f"{shown}:{port}", path, "", ""))


def key(url: str) -> str:
    """What two addresses of one page have in common: neither the slash at the end nor `index.html` tells them apart."""
    parts = urlsplit(url)
    path = _INDEX.sub("/", parts.path)
    return f"{_bare(parts.netloc)}{path.rstrip('/') or '/'}"


def site_of(url: str) -> Site:
    """The source that a start address means: its folder.

    An address with one part and no suffix (`/docs`) means that part; one that ends in a page means the page's folder.
    """
    scheme, host, port = _door(url)
    path = urlsplit(url).path or "/"
    folder, _, last = path.rpartition("/")
    if last and "." not in last and folder in ("", "/"):
        return Site(scheme, host, port, path + "/")
    return Site(scheme, host, port, folder + "/")


def refusal(ip: Ip, private_ok: bool) -> str:
    """Why this machine may not be asked, or ''. Link-local ones never: there are the clouds' metadata services."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return refusal(ip.ipv4_mapped, private_ok)
        for network, shift in _V4_INSIDE.items():
            if ip in network:
                return refusal(ipaddress.IPv4Address((int(ip) >> shift) & 0xFFFFFFFF), private_ok)
        if any(ip in network for network in _REFUSED_V6):
            return f"{ip} is a tunnel address"
    if (
        ip in _METADATA
        or ip.is_link_local
        or ip.is_multicast
        or ip.is_unspecified
        or (ip.is_reserved and not ip.is_loopback)
    ):
        return f"{ip} is not an address of a site"
    if not private_ok and (not ip.is_global or getattr(ip, "is_site_local", False)):
        kind = "this machine's own" if ip.is_loopback else "a private"
        return f"{ip} is {kind} address; a key with --admin may add documentation served inside a company"
    return ""


def _door(url: str) -> tuple[str, str, int]:
    """Scheme, host, port. Raises BadRequest."""
    if _BAD.search(url):
        raise _wrong("the address has spaces or control characters in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _wrong(f"{url[:200]!r} is not a URL: {error}") from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not host:
        raise _wrong(f"{url[:200]!r} must look like https://host/path; only http and https are read")
    if parts.username is not None or parts.password is not None:
        raise _wrong("the address holds a user name or a password, which is not sent anywhere; leave it out")
    try:
        host = host.rstrip(".") if host.isascii() else host.rstrip(".").encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _wrong(f"{host[:100]!r} is not a host name") from error
    return scheme, host.lower(), _PORTS[scheme] if port is None else port


def _bare(host: str) -> str:
    return host.removeprefix("www.")


def _wrong(why: str) -> BadRequest:
    return BadRequest(why, code="bad_url", param="url")
