"""One page, from a server that behaves and from some that do not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from foveate_adapter.errors import ScrapeError
from foveate_adapter.page_reader import Page

TIMEOUT_S = 0.5
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\none\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Site:
    """Answers the n-th request with the n-th of ``replies``, all later ones with the last."""

    def __init__(self) -> None:
        self.replies: list[list[bytes]] = []  # each in pieces
        self.pause_s = 0.0  # before each piece
        self.ends = False  # the connection, after every reply
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/metrics?all=1"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection:
                    self._answer(connection)
        except OSError:
            return

    def _answer(self, connection: socket.socket) -> None:
        while request := connection.recv(65536):
            self.requests.append(request)
            try:
                for piece in self.replies.pop(0) if self.replies[1:] else self.replies[0]:
                    time.sleep(self.pause_s)
                    connection.sendall(piece)
            except OSError:  # nobody waits for the rest
                return
            if self.ends:
                return


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    page = Page(site.url, TIMEOUT_S)
    yield page
    page.close()


def test_readings_share_a_connection(site, page):
    site.replies = [[PLAIN], [PLAIN.replace(b"one", b"two")]]
    assert [page.read(), page.read()] == ["one\n", "two\n"]
    assert site.connections == 1
    assert site.requests[0].startswith(b"GET /metrics?all=1 HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_connection_that_the_server_ended_is_opened_again(site, page):
    site.ends = True
    site.replies = [[PLAIN], [PLAIN]]
    assert [page.read(), page.read()] == ["one\n", "one\n"]
    assert site.connections == 2


@pytest.mark.parametrize(
    ("reply", "ends"),
    [
        ([bytes([byte]) for byte in PLAIN], False),
        ([CHUNKED + b"2;x=1\r\non\r\n", b"2\r\ne\n\r\n0\r\n", b"Trailer: x\r\n\r\n"], False),
        ([b"HTTP/1.0 200 OK\r\n\r\non", b"e\n"], True),
    ],
    ids=["byte by byte", "in chunks", "until the end of the connection"],
)
def test_a_page_comes_in_many_ways(site, page, reply, ends):
    site.ends = ends
    site.replies = [reply, reply]
    assert [page.read(), page.read()] == ["one\n", "one\n"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nlate"], "503 late"),
        ([b"SSH-2.0\r\n\r\n"], "BadStatusLine: SSH-2.0"),
        ([PLAIN[:-2]], "ConnectionError: the connection closed in the middle of the answer"),
    ],
    ids=["refused", "not HTTP", "half"],
)
def test_anything_else_is_an_error_naming_the_page_and_the_next_one_is_not_spoilt(
    site, page, reply, told
):
    site.ends = True
    site.replies = [reply, [PLAIN]]
    with pytest.raises(ScrapeError, match=told) as caught:
        page.read()
    assert str(caught.value).startswith(f"{site.url}: ")
    assert page.read() == "one\n"


@pytest.mark.parametrize("pieces", [1, 100], ids=["late", "in drops"])
def test_a_page_that_takes_too_long_is_not_taken_for_the_next_one(site, page, pieces):
    site.pause_s = 2 * TIMEOUT_S / pieces
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    site.replies = [[head, *[b"x"] * (pieces - 1)], [PLAIN]]
    with pytest.raises(ScrapeError, match=r"no answer in 0\.5 s"):
        page.read()
    site.pause_s = 0.0
    assert eventually(page.read) == "one\n"


def eventually(read: Callable[[], str]) -> str:
    """The site has one connection at a time, and may still be busy with the last one."""
    for _ in range(20):
        try:
            return read()
        except ScrapeError:
            continue
    return read()


def test_nobody_there_is_an_error(site, page):
    site.replies = [[PLAIN]]
    page.read()
    site.close()
    page.close()
    with pytest.raises(ScrapeError, match=r"ConnectionRefusedError: .* Connection refused"):
        page.read()
