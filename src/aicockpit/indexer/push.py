"""The way to the gateway: manifest, the blobs it lacks, manifest again, until it stands where the tree stands.

Whatever happens on the way, the next attempt begins with the manifest, whose answer tells what has arrived; so
nothing is lost and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from aicockpit.errors import AicockpitError
from aicockpit.indexer.index import Batch, Blobs, Index, blobs

CONNECT_S, ANSWER_S = 5.0, 60.0
DISAGREEMENTS = 8
# A gateway takes two bodies at a time: while one waits for the disk, another is unpacked.
SENT_AT_ONCE = 2
T = TypeVar("T")
InIndex = Callable[..., Awaitable[Any]]


class Unavailable(AicockpitError):
    """The gateway cannot be reached, or cannot answer now; try again. `wait_s`: how long it wants us to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Refused(AicockpitError):
    """The gateway says no, and would again: a wrong key, a limit. `status` is HTTP's, `code` the gateway's own."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Conflict(AicockpitError):
    """The gateway stands at another revision than we thought."""


class Gone(AicockpitError):
    """The workspace is not there any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a manifest was answered with."""

    applied: bool
    revision: int
    missing: tuple[bytes, ...]
    missing_count: int


class Gateway:
    """The HTTP calls. `address`: http://host:port, https://host or unix:/path. Errors: Unavailable, Refused, Gone."""

    def __init__(self, address: str, key: str, name: str, answer_s: float = ANSWER_S) -> None:
        socket = address.removeprefix("unix:").replace("//", "/", 1) if address.startswith("unix:") else None
        self.address = address
        self._path = f"/api/workspaces/{name}"
        self._client = httpx.AsyncClient(
            base_url="http://aicockpit" if socket else address.rstrip("/").removesuffix("/v1"),
            transport=httpx.AsyncHTTPTransport(uds=socket) if socket else httpx.AsyncHTTPTransport(),
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(answer_s, connect=CONNECT_S),
            trust_env=False,
        )

    async def open(self) -> dict[str, Any]:
        """Make the workspace if it is not there; its status."""
        return await self._call("PUT", "", b"", "application/json", gzipped=False)

    async def manifest(self, body: bytes) -> Answer:
        """`body` is gzip'd JSON. Raises Conflict too."""
        found = await self._call("POST", "/manifest", body, "application/json")
        try:
            missing = tuple(bytes.fromhex(part) for part in found.get("missing", ()))
            count = int(found.get("missing_count", len(missing)))
            return Answer(bool(found["applied"]), int(found["revision"]), missing, count)
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"{self.address} answers, but not as a gateway of ours does") from error

    async def blobs(self, body: bytes) -> None:
        await self._call("POST", "/blobs", body, "application/octet-stream")

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: bytes, kind: str, *, gzipped: bool = True) -> dict[str, Any]:
        headers = {"content-type": kind, **({"content-encoding": "gzip"} if gzipped else {})}
        try:
            answer = await self._client.request(method, self._path + path, content=body, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"no answer from the gateway at {self.address}: {reason}") from error
        if answer.is_success:
            try:
                found = answer.json()
                return dict(found) if found else {}
            except ValueError as error:
                raise Unavailable(f"{self.address} answers, but not as a gateway of ours does") from error
        raise _error(answer)


def _error(answer: httpx.Response) -> AicockpitError:
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (ValueError, KeyError, TypeError):
        message, code = answer.text[:200] or answer.reason_phrase, ""
    status = answer.status_code
    if code == "revision_conflict":
        return Conflict(message)
    if code == "workspace_not_found":
        return Gone(message)
    if status >= 500 or status in (408, 425) or (status == 429 and code != "too_many_workspaces"):
        try:
            wait_s = float(answer.headers.get("retry-after", "0"))
        except ValueError:
            wait_s = 0.0
        return Unavailable(f"the gateway answered {status}: {message}", wait_s)
    return Refused(f"the gateway answered {status}: {message}", status, code)


