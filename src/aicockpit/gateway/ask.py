"""What a request says of its workspace: by headers, by body fields, or by the model name `model@workspace`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aicockpit.errors import BadRequest
from aicockpit.gateway.body import Skim

_MAX_NAME = 4096


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request says of its context. `tokens`: None leaves the amount to us, 0 wants none."""

    workspace: str
    path: str
    tokens: int | None
    suffix: bool


def ask_of(headers: Mapping[bytes, bytes], skim: Skim, named: str, fills: bool) -> Ask | None:
    """None when the request neither names a workspace nor has a suffix, which only routes that fill in have (`fills`).

    `named` is the workspace in the model's name. Raises BadRequest.
    """
    suffix = skim.suffix if fills else None
    if suffix is None and skim.workspace is None and not named and b"x-aicockpit-workspace" not in headers:
        return None
    workspace = _text(headers, b"x-aicockpit-workspace", skim.workspace, "workspace") or named
    if suffix is not None and not isinstance(suffix, str):
        raise BadRequest("`suffix` must be a string", code="invalid_suffix", param="suffix")
    if not workspace:
        return Ask("", "", 0, True) if suffix is not None else None
    path = _text(headers, b"x-aicockpit-path", skim.path, "path")
    wanted = headers.get(b"x-aicockpit-context", b"").decode("latin-1") or skim.context
    return Ask(workspace, path, _amount(wanted), suffix is not None)


def _text(headers: Mapping[bytes, bytes], header: bytes, field: object, name: str) -> str:
    given = headers.get(header)
    value = given.decode("utf-8", "replace") if given is not None else field if field is not None else ""
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise BadRequest(f"`{name}` must be a string of at most {_MAX_NAME} characters", code="invalid_workspace")
    return value


def _amount(value: object) -> int | None:
    """`none`, `auto` or a number of tokens. Raises BadRequest."""
    if value in (None, "", "auto"):
        return None
    if value == "none":
        return 0
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest("`context` must be none, auto or a number of tokens", code="invalid_context", param="context")
    return int(text)
