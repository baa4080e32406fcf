"""Speaking to the running server from another command, through its control socket. No key: its folder is private."""

from __future__ import annotations

from typing import Any

import httpx

from aicockpit.errors import AicockpitError
from aicockpit.settings import Settings


class NotRunning(AicockpitError):
    """No server runs with this state folder."""


class Control:
    """The server of one state folder. Every call raises NotRunning when there is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._socket = settings.run_dir / "gateway.sock"

    def engines(self) -> list[dict[str, Any]]:
        return list(self._get("/api/engines").json()["engines"])

    def ready(self) -> tuple[bool, str]:
        answer = self._get("/ready").json()
        return bool(answer["ready"]), str(answer["reason"])

    def models(self) -> list[str]:
        return [card["id"] for card in self._get("/v1/models").json()["data"]]

    def act(self, engine: str, action: str) -> dict[str, Any]:
        """`action` is restart, stop or start. Raises AicockpitError with the server's own words."""
        answer = self._request("POST", f"/api/engines/{engine}/{action}")
        if answer.is_error:
            raise AicockpitError(answer.json()["error"]["message"])
        return dict(answer.json())

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _request(self, method: str, path: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self._socket))
        try:
            with httpx.Client(transport=transport, base_url="http://aicockpit", timeout=30.0) as client:
                return client.request(method, path)
        except httpx.TransportError as error:
            raise NotRunning(
                f"no server runs with AICOCKPIT_STATE_DIR={self._settings.state_dir}. `make start-dev` starts one."
            ) from error
