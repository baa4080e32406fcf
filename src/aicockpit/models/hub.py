"""Which Hub, which cache and whose token, and what a failure of the Hub means to a person.

Built once by `locate.py` or a command from what the library read of its environment (`HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `hf auth login`), and handed down; a test hands in its own.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is re-exported: httpx's or httpx2's
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    build_hf_headers,
    parse_ratelimit_headers,
)

from aicockpit.errors import ModelError

_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
# What the library and hf_xet raise for what may go wrong with a network or a disk.
FAILURES = (HTTPError, OSError, HFValidationError, RuntimeError)


class Unreachable(ModelError):
    """The Hub did not answer, or may not be asked: what the cache holds is all there is."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A Hub and the cache of its files on this machine. `offline`: it may not be asked."""

    endpoint: str
    cache: Path
    token: str = field(default="", repr=False)
    offline: bool = False

    @classmethod
    def of_environment(cls, token: str = "") -> Hub:
        """What the library was told when it was imported; without `token`, the one of `hf auth login`."""
        stored = "" if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token() or ""
        return cls(constants.ENDPOINT, Path(constants.HF_HUB_CACHE), token or stored, constants.is_offline_mode())

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.token or False)

    @property
    def headers(self) -> dict[str, str]:
        return dict(build_hf_headers(token=self.token or False))

    def storage(self, repo_id: str) -> Path:
        """The folder of a model in the cache: `blobs`, `snapshots` and `refs` lie in it."""
        return self.cache / f"models--{repo_id.replace('/', '--')}"

    def locks(self, repo_id: str) -> Path:
        """Where the library keeps its locks of that model's blobs."""
        return self.cache / ".locks" / f"models--{repo_id.replace('/', '--')}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a failing Hub is asked again: waits double from `first_s` to `most_s`, `tries` in a row at most.

    A Hub that names its own wait (429 or 503 with `Retry-After`) is obeyed up to `asked_s`; `silence_s` without a byte
    is a failure.
    """

    tries: int
    first_s: float = 1.0
    most_s: float = 30.0
    asked_s: float = 600.0
    silence_s: float = 30.0

    def wait(self, error: Exception, failures: int) -> float | None:
        """Seconds to wait after the `failures`-th failure in a row; None: give up."""
        if not transient(error) or failures >= self.tries:
            return None
        asked = _asked_wait(error)
        if asked is not None:
            return asked if asked <= self.asked_s else None
        return float(min(self.most_s, self.first_s * 2 ** (failures - 1)))


ASKING = Patience(3, asked_s=60.0, silence_s=10.0)
DOWNLOADING = Patience(8)


def _status(error: BaseException) -> int:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else 0


def transient(error: BaseException) -> bool:
    """May the same request succeed a moment later?"""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, LocalEntryNotFoundError):  # the library wraps what it met while it looked at a file
        return error.__cause__ is not None and transient(error.__cause__)
    if status := _status(error):
        return status in _RETRIED
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _asked_wait(error: Exception) -> float | None:
    """What a 429 or 503 asks for, in seconds: `Retry-After` as a number or a date, or the `RateLimit` header."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code not in (429, 503):
        return None
    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = error.response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC if date.tzinfo else None)).total_seconds())


def briefly(error: BaseException) -> str:
    """A failure in a few words, for a line of progress."""
    status = _status(error)
    return f"the Hub answered {status}" if status else f"connection lost ({type(error).__name__})"


