"""One batch server on a virtual clock, under the real governor and the real control law.

Requests wait in one queue, first in, first out; a free server takes up to a full batch, asks
``governor.decide`` for its levels and is busy for the table's time. ``control.decide`` sees what it
would see of a real server: counters and a queue depth, scraped at a fixed rate and known a little
later. Nothing here decides anything.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from foveate.control import governor
from foveate.control.governor import Rejection, Wish
from foveate_adapter import control
from foveate_loadtest.simulate.scrape import Adapter, Endpoint, Pilot

__all__ = ["Answer", "Batch", "Replica", "Run", "Server", "simulate"]


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is true of the server, whether or not governor and law know it. Times in seconds."""

    overhead_s: float = 0.003  # of every batch, whatever it holds; the governor never measures it
    slowdown: float = 1.0  # a batch takes this many times what the table says
    within_s: float = 0.0  # and this much more: of every batch that runs, and the governor sees it
    noise: float = 0.0  # standard deviation of the logarithm of a batch time, whose mean stays
    seed: int = 0  # of the noise
    rejection_s: float = 50e-6
    scrape_s: float = 0.005  # from the start of a scrape until its policy is in force
    blind_s: tuple[float, float] = (math.inf, math.inf)  # scrapes in between fail

    def batch_s(self, seconds: float) -> float:
        """What the model measures of a batch that should take ``seconds``; noise apart."""
        return self.slowdown * seconds + self.within_s


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The fate of one request."""

    arrived_s: float
    latency_s: float
    level: int | None  # None: rejected


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch, run or rejected as a whole."""

    at_s: float
    size: int
    level: int  # of most of its requests
    correction: float  # the governor's, after this batch


@dataclass(frozen=True, kw_only=True)
class Run:
    answers: tuple[Answer, ...]  # in order of arrival
    batches: tuple[Batch, ...]
    decisions: tuple[control.Decision, ...]  # of the law, one per scrape


class Replica:
    """A server with its governor and its adapter, serving what arrives."""

    def __init__(
        self,
        times: Sequence[float] = (),
        *,
        inner: governor.Config,
        outer: control.Config | None,
        server: Server | None = None,
        pilot: Pilot | None = None,
    ) -> None:
        """``times``: arrivals known already. ``outer``, ``pilot``: as in :func:`simulate`."""
        self.answers: list[Answer] = []  # in order of arrival
        self.server = server or Server()
        self._times = list(times)
        self._inner = inner
        self._endpoint = Endpoint(self._times)
        self._adapter: Adapter | None = None
        if outer is not None:
            self._adapter = Adapter(
                outer,
                self._endpoint,
                scrape_s=self.server.scrape_s,
                blind_s=self.server.blind_s,
                pilot=pilot,
            )
        self._noise = random.Random(self.server.seed)
        self._state = governor.State()
        self._batches: list[Batch] = []
        self._running: _Running | None = None
        self._free_at = 0.0

    def arrive(self, at: float) -> None:
        """One more request, not before any other."""
        self.advance(at)
        self._times.append(at)

    def advance(self, until: float = math.inf) -> None:
        """Finish and start every batch that is due before ``until``."""
        while True:
            if self._running is not None:
                if self._free_at >= until:
                    return
                self._finish(self._running)
            first = len(self.answers)
            if first == len(self._times) or max(self._free_at, self._times[first]) >= until:
                return
            self._start(max(self._free_at, self._times[first]))

    def unanswered(self, now: float) -> int:
        """Requests that have arrived and wait, or are being computed, at ``now``."""
        self.advance(now)
        return len(self._times) - len(self.answers)

    def die(self, at: float) -> None:
        """Lose everything that is not answered by then. Nothing may arrive any more."""
        self.advance(at)
        self._running = None
        self.answers += [
            Answer(arrived_s=arrived, latency_s=math.inf, level=None)
            for arrived in self._times[len(self.answers) :]
        ]

    def end(self, after_s: float = 0.0) -> Run:
        """Answer everything, continue for ``after_s`` seconds, and return the result."""
        self.advance()
        if self._adapter:
            self._adapter.policy_at(self._free_at + after_s)
        return Run(
            answers=tuple(self.answers),
            batches=tuple(self._batches),
            decisions=tuple(self._adapter.decisions) if self._adapter else (),
        )

    def _start(self, start: float) -> None:
        server, inner, first = self.server, self._inner, len(self.answers)
        last = bisect_right(self._times, start, lo=first)
        waiting = self._times[first : min(last, first + inner.max_batch)]
        seen = governor.Observation(
            now_ns=round(start * 1e9),
            wishes=(Wish(),) * len(waiting),
            policy=self._adapter.policy_at(start) if self._adapter else None,
        )
        self._state, decision = governor.decide(inner, self._state, seen)
        self._endpoint.taken += len(waiting)

        ran = Counter(level for level in decision.levels if not isinstance(level, Rejection))
        seconds = server.batch_s(_batch_s(inner, ran)) if ran else 0.0
        seconds *= self._noise.lognormvariate(-(server.noise**2) / 2, server.noise)
        refusing = server.rejection_s * (len(waiting) - ran.total())
        self._free_at = start + seconds + refusing + server.overhead_s
        level = ran.most_common(1)[0][0] if ran else decision.level
        self._running = _Running(start, waiting, decision, seconds, level)

    def _finish(self, batch: _Running) -> None:
        if self._adapter:
            # What was scraped meanwhile does not count this batch yet.
            self._adapter.policy_at(self._free_at)
        self._running = None
        self._state = state = governor.settle(self._state, batch.decision, batch.seconds)
        self._endpoint.correction, self._endpoint.gap_s = state.correction, state.gap_s
        self._endpoint.count(
            batch.decision, batch.seconds, batch.arrived, batch.start, self._free_at
        )
        self.answers += (
            Answer(arrived_s=arrived, latency_s=self._free_at - arrived, level=_fate(level))
            for arrived, level in zip(batch.arrived, batch.decision.levels, strict=True)
        )
        self._batches.append(
            Batch(
                at_s=batch.start,
                size=len(batch.arrived),
                level=batch.level,
                correction=state.correction,
            )
        )


class _Running(NamedTuple):
    start: float
    arrived: Sequence[float]
    decision: governor.Decision
    seconds: float  # as the model will measure it
    level: int  # of most of its requests


def simulate(
    times: Sequence[float],
    *,
    inner: governor.Config,
    outer: control.Config | None,
    server: Server | None = None,
    pilot: Pilot | None = None,
    after_s: float = 0.0,
) -> Run:
    """Serve requests arriving at ``times`` (ascending, seconds); continue for ``after_s`` seconds.

    Without ``outer`` there is no adapter and the governor is alone. With ``pilot`` the adapter
    pins whatever level it chooses.
    """
    return Replica(times, inner=inner, outer=outer, server=server, pilot=pilot).end(after_s)


def _fate(level: int | Rejection) -> int | None:
    return None if isinstance(level, Rejection) else level


def _batch_s(config: governor.Config, ran: Counter[int]) -> float:
    """What the table says of one packed batch of several levels: of each its share."""
    total = ran.total()
    return sum(config.latency.batch_seconds(level, total) * n / total for level, n in ran.items())
