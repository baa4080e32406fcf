"""Bodies are skimmed and edited without touching what is not ours; parsers take any bytes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.errors import ApiError, BadRequest
from aicockpit.gateway.body import edit_json, multipart_model, skim_json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.text(min_size=1, max_size=20))
def test_skim_finds_the_model_among_anything(fields: dict[str, Any], model: str) -> None:
    raw = json.dumps({**fields, "model": model}).encode()
    assert skim_json(raw).model == model


@given(st.dictionaries(st.text(), json_values, max_size=6), st.integers(0, 30))
def test_an_edit_changes_one_field_and_keeps_the_rest(fields: dict[str, Any], priority: int) -> None:
    raw = json.dumps({**fields, "model": "m"}).encode()
    expected = {**json.loads(raw), "priority": priority}
    assert json.loads(edit_json(raw, {"priority": priority})) == expected


def test_an_edit_keeps_numbers_and_escapes_byte_for_byte() -> None:
    raw = b'{"a": 1.50, "b":1e5,"c":"\\u00fc","model":"x", "d":[ 1 ,2]}'
    out = edit_json(raw, {"model": "y"})
    for piece in (b"1.50", b"1e5", b'"\\u00fc"', b"[ 1 ,2]"):
        assert piece in out


@given(st.binary(max_size=300))
def test_skim_takes_any_bytes(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        skim_json(raw)


@given(st.binary(max_size=400), st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_forms_take_any_bytes(raw: bytes, kind: str) -> None:
    with contextlib.suppress(ApiError):
        multipart_model(raw, kind)
    with contextlib.suppress(ApiError):
        multipart_model(b"--x\r\n" + raw + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [b"--B\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n" for head, value in parts]
    return b"".join(lines) + b"--B--\r\n"


def test_the_form_s_model_is_found_by_its_name_only() -> None:
    raw = form(
        ('content-disposition: form-data; name="file"; filename="model"', b"model"),
        ('Content-Disposition: form-data; name="note"', b"not the model"),
        ('Content-Disposition: form-data; name="model"', b"whisper"),
    )
    name, start, end = multipart_model(raw, "multipart/form-data; boundary=B")
    assert (name, raw[start:end]) == ("whisper", b"whisper")


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_without_boundary_or_model_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest):
        multipart_model(form(('content-disposition: form-data; name="x"', b"y")), kind)
