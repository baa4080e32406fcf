"""What the gateway must know of a request's body, and the two edits it makes to it. Everything else stays as it came.

JSON is checked and skimmed in one pass without building objects; an edit keeps every other value byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from aicockpit.errors import BadRequest, UnsupportedEncoding


class Skim(msgspec.Struct):
    """The top-level fields that routing reads. `None` stands for absent."""

    model: Any = None
    stream: Any = None
    priority: Any = None
    previous_response_id: Any = None
    suffix: Any = None
    workspace: Any = None
    path: Any = None
    context: Any = None


_skim = msgspec.json.Decoder(Skim).decode
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def skim_json(raw: bytes) -> Skim:
    """Validate the JSON and read the routing fields. Raises BadRequest."""
    try:
        found = _skim(raw)
    except msgspec.ValidationError as error:
        raise BadRequest("the body must be a JSON object", code="invalid_json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply", code="invalid_json") from error
    if not isinstance(found.model, str) or not found.model:
        raise BadRequest("the body must name a `model` (a string)", code="model_missing", param="model")
    return found


def edit_json(raw: bytes, fields: Mapping[str, object]) -> bytes:
    """The object with `fields` set; the other values keep their bytes and their order."""
    parts = _split(raw)
    for name, value in fields.items():
        parts[name] = msgspec.Raw(_encode(value))
    return _encode(parts)


def multipart_model(raw: bytes, content_type: str) -> tuple[str, int, int]:
    """The form field `model` and where its bytes stand: (name, start, end). Raises BadRequest."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequest("the body must be multipart/form-data with a boundary", code="invalid_form")
    finder = _ModelFinder()
    try:
        parser = MultipartParser(boundary, finder.callbacks())  # type: ignore[arg-type]
        parser.write(raw)
        parser.finalize()
    except MultipartParseError as error:
        raise BadRequest(f"the form cannot be read: {error}", code="invalid_form") from error
    if finder.fields > 1:
        raise BadRequest("the form has more than one field `model`", code="model_ambiguous", param="model")
    if finder.start < 0 or finder.end > finder.start + 1024:
        raise BadRequest("the form must have a field `model`", code="model_missing", param="model")
    name = raw[finder.start : finder.end].decode("utf-8", "replace")
    return name, finder.start, finder.end


def refuse_encoded(content_encoding: bytes) -> None:
    """A compressed body cannot be routed (nor read by vLLM). Raises UnsupportedEncoding."""
    if content_encoding.lower() not in (b"", b"identity"):
        shown = content_encoding[:40].decode("ascii", "replace")
        raise UnsupportedEncoding(f"Content-Encoding: {shown} is not supported for requests; send the body plain")


class _ModelFinder:
    """Callbacks of the multipart parser; offsets are absolute, since the whole body is one write."""

    def __init__(self) -> None:
        self.start = self.end = -1
        self.fields = 0
        self._header = b""
        self._value = b""
        self._inside = False

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
        }

    def _part_begin(self) -> None:
        self._inside = False
        self._header = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._inside = options.get(b"name") == b"model" and b"filename" not in options
            self.fields += self._inside
        self._header = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self.start = start if self.start < 0 else self.start
            self.end = end
