"""Connections that say nothing do not keep others out for ever."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn

from foveate_adapter import __main__
from foveate_adapter.app import create_app
from foveate_adapter.own_metrics import Metrics


@pytest.fixture
def port(settings, model, free_port: Callable[[], int], monkeypatch) -> Iterator[int]:
    """Of an API that serves four connections and is impatient."""
    monkeypatch.setattr(__main__, "FIRST_REQUEST_TIMEOUT_S", 0.5)
    port = free_port()
    config = uvicorn.Config(
        create_app(settings, [model], Metrics([model])),
        port=port,
        http=__main__.Connection,
        limit_concurrency=4,
        log_level="critical",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_who_asks_nothing_is_hung_up_on(port: int, said: bytes) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 15)) for _ in range(4)
        ]
        for connection in silent:
            connection.sendall(said)
        for connection in silent:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok"


def test_who_has_asked_is_left_alone(port: int) -> None:
    with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/events") as events:
        start = time.monotonic()
        for _ in events.iter_lines():
            if time.monotonic() - start > 2 * __main__.FIRST_REQUEST_TIMEOUT_S:
                break
        else:
            pytest.fail("the stream ended")
