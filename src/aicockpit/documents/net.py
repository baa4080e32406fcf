"""HTTP for documentation: one GET, to an address that was looked at, within limits of time and size.

A name is resolved once, every address of it is judged, and the connection goes to one that was good: a name that
points elsewhere a moment later changes nothing. Redirects are not followed here, cookies and credentials do not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import Cookie, DefaultCookiePolicy
from urllib.request import Request

import httpx

from aicockpit import __version__
from aicockpit.documents import address
from aicockpit.documents.values import Limits
from aicockpit.errors import AicockpitError

AGENT = f"AiCockpit/{__version__} (documentation reader)"
ROBOT = "AiCockpit"
_ACCEPT = "text/html, text/markdown, text/plain;q=0.9, application/xhtml+xml;q=0.9, */*;q=0.1"
_PIECE = 65_536
_PACKED = ("", "identity", "gzip", "x-gzip", "deflate")

# Host and port to addresses, as text. Raises OSError.
Resolve = Callable[[str, int], Awaitable[list[str]]]


class FetchError(AicockpitError):
    """A page cannot be had; `again`: it may be, later. `refused`: by us. `status`: what it answered, or 0."""

    def __init__(self, message: str, *, again: bool = False, refused: bool = False, status: int = 0) -> None:
        super().__init__(message)
        self.again, self.refused, self.status = again, refused, status


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `media` is the type without parameters, in lower case; `body` is empty above the limit."""

    status: int
    headers: Mapping[str, str]
    media: str
    charset: str
    body: bytes
    cut: bool


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Guarded(httpx.AsyncBaseTransport):
    """Connects only where `address.refusal` has nothing against it; the name stays in `Host` and in TLS."""

    def __init__(self, inner: httpx.AsyncBaseTransport, private_ok: bool, look_up: Resolve = resolve) -> None:
        self._inner, self._private_ok, self._look_up = inner, private_ok, look_up
        self._pinned: dict[tuple[str, int], list[str]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        error: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for ip in await self._addresses(host, port):
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=ip),
                headers=request.headers,  # `Host` is in them
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                error = failed
        assert error is not None
        raise error

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Good addresses of a host, at most two: one that is away shall not cost every request its limit."""
        known = self._pinned.get((host, port))
        if known is not None:
            return known
        try:
            found = [host] if _is_ip(host) else await self._look_up(host, port)
        except OSError as error:
            again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            raise FetchError(f"the name {host} cannot be resolved: {error.strerror or error}", again=again) from error
        good, reasons = list[str](), list[str]()
        for text in found:
            ip = ipaddress.ip_address(text.partition("%")[0])
            reason = address.refusal(ip, self._private_ok)
            if reason:
                reasons.append(reason)
            else:
                good.append(str(ip))
        if not good:
            raise FetchError(f"{host} is not read: {'; '.join(reasons) or 'it has no address'}", refused=True)
        self._pinned[host, port] = good[:2]
        return self._pinned[host, port]


class _NoCookies(DefaultCookiePolicy):
    """None is kept, none is sent."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        return False


class Reader:
    """Sends GETs. One for each source: nothing is shared between them."""

    def __init__(self, client: httpx.AsyncClient, limits: Limits) -> None:
        self._client, self._limits = client, limits

    async def get(self, url: str, most: int) -> Answer:
        """One answer with at most `most` bytes of body, decoded. Raises FetchError."""
        try:
            async with asyncio.timeout(self._limits.request_s), self._client.stream("GET", url) as response:
                return await _answer(response, most)
        except TimeoutError as error:
            raise FetchError(f"no complete answer within {self._limits.request_s:g} s", again=True) from error
        except httpx.TimeoutException as error:
            raise FetchError(f"no answer in time ({type(error).__name__})", again=True) from error
        except httpx.HTTPError as error:
            wrong_certificate = isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE" in str(error)
            raise FetchError(f"{str(error) or type(error).__name__}", again=not wrong_certificate) from error
        except (httpx.InvalidURL, httpx.StreamError, ValueError) as error:
            raise FetchError(f"it is not answered as HTTP: {error}") from error


@contextlib.asynccontextmanager
async def opened(limits: Limits, private_ok: bool, look_up: Resolve = resolve) -> AsyncIterator[Reader]:
    """A reader with connections of its own. Certificates are checked; SSL_CERT_FILE names further ones."""
    context = await asyncio.to_thread(httpx.create_ssl_context)
    pool = httpx.Limits(max_connections=limits.concurrency, max_keepalive_connections=limits.concurrency)
    inner = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=pool)
    timeout = httpx.Timeout(limits.read_s, connect=limits.connect_s, pool=None)
    headers = {"user-agent": AGENT, "accept": _ACCEPT, "accept-encoding": "gzip, deflate"}
    guarded = Guarded(inner, private_ok, look_up)
    async with httpx.AsyncClient(
        transport=guarded, timeout=timeout, headers=headers, trust_env=False, follow_redirects=False
    ) as client:
        client.cookies.jar.set_policy(_NoCookies())
        yield Reader(client, limits)


async def _answer(response: httpx.Response, most: int) -> Answer:
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed not in _PACKED:  # packed twice, a page may be a million times as large
        raise FetchError(f"it is packed as {packed[:60]!r}, which was not asked for", refused=True)
    kind = response.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    parts, size, cut = list[bytes](), 0, False
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        cut = True
    elif response.status_code == 200:
        async for part in response.aiter_bytes(_PIECE):
            size += len(part)
            if size > most:
                cut = True
                break
            parts.append(part)
    body = b"" if cut else b"".join(parts)
    return Answer(response.status_code, response.headers, media, response.charset_encoding or "", body, cut)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
