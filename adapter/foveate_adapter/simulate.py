"""One batch server on a virtual clock, under the real control law.

Requests wait in one FIFO queue; a free server takes up to a full batch, asks the governor for its
level and is busy for the table's time. The law sees what it would see of a real server: counters
and a queue depth, scraped at a fixed rate, the model's own counters flushed more seldom.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foveate.ladder import LatencyTable
from foveate_adapter.control import Config, Decision, State, decide
from foveate_adapter.observe import Sample, observe

__all__ = ["Answer", "Batch", "Governor", "Run", "arrivals", "simulate", "slack"]

SCRAPE_S = 0.05
SCRAPES_PER_FLUSH = 3  # the model process flushes its own counters this often
REJECTING_S = 1.0  # after a rejection, how long the governor is told of it


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a governor knows when it is handed a batch."""

    size: int
    age_s: float  # of its oldest request
    queue_depth: int  # behind it, as of the last scrape
    rejecting: bool  # a request was rejected in the last second
    slo_s: float
    table: LatencyTable
    levels: tuple[int, ...]  # allowed, dearest first
    margin: float


Governor = Callable[[Batch], int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The fate of one request."""

    arrived_s: float
    latency_s: float
    level: int | None  # None: rejected


@dataclass(frozen=True, kw_only=True)
class Run:
    answers: tuple[Answer, ...]  # in order of arrival
    decisions: tuple[Decision, ...]  # one per scrape

    def attainment(self, slo_s: float) -> float:
        """Share of all requests answered within ``slo_s``."""
        good = sum(a.level is not None and a.latency_s <= slo_s for a in self.answers)
        return good / len(self.answers)

    def shares(self) -> dict[int, float]:
        """Share of all requests answered at each level."""
        levels = [answer.level for answer in self.answers if answer.level is not None]
        return {level: levels.count(level) / len(self.answers) for level in sorted(set(levels))}


def slack(batch: Batch) -> int:
    """The governor's rule without its estimates: the most accurate level that serves all in time.

    ``s_k(b) + floor(Q/B) * s_k(B) + s_k(Q mod B) <= margin * SLO - age``, else the cheapest.
    """
    if batch.rejecting:
        return batch.levels[-1]
    seconds, largest = batch.table.batch_seconds, batch.table.batches[-1]
    full, rest = divmod(batch.queue_depth, largest)
    for level in batch.levels:
        behind = full * seconds(level, largest) + (seconds(level, rest) if rest else 0.0)
        if seconds(level, batch.size) + behind <= batch.margin * batch.slo_s - batch.age_s:
            return level
    return batch.levels[-1]


def arrivals(
    phases: Sequence[tuple[float, float]], *, cv2: float = 1.0, seed: int = 0
) -> list[float]:
    """Arrival times of phases ``(requests per second, seconds)``.

    Gaps are gamma distributed with squared coefficient of variation ``cv2``: 1 is Poisson.
    """
    draw = random.Random(seed)
    times: list[float] = []
    end = 0.0
    for rate, seconds in phases:
        now, end = end, end + seconds
        while rate > 0 and (now := now + draw.gammavariate(1 / cv2, cv2 / rate)) < end:
            times.append(now)
    return times


def simulate(
    config: Config,
    times: Sequence[float],
    *,
    governor: Governor = slack,
    slowdown: float = 1.0,
    after_s: float = 0.0,
) -> Run:
    """Serve requests arriving at ``times``, and go on controlling for ``after_s`` seconds.

    ``slowdown`` multiplies every batch time, unknown to governor and law. A request that could not
    be answered in time even at the cheapest level is rejected when its turn comes, at no cost.
    """
    loop = _Loop(config, times)
    answers: list[Answer] = []
    free_at, rejected_at = 0.0, -math.inf
    while len(answers) < len(times):
        start = max(free_at, times[len(answers)])
        policy = loop.until(start)
        levels = tuple(k for k in config.levels if policy.dearest <= k <= policy.cheapest)
        waiting = times[len(answers) : bisect_right(times, start)][: config.table.batches[-1]]
        least = slowdown * config.table.batch_seconds(policy.cheapest, len(waiting))
        late = sum(start + least - arrived > config.slo_s for arrived in waiting)
        for arrived in waiting[:late]:
            answers.append(Answer(arrived_s=arrived, latency_s=start - arrived, level=None))
            loop.count("foveate_rejections_total", "deadline")
            rejected_at = start
        loop.taken += len(waiting)
        if late == len(waiting):
            continue
        batch = Batch(
            size=len(waiting) - late,
            age_s=start - waiting[late],
            queue_depth=max(0, (policy.queue_depth or 0) - len(waiting)),
            rejecting=start - rejected_at < REJECTING_S,
            slo_s=config.slo_s,
            table=config.table,
            levels=levels or (policy.dearest,),  # a pin may be a level not worth serving here
            margin=policy.margin,
        )
        level = governor(batch)
        free_at = start + slowdown * config.table.batch_seconds(level, batch.size)
        loop.until(free_at)
        for arrived in waiting[late:]:
            latency = free_at - arrived
            answers.append(Answer(arrived_s=arrived, latency_s=latency, level=level))
            slo = "met" if latency <= config.slo_s else "missed"
            loop.count("foveate_answers_total", str(level), slo)
    loop.until(free_at + after_s)
    return Run(answers=tuple(answers), decisions=tuple(loop.decisions))


class _Loop:
    """The adapter's loop on the virtual clock, and the counters it scrapes."""

    def __init__(self, config: Config, times: Sequence[float]) -> None:
        self.decisions: list[Decision] = []
        self.taken = 0  # requests that left the queue
        self._config, self._times = config, times
        self._state = State()
        self._previous: Sample | None = None
        self._finished = 0
        self._counters: dict[tuple[str, ...], float] = {}
        self._flushed: dict[tuple[str, ...], float] = {}

    def count(self, *key: str) -> None:
        """One request finished, one way or the other."""
        self._finished += 1
        self._counters[key] = self._counters.get(key, 0.0) + 1.0

    def until(self, end: float) -> Decision:
        """Scrape and decide at every beat up to ``end``; the latest decision."""
        while (at := len(self.decisions) * SCRAPE_S) <= end:
            if len(self.decisions) % SCRAPES_PER_FLUSH == 0:
                self._flushed = dict(self._counters)
            sample = Sample(
                at=at,
                counters={("nv_inference_request_success",): self._finished, **self._flushed},
                gauges={
                    "nv_inference_pending_request_count": bisect_right(self._times, at) - self.taken
                },
            )
            self._state, decision = decide(
                self._config, self._state, observe(self._previous, sample)
            )
            self.decisions.append(decision)
            self._previous = sample
        return self.decisions[-1]
