"""A site read within limits: what to ask for next, what of the answers is kept. Runs in `worker.py`, a child process.

What is known and what is done stands in the store after every page, so that the next process goes on where one ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from aicockpit.documents import address, html, site, text
from aicockpit.documents.address import Site
from aicockpit.documents.chunks import cut
from aicockpit.documents.net import Answer, FetchError, Reader
from aicockpit.documents.store import Store
from aicockpit.documents.values import MIB, Chunk, Document, Limits, Source
from aicockpit.errors import AicockpitError, BadRequest

_TELL_S = 0.3
_LLMS_FULL = 16 * MIB
_SITEMAPS = 10
_GIVING_UP = 5
# Pages that list other pages.
_LISTS = ("/genindex", "/py-modindex", "/search", "/searchindex")


class Ended(AicockpitError):
    """No more of this source is read; what there is stays. The message says why."""


@dataclass(slots=True)
class Crawl:
    """Reads one source. `run` returns nothing: pages, notes and errors are in the store."""

    store: Store
    source: Source
    limits: Limits
    reader: Reader
    clock: Callable[[], float] = time.monotonic
    home: Site = field(init=False)
    rules: site.Rules = field(init=False)
    pages: int = 0
    chunks: int = 0
    text: int = 0
    bytes: int = 0
    follow: bool = True
    _queue: list[tuple[int, int, str, str]] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _order: int = 0
    _failed: int = 0
    _rest_until: float = 0.0
    _told: float = 0.0
    _began: float = 0.0
    _room: int = 0

    async def run(self) -> tuple[str, tuple[str, ...]]:
        """Reads until nothing is left or a limit is reached. Returns (error, notes); with pages there is no error."""
        self._began = self.clock()
        self.bytes, self._room = self.source.bytes, self.store.room(self.source.owner)
        settled, self.pages, self.text, self.chunks = self.store.read_before(*self._at)
        self._keys |= settled
        self.store.unread(*self._at)
        left = self.limits.time_s - self.source.spent_s
        why = ""
        try:
            async with asyncio.timeout(left):
                await self._all()
        except TimeoutError:
            why = f"reading ended after {self.limits.time_s:g} s, the limit"
        except (Ended, FetchError, BadRequest) as error:
            why = str(error)
        self._tell("")
        if not self.pages:
            return why or self._nothing(), ()
        unread = len(self.store.waiting(*self._at))
        notes = [why] if why else []
        if unread:
            notes.append(f"{unread} pages that are known were not read")
        return "", tuple(notes)

    @property
    def _at(self) -> tuple[int, int]:
        return self.source.number, self.source.generation

    async def _all(self) -> None:
        asked = self.source.origin
        self.home = address.site_of(asked)
        await self._robots(asked)
        start, first = await self._get(asked, None)
        if first.status != 200:
            raise Ended(f"{asked} answered {first.status}; is the address right?")
        self.home = address.site_of(start)
        if start != asked:
            await self._robots(start)
        if await self._whole_text():
            return
        seeds = await self._listed()
        if seeds:
            self.follow = False
        else:
            seeds = [start, *await self._sitemaps()]
        self._add((url, 0 if number == 0 else 1) for number, url in enumerate(seeds))
        waiting = self.store.waiting(*self._at)
        self._queue, self._order = [(depth, n, key, url) for n, (key, url, depth) in enumerate(waiting)], len(waiting)
        heapq.heapify(self._queue)
        await self._drain()

    async def _drain(self) -> None:
        """Several pages at once; one after the other where robots.txt asks for a pause."""
        working: set[asyncio.Task[None]] = set()
        most = 1 if self.rules.delay_s else self.limits.concurrency
        try:
            while self._queue or working:
                while self._queue and len(working) < most and self.pages + len(working) < self.limits.pages:
                    depth, _, key, url = heapq.heappop(self._queue)
                    working.add(asyncio.create_task(self._page(key, url, depth)))
                if not working:
                    raise Ended(f"reading ended after {self.limits.pages} pages, the limit")
                done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if self.rules.delay_s:
                    await asyncio.sleep(self.rules.delay_s)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _page(self, key: str, url: str, depth: int) -> None:
        if not self.rules.allows(url):
            self.store.leave(*self._at, key, url, "robots.txt does not allow it", "left")
            return
        self._tell(url)
        try:
            final, answer = await self._get(url, self.home)
        except FetchError as error:
            self.store.leave(*self._at, key, url, str(error), "left" if error.refused else "failed")
            self._count_failure(error)
            return
        self._failed = 0
        if answer.status != 200:
            self.store.leave(*self._at, key, url, f"answered {answer.status}")
        elif answer.cut:
            self.store.leave(*self._at, key, url, f"larger than {self.limits.page} bytes", "left")
        elif not (kind := text.kind_of(urlsplit(final).path, answer.media)):
            self.store.leave(*self._at, key, url, f"its type is {answer.media or 'not told'}, not a text", "left")
        elif (other := address.key(final)) != key and other in self._keys:
            self.store.leave(*self._at, key, url, f"leads to {final}", "same")
        else:
            self._keys.add(other)
            self._read(key, final, kind, answer, depth)

    def _read(self, key: str, url: str, kind: str, answer: Answer, depth: int) -> None:
        self.bytes += len(answer.body)
        if self.bytes > self.limits.bytes:
            raise Ended(f"reading ended after {self.limits.bytes} bytes, the limit")
        self.store.reading(*self._at, key)
        document = read(answer.body, kind, url, answer.charset, self.limits)
        if self.follow and depth < self.limits.depth:
            base = urljoin(url, document.base) if document.base else url
            found = (self.home.link(base, href) for href in document.links)
            self._add((one, depth + 1) for one in found if one)
        if any(name in url for name in _LISTS):
            self.store.leave(*self._at, key, url, "a list of other pages", "same")
            return
        self._keep(key, url, document)

    def _keep(self, key: str, url: str, document: Document) -> None:
        pieces = cut(document.blocks, document.title, self.limits)
        if not pieces:
            self.store.leave(*self._at, key, url, "it has no text (a page that JavaScript makes, perhaps)", "left")
            return
        size = sum(len(one.body.encode("utf-8", "replace")) for one in pieces)
        if self.chunks + len(pieces) > self.limits.chunks or self.text + size > self._room:
            self.store.leave(*self._at, key, url, "there is no room for it", "left")
            raise Ended("reading ended: the index of this source, or of this key, is full")
        if not self.store.put_page(*self._at, key, url, document.title, digest(pieces), pieces):
            self.pages += 1
            self.chunks += len(pieces)
            self.text += size

    def _add(self, found: Iterable[tuple[str, int]]) -> None:
        rows = {}
        for url, depth in found:
            if (key := address.key(url)) not in self._keys:
                self._keys.add(key)
                rows[key] = (key, url, depth)
        if rows:
            for key, url, depth in self.store.add_pages(*self._at, rows.values()):
                self._order += 1
                heapq.heappush(self._queue, (depth, self._order, key, url))

    # What the site says of itself.

    async def _robots(self, start: str) -> None:
        try:
            _, answer = await self._get(f"{self.home.origin}/robots.txt", self.home, site.ROBOTS_MOST, inside=False)
            self.rules = site.rules(answer.status, html.decode(answer.body, look=False))
        except FetchError as error:
            if not error.refused and not error.status:
                raise
            self.rules = site.rules(error.status or 404, "")  # refused: it lies elsewhere, so there is none here
        if not self.rules.allows(start):
            raise Ended(
                f"{self.rules.closed or f'robots.txt of {self.home.host} does not allow programs to read {start}'}. "
                "If you may use this documentation, download it and add the folder or an archive."
            )

    async def _whole_text(self) -> bool:
        """Read llms-full.txt, the whole documentation as one text, where there is one."""
        url = f"{self.home.origin}{self.home.prefix}llms-full.txt"
        answer = await self._small(url, _LLMS_FULL)
        if answer is None or len(answer.body) < 1024:
            return False
        self.bytes += len(answer.body)
        for number, (where, title, body) in enumerate(site.parts(html.decode(answer.body, look=False), url, self.home)):
            key = address.key(where) if where != url else f"{address.key(url)}#{number}"
            if key not in self._keys:
                self._keys.add(key)
                document = text.read(body, "markdown", title or self.source.name, self.limits)
                self._keep(key, where, document)
                self._tell(where)
                await asyncio.sleep(0)
            if self.pages >= self.limits.files:
                raise Ended(f"reading ended after {self.limits.files} pages, the limit")
        return True

    async def _listed(self) -> list[str]:
        """The pages that llms.txt names: of the folder, else of the whole site."""
        for folder in dict.fromkeys((self.home.prefix, "/")):
            url = f"{self.home.origin}{folder}llms.txt"
            answer = await self._small(url, self.limits.page)
            if answer is not None and (found := site.listed(html.decode(answer.body, look=False), url, self.home)):
                return found
        return []

    async def _sitemaps(self) -> list[str]:
        waiting = [*self.rules.sitemaps, f"{self.home.origin}/sitemap.xml"]
        found: dict[str, None] = {}
        asked = set[str]()
        while waiting and len(asked) < _SITEMAPS and len(found) < self.limits.known:
            url = waiting.pop(0)
            if url in asked or not self.home.same_site(url):
                continue
            asked.add(url)
            answer = await self._small(url, self.limits.page, texts_only=False)
            if answer is None:
                continue
            urls, more = site.sitemap(answer.body, self.limits.page)
            if more:
                waiting += urls[: _SITEMAPS * 2]
            else:
                found.update(dict.fromkeys(one for each in urls if (one := self.home.link(url, each))))
        return list(found)

    async def _small(self, url: str, most: int, texts_only: bool = True) -> Answer | None:
        """A file that a site may have, or None."""
        if not self.rules.allows(url):
            return None
        try:
            _, answer = await self._get(url, self.home, most, inside=False)
        except FetchError:
            return None
        good = answer.status == 200 and not answer.cut and answer.body
        return answer if good and (not texts_only or site.is_text(answer.media, answer.body)) else None

    # One page, with its redirects and its failures.

    async def _get(
        self, url: str, within: Site | None, most: int | None = None, inside: bool = True
    ) -> tuple[str, Answer]:
        """The page's final address and its answer. `within` None: the first page, which may move on its own site."""
        seen = {url}
        for _ in range(self.limits.redirects + 1):
            answer = await self._patiently(url, self.limits.page if most is None else most)
            where = answer.headers.get("location", "")
            if answer.status not in (301, 302, 303, 307, 308) or not where:
                return url, answer
            url = self._moved(url, where, within, inside)
            if url in seen:
                raise FetchError("it leads to itself")
            seen.add(url)
        raise FetchError(f"more than {self.limits.redirects} redirects")

    def _moved(self, url: str, where: str, within: Site | None, inside: bool) -> str:
        try:
            moved = address.clean(urljoin(url, where))
        except (ValueError, BadRequest) as error:
            raise FetchError(f"it leads to {where[:200]!r}, which is not a page: {error}", refused=True) from error
        home = within or address.site_of(url)
        if not home.same_site(moved) and not (within is None and _upgraded(url, moved)):
            advice = "" if within else "; add that address instead"
            raise FetchError(f"it leads to another site, {moved}{advice}", refused=True)
        if within is not None and inside and not within.holds(moved):
            raise FetchError(f"it leads out of {within.prefix}, to {moved}", refused=True)
        return moved

    async def _patiently(self, url: str, most: int) -> Answer:
        """One GET, again after a pause where that may help. Raises FetchError."""
        tries = self.limits.tries if self._failed < _GIVING_UP else 1
        for number in range(tries):
            if (rest := self._rest_until - self.clock()) > 0:
                await asyncio.sleep(rest)
            pause = self.limits.backoff_s * 2**number
            try:
                answer = await self.reader.get(url, most)
            except FetchError as error:
                if not error.again or number + 1 == tries:
                    raise
                await asyncio.sleep(pause)
                continue
            if answer.status != 429 and answer.status < 500:
                return answer
            if number + 1 == tries:
                raise FetchError(f"answered {answer.status}, {tries} times", again=True, status=answer.status)
            told = _retry_after(answer.headers.get("retry-after", ""))
            if answer.status in (429, 503):  # it is said to all of us
                self._rest_until = self.clock() + min(max(told or 0.0, pause), self.limits.longest_wait_s)
            else:
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _count_failure(self, error: FetchError) -> None:
        self._failed += error.again
        if self._failed >= self.limits.failures:
            raise Ended(f"the site no longer answers ({error})")

    # Telling.

    def _tell(self, current: str) -> None:
        """How far it is, not at every page."""
        now = self.clock()
        if current and now < self._told:
            return
        self._told = now + _TELL_S
        spent = self.source.spent_s + now - self._began
        self.store.change(self.source.number, current=current, bytes=self.bytes, spent_s=spent)

    def _nothing(self) -> str:
        problems = self.store.tally(self.source, self.source.generation).problems
        first = f" The first problem: {problems[0]}." if problems else ""
        return (
            f"nothing to read was found at {self.source.origin}.{first} Pages that only JavaScript fills cannot be "
            "read: add a folder or an archive of the documentation instead."
        )


def read(raw: bytes, kind: str, name: str, charset: str, limits: Limits) -> Document:
    """A page or a file as a document; its name's last part stands in for a title."""
    decoded = html.decode(raw, charset, look=kind == "html")
    last = name.rstrip("/").rpartition("/")[2] or name
    return text.read(decoded.replace("\x00", ""), kind, last, limits)


def digest(pieces: Iterable[Chunk]) -> bytes:
    """Tells pages of the same text."""
    found = hashlib.blake2b(digest_size=16)
    for one in pieces:
        found.update(one.heading.encode("utf-8", "replace") + b"\0" + one.body.encode("utf-8", "replace") + b"\0")
    return found.digest()


def _upgraded(url: str, moved: str) -> bool:
    """http to https of one host, whatever the ports."""
    one, other = urlsplit(url), urlsplit(moved)
    return one.hostname == other.hostname and (one.scheme, other.scheme) == ("http", "https")


def _retry_after(value: str) -> float | None:
    """Seconds, from seconds or a date."""
    if value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
