"""Read, decide and publish at a steady rate: the only place that waits or logs decisions.

The loop runs in its own thread: going through the API's event loop twenty times a second would take
0.3 ms of CPU time each, a third of the total.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence

from foveate_adapter.errors import ScrapeError
from foveate_adapter.model import Model
from foveate_adapter.observe import Sample
from foveate_adapter.own_metrics import Metrics
from foveate_adapter.sources import TIMEOUT_S, Source

__all__ = ["run"]

_log = logging.getLogger(__name__)


async def run(models: Sequence[Model], metrics: Metrics, source: Source, hz: float) -> None:
    """Control ``models`` until cancelled; one reading of ``source`` serves all of them."""
    beat = _Beat(models, metrics, source, 1 / hz)
    thread = asyncio.ensure_future(asyncio.to_thread(beat.run))
    try:
        while not thread.done():
            await asyncio.wait([thread], timeout=TIMEOUT_S)
            beat.watch()
        thread.result()
    finally:
        beat.stop.set()
        await asyncio.wait([thread], timeout=2 * TIMEOUT_S)


class _Beat:
    """``run`` in one thread; ``watch`` in another one takes over while a reading hangs."""

    def __init__(
        self, models: Sequence[Model], metrics: Metrics, source: Source, period_s: float
    ) -> None:
        self.stop = threading.Event()
        self._models, self._metrics = models, metrics
        self._source, self._period_s = source, period_s
        self._at = time.monotonic()  # of the last step
        self._failure: str | None = None
        self._lock = threading.Lock()  # of a step

    def run(self) -> None:
        due = time.monotonic()
        while not self.stop.wait(due - time.monotonic()):
            start = time.monotonic()
            samples: Mapping[str, Sample] = {}
            problem: str | None = None
            try:
                samples = self._source.read()
            except ScrapeError as error:
                problem = str(error)
            seconds = time.monotonic() - start
            if self.stop.is_set():
                return
            self._metrics.count(seconds, failed=problem is not None)
            self._step(samples, problem)
            # After a slow reading, skip beats rather than catching up.
            due = max(due + self._period_s, time.monotonic())

    def watch(self) -> None:
        """Step without a sample if reading takes too long: DNS may hang."""
        late = time.monotonic() - self._at
        if late > self._period_s + TIMEOUT_S:
            self._step({}, f"{self._source.url}: no answer in {TIMEOUT_S:g} s")

    def _step(self, samples: Mapping[str, Sample], problem: str | None) -> None:
        with self._lock:
            self._at = time.monotonic()
            if problem != self._failure:
                _log.warning("%s", problem or f"{self._source.url} answers again")
            self._failure = problem
            for model in self._models:
                before = model.decision
                decision = model.step(samples.get(model.name), self._at)
                if before is None or before.reason != decision.reason:
                    _log.debug("%s: %s", model.name, decision)
