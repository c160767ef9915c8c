"""Who said no: the server, or the transport on this side."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import gevent
import grpc
import pytest

from foveate_loadtest.rows import Outcome
from foveate_loadtest.senders import HttpSender, Reply, Sender, _grpc_reply, address


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("deadline cannot be met", Outcome.REJECTED),
        ("Exceeds maximum queue size", Outcome.REJECTED),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:…", Outcome.LOST),
        ("errors resolving nowhere.invalid:80: [field:hostname lookup error]", Outcome.LOST),
        ("DNS resolution failed for nowhere:80", Outcome.LOST),
        ("Stream removed (Socket closed)", Outcome.LOST),
        ("Socket closed", Outcome.LOST),
        ("Endpoint closing", Outcome.LOST),
        ("GOAWAY received", Outcome.LOST),
        ("keepalive timeout", Outcome.LOST),
    ],
)
def test_only_a_server_rejects(said: str, outcome: Outcome) -> None:
    call = SimpleNamespace(code=lambda: grpc.StatusCode.UNAVAILABLE, details=lambda: said)
    assert _grpc_reply(call).outcome is outcome


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "http://127.0.0.1:8001", "grpc://127.0.0.1:8001/"]
)
def test_a_scheme_is_no_part_of_an_address(url: str) -> None:
    assert address(url) == "127.0.0.1:8001"


REPLY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (None, Outcome.TIMEOUT),
        (b"", Outcome.LOST),
        (REPLY[:30], Outcome.LOST),
        (REPLY, Outcome.REJECTED),
        (REPLY.replace(b"503", b"400"), Outcome.INVALID),
        (REPLY.replace(b"503", b"500"), Outcome.FAILED),
    ],
)
def test_what_an_http_server_says(said: bytes | None, outcome: Outcome) -> None:
    with _answering(said) as server:
        assert _ask(HttpSender(server, [b"POST / HTTP/1.1\r\n\r\n"], 1.0)).outcome is outcome


def test_nobody_there_over_http() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        sender = HttpSender(f"127.0.0.1:{unheard.getsockname()[1]}", [b""], 1.0)
        assert _ask(sender).outcome is Outcome.LOST
        assert not sender.alive()


def _ask(sender: Sender) -> Reply:
    replies: list[Reply] = []
    sender.send(0, lambda: None, replies.append)
    gevent.wait(timeout=10)
    return replies[0]


@contextlib.contextmanager
def _answering(said: bytes | None) -> Iterator[str]:
    """A server that answers its first request with these bytes and hangs up; None: it freezes."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            if said is None:
                over.wait(30)
            else:
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
