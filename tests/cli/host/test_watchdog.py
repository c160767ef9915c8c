"""What the supervisor takes for a fault, where it would take half a minute to produce one."""

from __future__ import annotations

import socket
import types

import httpx
import pytest

from foveate.control.heartbeat import HEARTBEAT
from foveate_cli.host import watchdog as probe
from foveate_cli.host.watchdog import PATIENCE_S, Watchdog, find_failures


class Decoders:
    """A server of two decoders: one goes on, the other one says nothing any more."""

    def __init__(self) -> None:
        self.now = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            lines = [
                f'{HEARTBEAT}{{model="decode",process="decode_0_{index}"}} {value}'
                for index, value in enumerate((self.now, 0.0))
            ]
            return httpx.Response(200, text="\n".join(["", *lines, ""]))
        if request.method == "GET":
            tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]}
            return httpx.Response(200, json={"inputs": [tensor]})
        return httpx.Response(200)


def test_a_process_is_missed_though_another_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders()
    monkeypatch.setattr(probe, "time", types.SimpleNamespace(monotonic=lambda: decoders.now))
    with httpx.Client(transport=httpx.MockTransport(decoders.answer)) as client:
        watchdog = Watchdog(client, "http://triton", "http://triton/metrics", ["decode"])
        while (trouble := watchdog.trouble()) is None and decoders.now < 2 * PATIENCE_S:
            decoders.now += 1
    assert trouble == f"decode: no heartbeat of decode_0_1 for {PATIENCE_S:.1f} s"


def test_who_asks_says_how_long_an_answer_may_take() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert find_failures(url, ["a", "b"], timeout_s=0.2) == [
            "a: no answer within 0.2 s",
            "b: no answer within 0.2 s",
        ]
