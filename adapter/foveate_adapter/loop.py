"""Scrape, decide, publish, twenty times a second: the only place that waits or logs decisions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import httpx

from foveate_adapter.errors import ScrapeError
from foveate_adapter.metrics import Metrics
from foveate_adapter.model import Model
from foveate_adapter.observe import Sample, parse

__all__ = ["run"]

SCRAPE_TIMEOUT_S = 0.5

_log = logging.getLogger(__name__)


async def run(models: Sequence[Model], metrics: Metrics, url: str, hz: float) -> None:
    """Control ``models`` until cancelled; one scrape of ``url`` serves all of them."""
    failure: str | None = None
    due = time.monotonic()
    # No proxy from the environment: the server is beside us. The blocking client in a thread takes
    # less than half the processor time of the asynchronous one.
    with httpx.Client(trust_env=False, timeout=SCRAPE_TIMEOUT_S) as client:
        while True:
            samples: Mapping[str, Sample] = {}
            try:
                with metrics.scrape_seconds.time():
                    samples = await _scrape(client, url, models)
                problem = None
            except ScrapeError as error:
                problem = str(error)
            metrics.scrapes.labels("failed" if problem else "ok").inc()
            if problem != failure:
                _log.warning("%s", problem or f"{url} answers again")
            failure = problem

            for model in models:
                before = model.decision
                decision = model.step(samples.get(model.name), time.monotonic())
                if before is None or before.reason != decision.reason:
                    _log.debug("%s: %s", model.name, decision)
            # After a slow scrape beats are skipped, not caught up with.
            due = max(due + 1 / hz, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


async def _scrape(client: httpx.Client, url: str, models: Sequence[Model]) -> Mapping[str, Sample]:
    at = time.monotonic()  # before the queue depth is read: rather a batch too few than too many
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            response = (await asyncio.to_thread(client.get, url)).raise_for_status()
    except (httpx.HTTPError, TimeoutError) as error:
        raise ScrapeError(f"{url}: {type(error).__name__}: {error}") from error
    return {model.name: parse(response.text, model.name, at) for model in models}
