"""Logging: set-up, and the id of the request in every line that is written while one is handled."""

from __future__ import annotations

import logging
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")

# They tell of every request, some with signed addresses.
_NOISY = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "websockets",
    "uvicorn.error",
    "filelock",
    "urllib3",
    "python_multipart",
)


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def set_up(level: str, access_log: bool) -> None:
    """Log to stderr. Called once, by the CLI."""
    handler = logging.StreamHandler()
    handler.addFilter(_RequestId())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aicockpit.access").setLevel("INFO" if access_log else "WARNING")
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel("WARNING")