class Backoff:
    """Waits that double from `first_s` to `last_s`, each shortened by up to a third so that clients spread."""

    def __init__(self, first_s: float = 0.25, last_s: float = 15.0) -> None:
        self.first_s, self.last_s = first_s, last_s
        self.failures = 0

    def next(self) -> float:
        wait = min(self.last_s, self.first_s * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return wait * random.uniform(2 / 3, 1)

    def reset(self) -> None:
        self.failures = 0


class Pusher:
    """Brings one gateway to where the index stands. `in_index(function, *args)` runs it on the index's thread."""

    def __init__(self, gateway: Gateway, index: Index, in_index: InIndex, progress: Callable[[int, int], None]) -> None:
        self._gateway, self._index, self._in_index, self._progress = gateway, index, in_index, progress
        self._connected = False
        self.revision = 0

    async def sync(self) -> None:
        """Until nothing is left to tell. Raises Unavailable, Refused; calling it again goes on where it ended."""
        try:
            await self._sync()
        except (Unavailable, Refused):
            self._connected = False
            raise

    async def ask(self) -> None:
        """Does the gateway still have what it was told? If not, tell it again. Raises as `sync` does.

        Its disk may have lost contents, or be one of yesterday: it stands at another revision then. A workspace that
        was deleted is not made again for this, but by the next change.
        """
        batch: Batch | None = await self._in_index(self._index.question)
        if self._connected and batch is not None:
            try:
                await self._gateway.manifest(batch.body())
            except Gone:
                return
            except Conflict:
                await self._in_index(self._index.forget_base)
            except (Unavailable, Refused):
                self._connected = False
                raise
        await self.sync()

    async def _sync(self) -> None:
        disagreements, missing = 0, -1
        while disagreements < DISAGREEMENTS:
            if not self._connected:
                await self._connect()
            batch: Batch | None = await self._in_index(self._index.batch)
            if batch is None:
                return
            try:
                answer = await self._gateway.manifest(await asyncio.to_thread(batch.body))
            except (Conflict, Gone) as error:
                self._connected = not isinstance(error, Gone)
                await self._in_index(self._index.forget_base)
                disagreements += 1
                continue
            if answer.applied:
                self.revision, disagreements, missing = answer.revision, 0, -1
                if await self._in_index(self._index.applied, batch, answer.revision):
                    return
                continue
            disagreements += answer.missing_count == missing
            missing = answer.missing_count
            if not await self._send(batch, answer):
                await self._in_index(self._index.forget_base)
                disagreements += 1
        raise Unavailable("the gateway and the files here do not come together: they change faster than they are sent")

    async def _connect(self) -> None:
        status = await self._gateway.open()
        made = status.get("id"), status.get("created")
        identity = "" if made == (None, None) else "/".join(str(part) for part in made)
        self.revision = int(status.get("revision") or 0)
        await self._in_index(self._index.adopt, identity, self.revision)
        self._connected = True

    async def _send(self, batch: Batch, answer: Answer) -> bool:
        """Push what is missing; the next body is made while others are on their way. False: nothing to push."""
        where = {entry.hash: (path, entry) for path, entry in batch.files}
        if answer.missing_count >= len(where):
            left: Sequence[bytes] = list(where)  # the list in the answer may be cut, but it can only be all of them
        else:
            left = [part for part in answer.missing if part in where]
        if not left:
            return False
        total, done = max(answer.missing_count, len(left)), 0
        tree = self._index.tree
        sending: set[asyncio.Task[int]] = set()
        try:
            while left or sending:
                if left and len(sending) < SENT_AT_ONCE:
                    body = await asyncio.to_thread(blobs, tree.root, tree.limit, left, where)
                    left = body.left
                    if body.moved:
                        await self._in_index(self._index.learn, body.moved)
                    if body.count:
                        sending.add(asyncio.create_task(self._send_one(body)))
                    continue
                ended, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                done += sum(task.result() for task in ended)
                self._progress(done, total)
        except AicockpitError:
            # What is on its way may arrive after the next manifest was answered, and would be sent twice.
            await asyncio.gather(*sending, return_exceptions=True)
            raise
        finally:
            for task in sending:
                task.cancel()
        return True

    async def _send_one(self, body: Blobs) -> int:
        await self._gateway.blobs(body.body)
        return body.count
