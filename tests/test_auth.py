"""Keys: hashes only, damaged files are never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from aicockpit.errors import SettingError, Unauthorized
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


def test_open_to_all(tmp_path: Path) -> None:
    assert Gate(KeyStore(tmp_path), open_to_all=True).check({}) is ANYONE
