"""Client for the part of the adapter's HTTP API that a load test needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from foveate_loadtest.errors import TargetError

__all__ = ["Adapter"]


class Adapter:
    """The adapter's API for one model. Every method raises :class:`TargetError` naming the URL."""

    def __init__(self, url: str, model: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=5.0, trust_env=False)
        self._path = f"/v1/models/{model}"

    def __enter__(self) -> Adapter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def view(self) -> dict[str, Any]:
        """SLO, levels, policy and the last observation."""
        view: dict[str, Any] = self._call("GET", self._path)
        return view

    def pin(self, level: str) -> None:
        """Serve everything at ``level`` until :meth:`unpin`."""
        self._call("PUT", f"{self._path}/pin", {"level": level})

    def unpin(self) -> None:
        self._call("DELETE", f"{self._path}/pin")

    def decisions(self, since: str | None = None, limit: int = 64) -> list[dict[str, Any]]:
        """Decisions that changed reason or range, newest first; ``since`` is the time of one."""
        query = {"limit": limit} if since is None else {"limit": limit, "since": since}
        found: list[dict[str, Any]] = self._call("GET", f"{self._path}/decisions", query=query)
        return found

    def _call(
        self, method: str, path: str, body: object = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            response = self._client.request(method, path, json=body, params=query)
        except httpx.HTTPError as error:
            raise TargetError(f"{method} {self._client.base_url}{path}: {error!r}") from error
        if response.is_error:
            raise TargetError(f"{method} {response.url}: {response.status_code} {response.text}")
        return response.json()
