"""The error tree. Each error knows its HTTP status and its OpenAI `type`; every one is told to the user in full.

AicockpitError                what happened, why, and what to do, in one message
├── SettingError              a setting is wrong, unknown or removed            (CLI only: exit code 2)
├── ModelError                a model's files cannot be had                     (CLI only: exit code 1)
├── EngineStartError          an engine did not start; carries the log's path
├── ConnectFailed             upstream: no connection to the engine
├── UpstreamLost              upstream: the connection ended before the answer did
├── UpstreamTimeout           upstream: a named wait passed its limit
└── ApiError                  answered to an HTTP client as OpenAI's error envelope
    ├── BadRequest            400
    ├── Unauthorized          401
    ├── Forbidden             403
    ├── NotFound              404
    ├── MethodNotAllowed      405
    ├── RequestTimeout        408
    ├── Conflict              409
    ├── RevisionConflict      409  (carries the current revision)
    ├── TooLarge              413
    ├── UnsupportedEncoding   415
    ├── Overloaded            429
    ├── Superseded            499  (not 409: SDKs retry a 409, which would cancel the newer request in turn)
    ├── InternalError         500  (a defect of ours; the log has the traceback)
    ├── BadGateway            502
    ├── NotReady              503
    ├── GatewayTimeout        504
    └── StorageFull           507
"""

from __future__ import annotations

from typing import ClassVar


class AicockpitError(Exception):
    """Base of all errors raised on purpose by this package."""


class SettingError(AicockpitError):
    """A setting is wrong, unknown or removed. The message names it and says what to write instead."""


class ModelError(AicockpitError):
    """A model's files cannot be had. The message says where was looked and what to do."""


class EngineStartError(AicockpitError):
    """An engine did not become ready.

    `reason` is the engine's own reason in one line, `fix` what to do, `log_path` where the whole log is.
    """

    def __init__(self, reason: str, fix: str = "", log_path: str = "") -> None:
        parts = [reason] + [f"Fix: {fix}"] * bool(fix) + [f"Full log: {log_path}"] * bool(log_path)
        super().__init__("\n".join(parts))
        self.reason, self.fix, self.log_path = reason, fix, log_path


class ConnectFailed(AicockpitError):
    """No connection to an engine (refused, no such socket, connect limit passed)."""


class UpstreamLost(AicockpitError):
    """An engine's connection ended, or sent something that is not HTTP, before the answer was complete.

    `unseen`: a kept-alive connection had been closed before the request reached the engine.
    """

    def __init__(self, message: str, *, unseen: bool = False) -> None:
        super().__init__(message)
        self.unseen = unseen


class UpstreamTimeout(AicockpitError):
    """A named wait on an engine passed its limit."""

    def __init__(self, wait: str, limit_s: float) -> None:
        super().__init__(f"the engine sent nothing for {limit_s:g} s ({wait} limit)")
        self.wait, self.limit_s = wait, limit_s


class ApiError(AicockpitError):
    """Answered to the client as OpenAI's error envelope. `headers` are added to the response."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.headers = message, param, headers
        if code is not None:
            self.code = code


class BadRequest(ApiError):
    status, type, code = 400, "invalid_request_error", "bad_request"


class Unauthorized(ApiError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(ApiError):
    status, type, code = 403, "permission_error", "forbidden"


class NotFound(ApiError):
    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(ApiError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(ApiError):
    status, type, code = 408, "invalid_request_error", "upload_timeout"


class Conflict(ApiError):
    """What is asked for does not go together with what there is."""

    status, type, code = 409, "invalid_request_error", "conflict"


class RevisionConflict(ApiError):
    """A change was made against a revision that is not the current one; the answer names `revision`, which is."""

    status, type, code = 409, "invalid_request_error", "revision_conflict"

    def __init__(self, message: str, revision: int) -> None:
        super().__init__(message)
        self.revision = revision


class TooLarge(ApiError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedEncoding(ApiError):
    status, type, code = 415, "invalid_request_error", "unsupported_content_encoding"


class Overloaded(ApiError):
    status, type, code = 429, "rate_limit_error", "overloaded"


class Superseded(ApiError):
    status, type, code = 499, "invalid_request_error", "superseded"


class InternalError(ApiError):
    pass


class BadGateway(ApiError):
    status, type, code = 502, "server_error", "engine_failed"


class NotReady(ApiError):
    status, type, code = 503, "server_error", "not_ready"


class GatewayTimeout(ApiError):
    status, type, code = 504, "server_error", "engine_timeout"


class StorageFull(ApiError):
    status, type, code = 507, "server_error", "disk_full"
