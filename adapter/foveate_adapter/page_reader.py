"""Read one page over and over through one connection.

At twenty reads a second the HTTP client dominates the adapter's cost: a page takes httpx 1.3 ms of
CPU time and ``http.client`` 0.4 ms.
"""

from __future__ import annotations

import base64
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import unquote, urlsplit

from foveate_adapter.address import shown
from foveate_adapter.errors import ScrapeError

__all__ = ["Page"]

_PIECE = 65536  # bytes


class Page:
    """The page at ``url``, http or https, over one connection for as long as the server keeps it.

    Not safe to share between threads.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        credentials = base64.b64encode(unquote(user).encode()).decode()
        self.url = shown(url)
        self._path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        self._headers = {"Authorization": f"Basic {credentials}"} if user else {}
        scheme = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = scheme(parts.hostname or "", parts.port, timeout=timeout_s)
        self._timeout_s = timeout_s

    def read(self) -> str:
        """The current text.

        Raises :class:`ScrapeError`, naming the URL, for any status but 200, if the server is silent
        for ``timeout_s``, and if the complete body takes longer than that.
        """
        kept = self._connection.sock is not None
        try:
            try:
                status, body = self._ask()
            except ConnectionError:
                if not kept:
                    raise
                self.close()  # the server has closed the kept connection
                status, body = self._ask()
        except TimeoutError as error:
            self.close()
            raise ScrapeError(f"{self.url}: no answer in {self._timeout_s:g} s") from error
        except (OSError, HTTPException) as error:
            self.close()  # the rest of this answer must not be read as the next one
            raise ScrapeError(f"{self.url}: {type(error).__name__}: {error}") from error
        if status != 200:
            raise ScrapeError(f"{self.url}: {status} {body[:200]}")
        return body

    def close(self) -> None:
        """Close the connection; the next read opens another one."""
        self._connection.close()

    def _ask(self) -> tuple[int, str]:
        deadline = time.monotonic() + self._timeout_s
        self._connection.request("GET", self._path, headers=self._headers)
        with self._connection.getresponse() as response:
            body = b""
            while piece := response.read1(_PIECE):
                body += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
            if response.length:
                raise ConnectionError("the connection closed in the middle of the answer")
        return response.status, body.decode(errors="replace")
