"""An SLO outlives the processes that hold it, up to ``foveate serve`` itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

STATE = Path(__file__).parents[2] / ".state"  # what takes long to measure, shared with other tests


def slo(served: Any) -> dict[str, Any]:
    """What the adapter aims at; empty while there is none."""
    with contextlib.suppress(httpx.TransportError):
        view = httpx.get(f"http://{served.adapter}/v1/models/digits").json()
        return dict(view["slo"])
    return {}


def test_an_slo_survives_adapter_and_server_and_yields_to_a_command_line(
    serve: Callable[..., Any], server: Any, tmp_path: Path
) -> None:
    assert server.repository, "whose start has measured the latencies"
    for folder in filter(Path.is_dir, STATE.iterdir()):
        (tmp_path / folder.name).mkdir()
        for kept in folder.iterdir():
            (tmp_path / folder.name / kept.name).symlink_to(kept)
    environment = {"FOVEATE_STATE_DIR": str(tmp_path), "FOVEATE_ADAPTER_STATE_DIR": ""}

    first = serve("--slo-ms=150", environment=environment)
    assert slo(first)["latency_ms"] == 150
    wish = {"latency_ms": 90, "objective": 0.95, "min_quality": 0.5, "goal": "energy"}
    url = f"http://{first.adapter}/v1/models/digits/slo"
    assert httpx.put(url, json=wish).status_code == 200
    (adapter,) = first.children("foveate_adapter")
    os.kill(adapter, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while first.children("foveate_adapter") in ([adapter], []) or not slo(first):
        assert time.monotonic() < deadline, "no new adapter"
        time.sleep(0.05)
    assert slo(first) == wish, "set later than the command line"
    first.stop()

    second = serve("--slo-ms=300", environment=environment)
    assert slo(second) == wish | {"latency_ms": 300}, "the command line is later"
    assert "latency_ms=300" in second.log
    assert "latency_ms=90" in second.log
