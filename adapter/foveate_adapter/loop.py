"""Read, decide, publish, at a steady beat: the only place that waits or logs decisions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import httpx

from foveate_adapter.errors import ScrapeError
from foveate_adapter.metrics import Metrics
from foveate_adapter.model import Model
from foveate_adapter.observe import Sample
from foveate_adapter.sources import TIMEOUT_S, Source

__all__ = ["run"]

_log = logging.getLogger(__name__)


async def run(models: Sequence[Model], metrics: Metrics, source: Source, hz: float) -> None:
    """Control ``models`` until cancelled; one reading of ``source`` serves all of them."""
    failure: str | None = None
    due = time.monotonic()
    # No proxy from the environment: the server is beside us. The blocking client in a thread takes
    # less than half the processor time of the asynchronous one.
    with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
        while True:
            samples: Mapping[str, Sample] = {}
            try:
                with metrics.scrape_seconds.time():
                    samples = await _read(source, client)
                problem = None
            except ScrapeError as error:
                problem = str(error)
            metrics.scrapes.labels("failed" if problem else "ok").inc()
            if problem != failure:
                _log.warning("%s", problem or f"{source.url} answers again")
            failure = problem

            for model in models:
                before = model.decision
                decision = model.step(samples.get(model.name), time.monotonic())
                if before is None or before.reason != decision.reason:
                    _log.debug("%s: %s", model.name, decision)
            # After a slow scrape beats are skipped, not caught up with.
            due = max(due + 1 / hz, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


async def _read(source: Source, client: httpx.Client) -> Mapping[str, Sample]:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.to_thread(source.read, client)
    except TimeoutError as error:
        raise ScrapeError(f"{source.url}: no answer in {TIMEOUT_S:g} s") from error