def explained(hub: Hub, repo_id: str, error: Exception, revision: str = "") -> ModelError:
    """What a failure of the library means, where was looked, and what to do."""
    looked = f"Looked in the cache {hub.cache} and on {hub.endpoint}."
    if isinstance(error, HFValidationError):
        return no_id(repo_id)
    if isinstance(error, GatedRepoError):
        return gated(hub, repo_id)
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repo_id} has no revision {revision!r} on {hub.endpoint}: name a branch, tag or commit.")
    if isinstance(error, RepositoryNotFoundError):
        hint = " If it is private, " + ("check that HF_TOKEN may read it." if hub.token else "set HF_TOKEN.")
        return ModelError(f"There is no model {repo_id}. {looked} Check the spelling.{hint}")
    if status := _status(error):
        return _refused(hub, repo_id, status, error)
    if isinstance(error, OSError) and (told := disk_trouble(hub, repo_id, error)):
        return told
    if isinstance(error, OfflineModeIsEnabled):
        return offline(hub, repo_id)
    if isinstance(error, HTTPError | LocalEntryNotFoundError | ConnectionError | TimeoutError | RuntimeError):
        return Unreachable(
            f"{repo_id} is not complete in the cache {hub.cache}, and the download from {hub.endpoint} failed: "
            f"{_first_line(error)}. Check the network or the proxy and try again (a cut download goes on where "
            "it ended), or name a local folder."
        )
    return ModelError(f"Fetching {repo_id} into {hub.cache} failed: {_first_line(error)}.")


def _refused(hub: Hub, repo_id: str, status: int, error: Exception) -> ModelError:
    """An answer that the library has no name for."""
    page = f"{hub.endpoint}/settings/tokens"
    if status == 401:
        return ModelError(f"{hub.endpoint} refused the token in HF_TOKEN (401). Make a new one at {page}.")
    if status == 403:
        return ModelError(
            f"{hub.endpoint} does not let {repo_id} be read (403): {_first_line(error)}. "
            f"Give the token in HF_TOKEN read access to it at {page}."
        )
    later = "Try again later (a cut download goes on where it ended)."
    asked = _asked_wait(error)
    if asked is not None:
        later = f"It asks to wait {asked:.0f} s before the next request."
        if status == 429 and not hub.token:
            later += " With a token in HF_TOKEN the limits are wider."
    if status in _RETRIED:
        return Unreachable(f"{hub.endpoint} answered {status} for {repo_id}. {later}")
    return ModelError(
        f"{hub.endpoint} answered {status} for {repo_id} ({_first_line(error)}). If HF_ENDPOINT names a mirror, it may "
        "not have all of this model."
    )


def no_id(repo_id: str) -> ModelError:
    return ModelError(
        f"{repo_id!r} is neither a folder nor a Hugging Face id (owner/name). "
        "A folder may be written with ./, ../, ~ or / in front."
    )


def offline(hub: Hub, repo_id: str, lack: str = "") -> ModelError:
    state = f"lacks {lack} in" if lack else "is not in"
    return Unreachable(
        f"{repo_id} {state} the cache {hub.cache}, and HF_HUB_OFFLINE is set. Unset it, or name a local folder."
    )


def gated(hub: Hub, repo_id: str) -> ModelError:
    page = f"{hub.endpoint}/{repo_id}"
    if hub.token:
        todo = f"The account of HF_TOKEN has no access: accept the licence at {page} with that account"
    else:
        tokens = f"{hub.endpoint}/settings/tokens"
        todo = f"Accept its licence at {page}, make a token at {tokens}, and set HF_TOKEN to it"
    return ModelError(f"{repo_id} is gated. {todo}; then try again.")


def disk_full(hub: Hub, what: str) -> ModelError:
    return ModelError(
        f"The disk is too full: {what} in {hub.cache}. Free some space there (`aicockpit models prune` shows what "
        "could go), or set HF_HOME to a folder on a larger disk."
    )


def disk_trouble(hub: Hub, repo_id: str, error: OSError) -> ModelError | None:
    """What a failed write means; None when it was not the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(hub, f"writing {repo_id} failed ({error.strerror})")
    if error.errno == errno.EFBIG:
        return ModelError(
            f"A file of {repo_id} is larger than {hub.cache} takes: its file system (FAT?) or the limit of this "
            "process (`ulimit -f`). Set HF_HOME to a folder elsewhere, or raise the limit."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ModelError(
            f"{error.filename or hub.cache} may not be written by this user ({error.strerror}), and {repo_id} is not "
            "complete there. Set HF_HOME to a folder of yours, or let the owner of the cache fetch the model."
        )
    if error.errno == errno.EIO:
        return ModelError(f"The disk of {hub.cache} failed ({error.strerror}) while {repo_id} was fetched.")
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
