"""The console: a page at ``/`` that uses the API as anybody could.

``static/`` is plain ES modules; ``static/vendor/`` comes from npm, see ``adapter/console``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

__all__ = ["mount"]

_FOLDER = Path(__file__).parent / "static"
_HEADERS = {
    # Nothing from elsewhere, nothing inline; no page may frame this one.
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def mount(app: FastAPI) -> None:
    """Serve the page at ``/`` and its parts under ``/console``."""
    app.add_api_route("/", _page, include_in_schema=False, response_class=FileResponse)
    app.mount("/console", _Parts(directory=_FOLDER))


async def _page() -> FileResponse:
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


class _Parts(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response
