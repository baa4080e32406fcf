"""Speaking to the running server from another command, through its control socket. No key: its folder is private."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx

from aicockpit.engines.orphans import StateLock
from aicockpit.errors import AicockpitError
from aicockpit.settings import Settings

_BASE = "http://aicockpit"


class NotRunning(AicockpitError):
    """No server runs with this state folder."""


class Control:
    """The server of one state folder. Every call raises NotRunning when there is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = settings.run_dir / "gateway.sock"

    def engines(self) -> list[dict[str, Any]]:
        return list(self._get("/api/engines").json()["engines"])

    def workspaces(self) -> list[dict[str, Any]]:
        return list(self._get("/api/workspaces").json()["workspaces"])

    def ready(self) -> tuple[bool, str]:
        answer = self._get("/ready").json()
        return bool(answer["ready"]), str(answer["reason"])

    def models(self) -> list[str]:
        return [card["id"] for card in self._get("/v1/models").json()["data"]]

    def reload(self) -> dict[str, list[str]]:
        """What changed, names of engines by what happened. Raises AicockpitError with the server's own words.

        Models that are new may have to be downloaded first, so this has no time limit.
        """
        answer = self._request("POST", "/api/reload", limit_s=None)
        if answer.is_error:
            raise AicockpitError(answer.json()["error"]["message"])
        return dict(answer.json())

    def act(self, engine: str, action: str) -> dict[str, Any]:
        """`action` is restart, stop or start. Raises AicockpitError with the server's own words."""
        answer = self._request("POST", f"/api/engines/{engine}/{action}")
        if answer.is_error:
            raise AicockpitError(answer.json()["error"]["message"])
        return dict(answer.json())

    def client(self) -> httpx.AsyncClient:
        """A client of the running server, for `bench`."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        return httpx.AsyncClient(transport=transport, base_url=_BASE, timeout=600.0)

    def stop_server(self, limit_s: float) -> bool:
        """Ask the server to stop and wait until it is gone; False when none runs. Raises when it takes too long."""
        pid = StateLock.holder(self._settings.state_dir)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            raise AicockpitError(f"the server (pid {pid}) belongs to another user; stop it as that user") from error
        end = time.monotonic() + limit_s
        while StateLock.holder(self._settings.state_dir) == pid:
            if time.monotonic() > end:
                raise AicockpitError(
                    f"the server (pid {pid}) has not stopped within {limit_s:g} s. `aicockpit logs` may say why; "
                    f"`kill -9 {pid}` ends it, and its engines end with it."
                )
            time.sleep(0.1)
        return True

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _request(self, method: str, path: str, limit_s: float | None = 30.0) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self._socket))
        try:
            with httpx.Client(transport=transport, base_url=_BASE, timeout=limit_s) as client:
                return client.request(method, path)
        except httpx.TransportError as error:
            raise NotRunning(
                f"no server runs with AICOCKPIT_STATE_DIR={self._settings.state_dir}. `make start-dev` starts one."
            ) from error
