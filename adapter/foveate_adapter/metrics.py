"""The adapter's own ``/metrics``: prefix ``foveate_adapter_``, base units, bounded labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from foveate_adapter.model import Model

__all__ = ["Metrics"]

_GAUGES = {
    "slo_seconds": "Latency objective",
    "margin_ratio": "Share of the SLO the governor may plan for",
    "dearest_level": "Dearest level allowed",
    "cheapest_level": "Cheapest level allowed",
    "load_per_second": "Offered requests per second, smoothed over a second",
    "queue_depth": "Requests waiting in Triton",
    "attainment_ratio": "Share of requests answered within the SLO, over the window",
    "degraded_ratio": "Share of answers given above level 0, over the window",
    "read_only": "1 if another adapter publishes the policy of the model, else 0",
}


class Metrics(Collector):
    """Reads the models when it is scraped; a value not known has no series."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.scrapes = Counter(
            "foveate_adapter_scrapes_total",
            "Readings of the source by outcome",
            ["outcome"],
            registry=self._registry,
        )
        self.scrape_seconds = Histogram(
            "foveate_adapter_scrape_seconds",
            "Time from one reading's request to its parsed reply",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """The exposition, in Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"foveate_adapter_{name}", text, labels=["model"])
            for name, text in _GAUGES.items()
        }
        decisions = CounterMetricFamily(
            "foveate_adapter_decisions", "Decisions by reason", labels=["model", "reason"]
        )
        for model in self._models:
            for name, value in _values(model):
                if value is not None:
                    gauges[name].add_metric([model.name], value)
            for reason, count in model.counts.items():
                decisions.add_metric([model.name, reason], count)
        yield from gauges.values()
        yield decisions


def _values(model: Model) -> Iterator[tuple[str, float | None]]:
    yield "slo_seconds", model.slo.latency_s
    yield "read_only", float(model.holder is not None)
    if model.decision is not None:
        yield "margin_ratio", model.decision.margin
        yield "dearest_level", model.decision.dearest
        yield "cheapest_level", model.decision.cheapest
        yield "load_per_second", model.decision.load
        yield "queue_depth", model.decision.queue_depth
    window = model.window()
    if window is not None:
        yield "attainment_ratio", window.attainment
        yield "degraded_ratio", window.degraded
