"""``python -m foveate_adapter`` against a real metrics endpoint, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise

import httpx
import pytest

from foveate.control.policy import PolicyReader, policy_path

DEADLINE_S = 15


class Triton(ThreadingHTTPServer):
    """Serves ``text`` at /metrics."""

    text = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)


class Page(BaseHTTPRequestHandler):
    server: Triton

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def triton(metrics_text) -> Iterator[Triton]:
    with Triton() as server:
        server.text = metrics_text(pending=5)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Adapter:
    """The process and its URL."""

    def __init__(self, settings, triton: Triton, port: int, **others: str) -> None:
        """``others``: further settings, ``slo_url="http://..."``."""
        self.url = f"http://127.0.0.1:{port}"
        self.model = f"{self.url}/v1/models/digits"
        environment = {
            "FOVEATE_ADAPTER_PORT": str(port),
            "FOVEATE_ADAPTER_METRICS_URL": f"http://127.0.0.1:{triton.server_port}/metrics",
            "FOVEATE_ADAPTER_REPOSITORY": str(settings.repository),
            "FOVEATE_RUN_DIR": str(settings.run_dir),
            **{f"FOVEATE_ADAPTER_{key.upper()}": value for key, value in others.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "foveate_adapter"],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def start(settings, triton, table) -> Iterator[Callable[..., Adapter]]:
    table.save(settings.run_dir / "digits.latency.json")
    adapters: list[Adapter] = []

    def start_one(**others: str) -> Adapter:
        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as free:
            port = free.server_port
        adapters.append(Adapter(settings, triton, port, **others))
        return adapters[-1]

    yield start_one
    for adapter in adapters:
        adapter.process.kill()
        adapter.process.communicate()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_an_slo_put_over_http_reaches_the_governor_and_blindness_is_told(start, triton, settings):
    adapter = start()
    assert eventually(adapter.ready)
    governor = PolicyReader(policy_path(settings.run_dir, "digits"))
    assert governor.read().queue_depth == 5

    httpx.put(f"{adapter.url}/v1/models/digits/slo", json={"latency_ms": 77}).raise_for_status()
    assert eventually(lambda: governor.read().slo_ns == 77_000_000)

    with httpx.stream("GET", f"{adapter.url}/v1/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "event: model"
        shown = json.loads(next(lines).removeprefix("data: "))
        assert (shown["name"], shown["slo"]["latency_ms"]) == ("digits", 77)

        triton.text = "# the model is gone\n"
        assert eventually(lambda: governor.read().queue_depth == -1)
        assert eventually(lambda: not adapter.ready())
        assert governor.read().slo_ns == 77_000_000
        told = (
            json.loads(data.removeprefix("data: "))["reason"]
            for kind, data in pairwise(islice(lines, 300))
            if kind == "event: decision"
        )
        assert "no-signal" in told
        assert governor.read().margin == 0.25

        # An open event stream does not keep it from leaving.
        adapter.process.send_signal(signal.SIGTERM)
        assert adapter.process.wait(DEADLINE_S) == 0
    assert "Traceback" not in adapter.process.stderr.read()


def test_a_second_adapter_watches_until_the_first_is_gone(start):
    first = start()
    assert eventually(first.ready)
    second = start()
    assert eventually(second.ready)
    assert httpx.get(second.model).json()["read_only"]
    assert httpx.put(f"{second.model}/slo", json={"latency_ms": 66}).status_code == 409
    assert httpx.put(f"{first.model}/slo", json={"latency_ms": 77}).status_code == 200

    first.process.kill()
    assert eventually(lambda: not httpx.get(second.model).json()["read_only"])
    assert httpx.get(second.model).json()["slo"]["latency_ms"] == 77
    assert httpx.put(f"{second.model}/slo", json={"latency_ms": 66}).status_code == 200
    second.process.terminate()
    log = second.process.stderr.read()
    assert "digits: read-only, another adapter" in log
    assert "this one takes over" in log


def test_slos_come_from_a_central_place(start):
    with Triton() as place:
        place.text = '{"digits": {"latency_ms": 77}, "another": {"latency_ms": 5}}'
        threading.Thread(target=place.serve_forever, args=(0.02,), daemon=True).start()
        adapter = start(slo_url=f"http://127.0.0.1:{place.server_port}/slos.json")
        assert eventually(adapter.ready)
        assert eventually(lambda: httpx.get(adapter.model).json()["slo"]["latency_ms"] == 77)
        place.shutdown()


def test_a_metrics_endpoint_that_is_down_does_not_stop_it(start, triton, metrics_text):
    triton.text = 'foveate_level{model="digits"} broken\n'
    adapter = start()
    assert eventually(lambda: _scrapes(adapter, "failed") > 2)
    assert not adapter.ready()
    triton.text = metrics_text()
    assert eventually(adapter.ready)


def _scrapes(adapter: Adapter, outcome: str) -> float:
    try:
        lines = httpx.get(f"{adapter.url}/metrics").text.splitlines()
    except httpx.TransportError:
        return 0.0
    name = f'foveate_adapter_scrapes_total{{outcome="{outcome}"}} '
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)
