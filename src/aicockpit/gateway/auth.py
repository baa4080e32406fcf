"""Keys: who may come in. Only SHA-256 hashes are stored; a key has 256 random bits, so a slow hash adds nothing.

A key reads `aick_<id>_<secret>`. The id finds the record, the hash is compared in constant time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from aicockpit.errors import Forbidden, SettingError, Unauthorized

logger = logging.getLogger(__name__)

_PREFIX = "aick_"


@dataclass(frozen=True, slots=True)
class Key:
    """One stored key. `created` is a Unix time in seconds; `admin` may restart and stop engines."""

    id: str
    name: str
    hash: str
    created: float
    admin: bool = False


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request. `id` is safe to log."""

    id: str
    admin: bool


ANYONE = Caller("anyone", True)
CONTROL = Caller("control-socket", True)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def mint(name: str, admin: bool = False) -> tuple[str, Key]:
    """A new key: the text to show once, and the record to keep."""
    key_id = secrets.token_hex(4)
    text = f"{_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    return text, Key(key_id, name, digest(text), time.time(), admin)


class KeyStore:
    """The keys on disk, in STATE_DIR/keys.json (0600); each change replaces the file atomically."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "keys.json"

    def load(self) -> dict[str, Key]:
        """Raises SettingError when the file cannot be read as keys; it is never overwritten then."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return {}
        try:
            return {item["id"]: Key(**item) for item in json.loads(text)}
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(
                f"{self.path} is damaged ({error}). Restore it, or remove it and make new keys."
            ) from error

    def create(self, name: str, admin: bool = False) -> str:
        """Store a new key's hash and return the key, which cannot be shown again."""
        text, key = mint(name, admin)
        with self._locked():
            self._save({**self.load(), key.id: key})
        return text

    def revoke(self, id_or_name: str) -> list[Key]:
        """Remove every key with that id or name; returns them."""
        with self._locked():
            keys = self.load()
            gone = [key for key in keys.values() if id_or_name in (key.id, key.name)]
            if gone:
                self._save({key_id: key for key_id, key in keys.items() if key not in gone})
        return gone

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time: two commands at once must not lose a key."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.parent / "keys.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _save(self, keys: dict[str, Key]) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")
        with os.fdopen(handle, "w") as file:
            json.dump([asdict(key) for key in keys.values()], file, indent=1)
        os.replace(temporary, self.path)


class Gate:
    """Decides on each request. Reads the store again when its file changed: looks twice a second, and at a key that it
    does not know, which may have been made a moment ago."""

    def __init__(self, store: KeyStore, fixed: tuple[str, ...] = (), open_to_all: bool = False) -> None:
        self._store = store
        self._fixed = [(f"fixed-{number}", digest(text)) for number, text in enumerate(fixed)]
        self._open = open_to_all
        self._keys = store.load()
        self._stamp = self._mtime()
        self._look = 0.0

    def check(self, headers: dict[bytes, bytes]) -> Caller:
        """Accepts `Authorization: Bearer KEY` and Anthropic's `x-api-key: KEY`. Raises Unauthorized.

        Open to all means all programs of this machine, not the web pages it shows: raises Forbidden for those.
        """
        if self._open:
            _refuse_web_pages(headers)
            return ANYONE
        text = _presented(headers)
        if not text:
            raise Unauthorized(
                "no API key: send `Authorization: Bearer KEY`. `aicockpit keys create NAME` makes one.",
                code="missing_api_key",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        self._refresh()
        caller = self._find(text)
        if caller is None and text.startswith(_PREFIX):
            self._refresh(at_once=True)
            caller = self._find(text)
        if caller is not None:
            return caller
        raise Unauthorized(
            "this API key is not known here (wrong, revoked, or of an earlier start). "
            "`aicockpit keys list` shows the known ones.",
            headers=((b"www-authenticate", b"Bearer"),),
        )

    def _find(self, text: str) -> Caller | None:
        found = digest(text)
        for key_id, stored in self._fixed:
            if hmac.compare_digest(found, stored):
                return Caller(key_id, True)
        key = self._keys.get(text[len(_PREFIX) : len(_PREFIX) + 8]) if text.startswith(_PREFIX) else None
        return Caller(key.id, key.admin) if key is not None and hmac.compare_digest(found, key.hash) else None

    def _refresh(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if now < self._look and not at_once:
            return
        self._look = now + 0.5
        stamp = self._mtime()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = self._store.load()
            except SettingError as error:
                logger.error("%s The keys known before stay valid.", error)

    def _mtime(self) -> tuple[int, int]:
        try:
            stat = self._store.path.stat()
        except FileNotFoundError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_ino


def _refuse_web_pages(headers: dict[bytes, bytes]) -> None:
    """A page of another site has its own `Origin`, or reaches us under its own name (DNS rebinding)."""
    for name in (b"origin", b"host"):
        value = headers.get(name, b"").decode("latin-1")
        if value and not _is_loopback(value if name == b"origin" else f"http://{value}"):
            raise Forbidden(
                f"AICOCKPIT_AUTH=off serves this machine's programs only, and {name.decode()} is {value[:100]!r}; "
                "use keys instead",
                code="foreign_origin",
            )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _presented(headers: dict[bytes, bytes]) -> str:
    value = headers.get(b"authorization", b"")
    if value[:7].lower() == b"bearer ":
        return value[7:].strip().decode("utf-8", "replace")
    if key := headers.get(b"x-api-key", b""):
        return key.strip().decode("utf-8", "replace")
    for protocol in headers.get(b"sec-websocket-protocol", b"").split(b","):
        if protocol.strip().startswith(b"openai-insecure-api-key."):
            return protocol.strip()[24:].decode("utf-8", "replace")
    return ""
