"""The usual controller for accuracy scaling: a slow loop over the p99 of the last minute.

Its law is the one that ``foveate simulate`` compares with; here it reads the server's own metrics
and acts through the adapter's pin.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from foveate_adapter.control import Config
from foveate_adapter.observe import Observation, Sample, observe, parse
from foveate_loadtest.simulate.baselines import THRESHOLD, threshold
from foveate_loadtest.simulate.scrape import WINDOW_S, Window
from foveate_loadtest.stage import Stage

__all__ = ["decide", "driving"]


def decide(config: Config, level: int, seen: Observation) -> int:
    """The level to serve at now, from the one so far and what the last minute was like."""
    latencies = () if seen.age_p99_s is None else (seen.age_p99_s,)
    return threshold(config, level, Window(latencies=latencies, waits=()))


@contextlib.contextmanager
def driving(stage: Stage, config: Config) -> Iterator[None]:
    """Level 0 at first, then the controller's, until the end of the context."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        stage.adapter.pin(stage.ladder.names[0])
        stack.callback(stage.adapter.unpin)
        loop = pool.submit(_loop, stage, config, ended)
        try:
            yield
        finally:
            ended.set()
        loop.result()


def _loop(stage: Stage, config: Config, ended: threading.Event) -> None:
    level = 0
    with httpx.Client(trust_env=False) as client:
        samples = deque([_scrape(client, stage)])
        while not ended.wait(THRESHOLD.period_s):
            samples.append(_scrape(client, stage))
            while samples[-1].at - samples[0].at > WINDOW_S:
                samples.popleft()
            wanted = decide(config, level, observe(samples[0], samples[-1]))
            if wanted != level:
                level = wanted
                stage.adapter.pin(stage.ladder.names[level])


def _scrape(client: httpx.Client, stage: Stage) -> Sample:
    return parse(client.get(stage.server.metrics).text, stage.model, time.monotonic())
