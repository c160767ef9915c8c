"""The adapter's own ``/metrics``: prefix ``foveate_adapter_``, base units, bounded labels."""

from __future__ import annotations

import math
import platform
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from foveate import __version__
from foveate_adapter.model import Model

__all__ = ["Metrics"]

_GAUGES = {
    "slo_seconds": "Latency objective",
    "objective_ratio": "Share of requests to answer within the SLO",
    "margin_ratio": "Share of the SLO the governor may plan for",
    "dearest_level": "Dearest level allowed",
    "cheapest_level": "Cheapest level allowed",
    "load_per_second": "Offered requests per second, smoothed over a second",
    "demand_ratio": "Offered load over level 0's capacity; above 1, quality must be spent",
    "queue_depth": "Requests waiting in Triton",
    "attainment_ratio": "Share of requests answered within the SLO, over the window",
    "degraded_ratio": "Share of answers given above level 0, over the window",
    "in_control": "1 if the model is under control, by this adapter or another one, else 0",
    "read_only": "1 if another adapter publishes the policy of the model, else 0",
}
_EDGES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, math.inf)


class Metrics(Collector):
    """Reads the models when scraped; unknown values have no series."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._outcomes = {"ok": 0, "failed": 0}
        self._buckets = [0] * len(_EDGES_S)
        self._seconds = 0.0

    def count(self, seconds: float, *, failed: bool) -> None:
        """Record one reading of the source that took ``seconds``."""
        self._outcomes["failed" if failed else "ok"] += 1
        self._buckets[bisect_left(_EDGES_S, seconds)] += 1
        self._seconds += seconds

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Exposition and content type: OpenMetrics for an ``Accept`` header that asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"foveate_adapter_{name}", text, labels=["model"])
            for name, text in _GAUGES.items()
        }
        decisions = CounterMetricFamily(
            "foveate_adapter_decisions", "Decisions by reason", labels=["model", "reason"]
        )
        quality = GaugeMetricFamily(
            "foveate_adapter_level_quality_ratio",
            "Quality of a level, on the scale of its ladder",
            labels=["model", "level"],
        )
        goals = InfoMetricFamily(
            "foveate_adapter_slo", "Goal pursued within the SLO", labels=["model"]
        )
        for model in self._models:
            with model.lock:
                values, counts = [*_values(model)], [*model.counts.items()]
                goals.add_metric([model.name], {"goal": model.slo.goal})
            for level, worth in enumerate(model.ladder.qualities):
                quality.add_metric([model.name, str(level)], worth)
            for name, value in values:
                if value is not None:
                    gauges[name].add_metric([model.name], value)
            for reason, count in counts:
                decisions.add_metric([model.name, reason], count)
        yield from gauges.values()
        yield decisions
        yield quality
        yield goals
        yield InfoMetricFamily("foveate_build", "Versions of the adapter", _build())
        yield from self._readings()

    def _readings(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "foveate_adapter_scrapes", "Readings of the source by outcome", labels=["outcome"]
        )
        for outcome, count in self._outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
        edges = ("+Inf" if math.isinf(edge) else str(edge) for edge in _EDGES_S)
        yield HistogramMetricFamily(
            "foveate_adapter_scrape_seconds",
            "Time from one reading's request to its parsed reply",
            buckets=[*zip(edges, accumulate(self._buckets), strict=True)],
            sum_value=self._seconds,
        )


def _build() -> dict[str, str]:
    python = platform.python_version()
    return {"component": "adapter", "version": __version__, "python": python}


def _values(model: Model) -> Iterator[tuple[str, float | None]]:
    yield "slo_seconds", model.slo.latency_s
    yield "objective_ratio", model.slo.objective
    yield "in_control", float(model.problem(time.monotonic()) is None)
    yield "read_only", float(model.holder is not None)
    if model.decision is not None:
        yield "margin_ratio", model.decision.margin
        yield "dearest_level", model.decision.dearest
        yield "cheapest_level", model.decision.cheapest
        yield "load_per_second", model.decision.load
        yield "demand_ratio", model.decision.demand
        yield "queue_depth", model.decision.queue_depth
    window = model.window()
    if window is not None:
        yield "attainment_ratio", window.attainment
        yield "degraded_ratio", window.degraded
