"""Metrics of batches, published a few times a second.

A metric call to the server costs tens of microseconds, so batches make none: a thread collects what
happened since last time, adds it up, and publishes the changes.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol

from foveate.control.heartbeat import HEARTBEAT

__all__ = ["AGE_EDGES_S", "COUNTERS", "GAUGES", "Metric", "Telemetry"]

#: Upper edges of the age histogram: geometric, 1 ms to about 10 s.
AGE_EDGES_S = tuple(round(0.001 * 2 ** (i / 2), 6) for i in range(27))
_EDGE_LABELS = (*map(str, AGE_EDGES_S), "+Inf")

COUNTERS = {
    "foveate_answers_total": "Answers given, by level and by whether they met the SLO",
    "foveate_rejections_total": "Requests answered UNAVAILABLE, by reason",
    "foveate_errors_total": "Invalid requests answered with an error",
    "foveate_failures_total": "Valid requests answered with an internal error",
    "foveate_batches_total": "Batches run, by the level most of their requests ran at",
    "foveate_batch_seconds_total": "Busy time of batches",
    "foveate_tokens_total": "Tokens left in the last block, summed over images",
    "foveate_decisions_total": "Batches, by the governor's reason for their level",
    "foveate_age_seconds_bucket": "Estimated time from queue to answer, cumulative buckets",
    "foveate_age_seconds_sum": "Estimated time from queue to answer, sum",
    "foveate_age_seconds_count": "Estimated time from queue to answer, answers",
    "foveate_heartbeats_total": "Publications; stops increasing when the process dies",
}
GAUGES = {
    "foveate_build_info": "Always 1; versions, executor and device of the model process",
    "foveate_uncompiled_levels": "Levels that could not be compiled and run on the reference",
    HEARTBEAT: "When a model process last published, seconds since 1970; by process",
    "foveate_level": "Level the governor chose for the last batch",
    "foveate_batch_time_correction": "Measured over predicted batch time, as the governor uses it",
    "foveate_batch_gap_seconds": "Time between two batches while requests wait",
}

Labels = tuple[tuple[str, str], ...]

_log = logging.getLogger(__name__)


class Metric(Protocol):
    """The interface of the server's metric objects."""

    def increment(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...


class Telemetry:
    """Metrics of one model process and the thread that publishes them.

    ``create(name, labels)`` creates a metric on the server; it is called once per label set.
    ``process`` is the server's name for the instance; a model may have several.
    """

    def __init__(
        self,
        create: Callable[[str, Mapping[str, str]], Metric],
        model: str,
        process: str,
        period_s: float = 0.15,
    ) -> None:
        self._create = create
        self._model = model
        self._process = process
        self._period_s = period_s
        self._lock = threading.Lock()
        self._collect: Callable[[], None] = lambda: None
        self._counts: dict[tuple[str, Labels], float] = defaultdict(float)
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._metrics: dict[tuple[str, Labels], Metric] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foveate-telemetry", daemon=True)
        self._thread.start()

    def collect_with(self, collect: Callable[[], None]) -> None:
        """Call ``collect``, which counts, in the thread before each publication."""
        self._collect = collect

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(labels.items())] += value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._gauges[name, tuple(labels.items())] = value

    def age(self, seconds: float) -> None:
        """Add one answer to the age histogram."""
        with self._lock:
            # Only its own bucket; publishing makes the buckets cumulative.
            label = _EDGE_LABELS[bisect_left(AGE_EDGES_S, seconds)]
            self._counts["foveate_age_seconds_bucket", (("le", label),)] += 1
            self._counts["foveate_age_seconds_sum", ()] += seconds
            self._counts["foveate_age_seconds_count", ()] += 1

    def close(self) -> None:
        """Publish what is left and end the thread."""
        self._stop.set()
        self._thread.join()
        # Free the server's objects while the server is there: freed at process exit, they crash it.
        self._metrics.clear()
        del self._create

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self._publish()
            except Exception:  # one failed call to the server must not stop the metrics
                _log.exception("metrics of %s were not published", self._model)
        self._publish()

    def _publish(self) -> None:
        self._collect()
        self.count("foveate_heartbeats_total")
        self.gauge(HEARTBEAT, time.time(), process=self._process)
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
            gauges, self._gauges = self._gauges, {}
        for (name, labels), value in _cumulative(counts).items():
            self._metric(name, labels).increment(value)
        for (name, labels), value in gauges.items():
            self._metric(name, labels).set(value)

    def _metric(self, name: str, labels: Labels) -> Metric:
        if (metric := self._metrics.get((name, labels))) is None:
            metric = self._create(name, {"model": self._model, **dict(labels)})
            self._metrics[name, labels] = metric
        return metric


def _cumulative(counts: Mapping[tuple[str, Labels], float]) -> dict[tuple[str, Labels], float]:
    """Turn the age buckets among ``counts`` into cumulative ones (``le`` means at most)."""
    name = "foveate_age_seconds_bucket"
    out = {key: value for key, value in counts.items() if key[0] != name}
    total = 0.0
    if any(key[0] == name for key in counts):
        for label in _EDGE_LABELS:
            total += counts.get((name, (("le", label),)), 0.0)
            if total:
                out[name, (("le", label),)] = total
    return out
