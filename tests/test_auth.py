"""Keys: hashes only, damaged files are never overwritten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aicockpit.errors import Forbidden, SettingError, Unauthorized
from aicockpit.gateway.auth import ANYONE, Gate, KeyStore


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def test_the_store_keeps_hashes_in_a_private_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "new")
    key = store.create("laptop", admin=True)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert key not in store.path.read_text()
    assert key.split("_", 2)[2] not in store.path.read_text()
    assert Gate(store).check(bearer(key)).admin
    assert [gone.name for gone in store.revoke("laptop")] == ["laptop"]
    assert store.revoke("laptop") == []
    with pytest.raises(Unauthorized):
        Gate(store).check(bearer(key))


@pytest.mark.parametrize("text", ["{", "[1]", '[{"id": 1}]', '{"a": 1}'])
def test_a_damaged_store_is_an_error_and_stays(tmp_path: Path, text: str) -> None:
    store = KeyStore(tmp_path)
    store.path.write_text(text)
    with pytest.raises(SettingError, match="damaged"):
        store.create("x")
    assert store.path.read_text() == text


@pytest.mark.parametrize("key", ["", "x", "aick_", "aick_12345678_", "aick_" + "é" * 40, "\udcff"])
def test_odd_keys_are_refused(tmp_path: Path, key: str) -> None:
    gate = Gate(KeyStore(tmp_path), ("fixed",))
    with pytest.raises(Unauthorized):
        gate.check({b"authorization": b"Bearer " + key.encode("utf-8", "surrogateescape")})
    assert gate.check(bearer("fixed")).admin


def test_open_to_all_programs_but_to_no_web_page(tmp_path: Path) -> None:
    gate = Gate(KeyStore(tmp_path), open_to_all=True)
    for good in ({}, {b"host": b"localhost:8000"}, {b"host": b"[::1]:8000", b"origin": b"http://127.0.0.1:3000"}):
        assert gate.check(good) is ANYONE
    for bad in ({b"origin": b"https://evil.example"}, {b"host": b"evil.example:8000"}, {b"origin": b"null"}):
        with pytest.raises(Forbidden, match="programs only"):
            gate.check(bad)


def test_a_store_that_gets_damaged_keeps_the_keys_known_before(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key = store.create("laptop")
    gate = Gate(store)
    store.path.write_text("{")
    assert gate.check(bearer(key)).id


def test_two_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.create(f"key {number}"), range(40)))
    assert len(store.load()) == 40


def test_a_key_is_known_the_moment_it_is_made(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    gate = Gate(store, ("fixed",))
    for name in ("first", "second"):
        assert gate.check(bearer("fixed")).admin
        assert not gate.check(bearer(store.create(name))).admin
