"""Metrics sources: Triton itself, or a Prometheus server that scrapes it.

Reading a source blocks, so it runs in its own thread. It returns one sample for each model that has
new data.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

from foveate.control.heartbeat import Heartbeats
from foveate_adapter.address import shown
from foveate_adapter.errors import ScrapeError
from foveate_adapter.observe import METRICS, Sample, collect, parse, series_key
from foveate_adapter.page_reader import Page
from foveate_adapter.settings import Settings

__all__ = ["PrometheusSource", "Source", "TritonSource", "open_source"]

TIMEOUT_S = 0.5


class Source(Protocol):
    """``read`` raises :class:`ScrapeError` if there is no answer, or not one we can read.

    ``url`` is safe to show: it contains no credentials.

    ``heartbeats`` covers every process of the server, including those of models without a ladder.
    """

    url: str
    heartbeats: Heartbeats

    def read(self) -> Mapping[str, Sample]: ...


class TritonSource:
    """Triton's own ``/metrics``, the freshest source."""

    def __init__(self, url: str, models: Sequence[str]) -> None:
        self.url = shown(url)
        self.heartbeats = Heartbeats()
        self._models = models
        self._page = Page(url, TIMEOUT_S)

    def read(self) -> Mapping[str, Sample]:
        at = time.monotonic()  # before reading the queue: better one batch too few than too many
        text = self._page.read()
        self.heartbeats.see(text, at)
        return {model: parse(text, model, at) for model in self._models}


class PrometheusSource:
    """The raw samples a Prometheus server holds, with the times of its scrapes.

    A plain instant query returns the time of the query; only a range selector returns when a sample
    was taken, and so whether it is new. PromQL aggregates nothing: we read raw counters, so a
    restart of Triton looks the same as on a direct scrape.
    """

    def __init__(self, url: str, models: Sequence[str], selector: str, scrape_s: float) -> None:
        """``selector`` adds label matchers; together they must match exactly one Triton server."""
        self._endpoint = f"{url.rstrip('/')}/api/v1/query"
        self.url = shown(self._endpoint)
        self.heartbeats = Heartbeats()  # stays empty: Prometheus has rules for heartbeats
        names, known = "|".join(METRICS), "|".join(map(re.escape, models))
        matchers = [f"__name__=~`{names}`", f"model=~`{known}`", selector]
        window = f"{round(3000 * scrape_s)}ms"  # one scrape may be late, another one fail
        self._query = f"{{{','.join(filter(None, matchers))}}}[{window}]"
        self._last: dict[str, float] = {}  # time of the newest scrape of each model
        # No proxy from the environment: the server is local.
        self._client = httpx.Client(trust_env=False, timeout=TIMEOUT_S)

    def read(self) -> Mapping[str, Sample]:
        reply = self._get()
        clocks = time.monotonic() - time.time()
        try:
            newest = _newest(reply.json()["data"]["result"])
        except (KeyError, TypeError, ValueError) as error:
            raise ScrapeError(f"{self.url}: {error!r} in {reply.text[:200]!r}") from error
        samples = {}
        for model, (at, series) in newest.items():
            if self._last.get(model) != at:
                self._last[model] = at
                samples[model] = collect(series, at + clocks)
        return samples

    def _get(self) -> httpx.Response:
        try:
            reply = self._client.get(self._endpoint, params={"query": self._query})
        except httpx.HTTPError as error:
            raise ScrapeError(f"{self.url}: {type(error).__name__}: {error}") from error
        if reply.is_error:
            raise ScrapeError(f"{self.url}: {reply.status_code} {reply.text[:200]}")
        return reply


def open_source(settings: Settings, models: Sequence[str]) -> Source:
    """The source the settings ask for."""
    if settings.source == "triton":
        return TritonSource(settings.metrics_url, models)
    assert settings.prometheus_url is not None
    return PrometheusSource(
        settings.prometheus_url, models, settings.prometheus_selector, settings.prometheus_scrape_s
    )


_Series = list[tuple[tuple[str, ...], float]]


def _newest(matrix: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, _Series]]:
    """Time and values of the newest scrape of each model. Raises :class:`ScrapeError` if the
    samples come from several servers, naming them: their sum would be meaningless.
    """
    targets = {(item["metric"].get("job"), item["metric"].get("instance")) for item in matrix}
    if len(targets) > 1:
        found = "; ".join(f'job="{job}",instance="{instance}"' for job, instance in sorted(targets))
        raise ScrapeError(f"prometheus_selector matches {len(targets)} servers: {found}")
    newest: dict[str, tuple[float, _Series]] = {}
    for item in matrix:
        labels = item["metric"]
        at, value = float(item["values"][-1][0]), float(item["values"][-1][1])
        last, series = newest.get(labels["model"], (0.0, []))
        if at < last:  # a series that is gone
            continue
        key = series_key(labels["__name__"], labels)
        newest[labels["model"]] = (at, [*(series if at == last else []), (key, value)])
    return newest
