"""A server of the benchmark's own, on its own core."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from foveate_loadtest.bench.pictures import Pictures
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.stage import Stage
from foveate_loadtest.temporary_server import running

__all__ = ["Host", "metric", "wait_until_idle"]

_IDLE_S = 300.0  # a queue without admission may hold minutes of work
_FLUSH_S = 0.5  # until the model process has published all it knows


class Host:
    """Starts a server for the first run, and keeps it while its options fit."""

    def __init__(
        self,
        repository: Path,
        model: str,
        core: int,
        slo_ms: float,
        pictures: Pictures = Pictures(),  # noqa: B008 - frozen
    ) -> None:
        """``core`` is the server's alone, ``slo_ms`` in milliseconds."""
        self._repository, self._model = repository, model
        self._core, self._slo_ms, self._pictures = core, slo_ms, pictures
        self._open = contextlib.ExitStack()
        self._stage: Stage | None = None
        self._admission = True

    def close(self) -> None:
        self._open.close()

    def capacities(self) -> list[dict[str, Any]]:
        """Each level down to the cheapest: what it carries, in requests per second."""
        stage = self.stage()
        ladder = stage.ladder
        return [
            {
                "index": index,
                "level": ladder.names[index],
                "quality": ladder.quality[index],
                **_throughput(stage, ladder.names[index]),
            }
            for index in range(ladder.cheapest + 1)
        ]

    def capacity(self, admission: bool = True) -> float:
        """What the cheapest level carries now, in requests per second."""
        stage = self.stage(admission)
        cheapest = stage.ladder.names[stage.ladder.cheapest]
        return _capacity(stage, cheapest, 2.0, runs=2)

    def stage(self, admission: bool = True) -> Stage:
        """Of a server with or without admission."""
        if self._stage is None or self._admission != admission:
            self._open.close()
            options = [] if admission else ["--no-admission"]
            slo = f"--slo-ms={self._slo_ms:g}"
            server = self._open.enter_context(
                running(self._repository, "--no-pin-cap", slo, *options, core=self._core)
            )
            pictures = self._pictures
            self._stage = Stage(server, self._model, pictures.source, pictures.target)
            self._admission = admission
        return self._stage


def metric(stage: Stage, name: str) -> float:
    """Sum of a metric of the model, once the model process has published all it knows."""
    time.sleep(_FLUSH_S)
    (value,) = stage.server.counters(stage.model, name)
    return value


def wait_until_idle(stage: Stage) -> None:
    """Wait for the queue to empty: it may still hold requests the client has given up on."""
    end = time.monotonic() + _IDLE_S
    while waiting := metric(stage, "nv_inference_pending_request_count"):
        if time.monotonic() > end:
            raise TimeoutError(f"{waiting:.0f} requests are still queued after {_IDLE_S:g} s")


def _capacity(stage: Stage, level: str, seconds: float = 3.0, *, runs: int) -> float:
    return measure_capacity(
        stage.server.grpc, stage.model, level, seconds, runs, stage.image_set, stage.target
    )


def _throughput(stage: Stage, level: str) -> dict[str, float]:
    """Best of three closed loops, with the mean batch time by the model's own clock."""
    names = ("foveate_batches_total", "foveate_batch_seconds_total")
    runs = []
    for _ in range(3):
        before = [metric(stage, name) for name in names]
        capacity = _capacity(stage, level, runs=1)
        batches, seconds = (
            metric(stage, name) - old for name, old in zip(names, before, strict=True)
        )
        runs.append({"capacity": capacity, "batch_s": seconds / batches})
    return max(runs, key=lambda run: run["capacity"])
