"""Adapters of our own beside a real server, and what reaches it while they are in trouble."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc

from foveate.images import cluttered_digits as images

PIXELS, _ = images.test_set(16)
LOST_S = 60.0  # beyond that an answer is lost


class Adapter:
    """``python -m foveate_adapter`` and its API."""

    def __init__(self, environment: Mapping[str, str], log_path: Path) -> None:
        self.log_path = log_path
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{environment['FOVEATE_ADAPTER_PORT']}")
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foveate_adapter"], env=dict(environment), stderr=log
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def ready(self) -> bool:
        return self.api.get("/readyz").is_success

    @property
    def view(self) -> dict[str, Any]:
        """``GET /v1/models/digits``."""
        view: dict[str, Any] = self.api.get("/v1/models/digits").raise_for_status().json()
        return view

    @property
    def reason(self) -> str:
        """Of the last decision."""
        return str(self.view["decision"]["reason"])

    @property
    def reasons(self) -> list[str]:
        """Of the decisions that changed something, newest first."""
        decisions = self.api.get("/v1/models/digits/decisions?limit=256").json()
        return [decision["reason"] for decision in decisions]

    def set_slo(self, **slo: float) -> None:
        self.api.put("/v1/models/digits/slo", json=slo).raise_for_status()

    def pin(self, level: str | int) -> None:
        self.api.put("/v1/models/digits/pin", json={"level": level}).raise_for_status()

    def unpin(self) -> None:
        self.api.delete("/v1/models/digits/pin").raise_for_status()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.api.close()
        self.process.kill()
        self.process.wait()

    def await_ready(self) -> None:
        eventually(lambda: self.ready, f"adapter ready\n{self.log}")


class Load:
    """Requests in flight while a fault is there: each must be answered, and none with an error."""

    def __init__(self, address: str, in_flight: int) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(address)
        self._done: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._levels: list[int] = []
        self._errors: list[str] = []
        self._ending = threading.Event()
        self._in_flight = in_flight
        self._thread = threading.Thread(target=self._run, daemon=True)

    def more(self, answers: int = 20) -> list[int]:
        """Levels of the next answers to arrive."""
        start = len(self._levels)
        eventually(lambda: len(self._levels) >= start + answers or bool(self._errors), "answers")
        return self._levels[start:]

    def __enter__(self) -> Load:
        self._thread.start()
        self.more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()
        assert not self._errors

    def _run(self) -> None:
        for number in range(self._in_flight):
            self._send(number)
        waiting = self._in_flight
        while waiting:
            try:
                result, error = self._done.get(timeout=LOST_S)
            except queue.Empty:
                self._errors.append(f"no answer within {LOST_S:g} s")
                return
            if error is None:
                self._levels.append(int(result.as_numpy("LEVEL")[0, 0]))
            else:
                self._errors.append(str(error))
            if self._ending.is_set() or self._errors:
                waiting -= 1
            else:
                self._send(len(self._levels))

    def _send(self, number: int) -> None:
        self._client.async_infer(
            "digits",
            [pixels(number)],
            callback=lambda result, error: self._done.put((result, error)),
        )


def pixels(number: int) -> Any:
    tensor = tritonclient.grpc.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
    tensor.set_data_from_numpy(PIXELS[number % 16][None])
    return tensor


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):  # whoever answers is being started
            if condition():
                return
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session", name="eventually")
def _eventually() -> Callable[..., None]:
    """``eventually(condition, what)``: waits for it."""
    return eventually


@pytest.fixture(scope="session")
def guarded(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server whose adapter wants the token ``sesame``. It refuses no request: what is missing
    was lost."""
    served = start_server("--no-admission", environment={"FOVEATE_ADAPTER_TOKEN": "sesame"})
    served.await_ready()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def start_adapter(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, free_port: Callable[[], int]
) -> Iterator[Callable[..., Adapter]]:
    """``start_adapter(served, **settings)``: an adapter of ``served``, ready unless told not to.

    A setting is named without ``FOVEATE_ADAPTER_``; ``environment`` adds other variables. What
    still runs at the end of the module is killed.
    """
    started: list[Adapter] = []

    def start(
        served: Any,
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Adapter:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FOVEATE_")}
        given = {
            "port": free_port(),
            "metrics_url": f"http://{served.metrics}/metrics",
            "repository": repository,
            "run_dir": served.run_dir,
            **settings,
        }
        ours = {f"FOVEATE_ADAPTER_{key.upper()}": str(value) for key, value in given.items()}
        log = tmp_path_factory.mktemp("adapter") / "log"
        adapter = Adapter({**kept, **(environment or {}), **ours}, log)
        started.append(adapter)
        if ready:
            adapter.await_ready()
        return adapter

    yield start
    for adapter in started:
        adapter.kill()


@pytest.fixture(scope="module")
def load() -> Callable[..., Load]:
    """``with load(served, in_flight=1) as running``: requests that must all be answered.

    ``running.more(n)`` waits for n more answers and returns their levels.
    """
    return lambda served, in_flight=1: Load(served.grpc, in_flight)
