"""The metrics endpoint of the simulated server, and the adapter's loop that scrapes it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foveate.control import governor
from foveate.control.governor import Rejection
from foveate.control.policy import Policy
from foveate_adapter import control
from foveate_adapter.actuate import policy_of
from foveate_adapter.observe import Observation, Sample, observe

__all__ = ["Adapter", "Endpoint", "Pilot", "Window"]

PERIOD_S = 0.05
SCRAPES_PER_FLUSH = 3  # the model process publishes its own counters this often
LEASE_S = 2.0
WINDOW_S = 60.0  # memory of Triton's latency summaries


@dataclass(frozen=True, kw_only=True)
class Window:
    """What Triton's own metrics say about the answers of the last 60 seconds, in seconds."""

    latencies: Sequence[float]
    waits: Sequence[float]  # in the queue


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """A controller that pins the server to one level at a time, from level 0 on."""

    period_s: float
    choose: Callable[[control.Config, int, Window], int]  # (config, level now, seen) -> level


class Endpoint:
    """Triton's counters are exact and of now; the model's are estimates, flushed now and then."""

    def __init__(self, times: Sequence[float]) -> None:
        """``times``: all arrivals, ascending seconds."""
        self.taken = 0  # requests that left the queue
        self.correction = 1.0  # of the governor, now
        self.gap_s = 0.0
        self._times = times
        self._triton: Counter[tuple[str, ...]] = Counter()
        self._model: Counter[tuple[str, ...]] = Counter()
        self._flushed: tuple[Counter[tuple[str, ...]], float, float] = Counter(), 1.0, 0.0
        self._scrapes = 0
        self._answers: deque[tuple[float, float, float]] = deque()  # (at, latency, wait)

    def count(
        self,
        decision: governor.Decision,
        seconds: float,
        arrived: Sequence[float],
        start: float,
        end: float,
    ) -> None:
        """The batch taken at ``start`` is answered at ``end``; its model measured ``seconds``."""
        for level, age_ns, arrival in zip(decision.levels, decision.ages_ns, arrived, strict=True):
            if isinstance(level, Rejection):
                self._triton["nv_inference_request_failure",] += 1
                self._model["foveate_rejections_total", level.value] += 1
                continue
            age_s = age_ns / 1e9 + seconds + self.gap_s
            slo = "met" if age_s <= decision.slo_ns / 1e9 else "missed"
            self._triton["nv_inference_request_success",] += 1
            self._model["foveate_answers_total", str(level), slo] += 1
            self._answers.append((end, end - arrival, start - arrival))

    def scrape(self, at: float, read_at: float) -> Sample:
        """What a scrape begun ``at`` brings that reads the metrics at ``read_at``."""
        if self._scrapes % SCRAPES_PER_FLUSH == 0:
            self._model["foveate_heartbeats_total",] += 1
            self._flushed = self._model.copy(), self.correction, self.gap_s
        self._scrapes += 1
        counters, correction, gap_s = self._flushed
        return Sample(
            at=at,
            counters={**self._triton, **counters},
            gauges={
                "nv_inference_pending_request_count": bisect_right(self._times, read_at)
                - self.taken,
                "foveate_batch_time_correction": correction,
                "foveate_batch_gap_seconds": gap_s,
            },
        )

    def window(self, at: float) -> Window:
        while self._answers and self._answers[0][0] < at - WINDOW_S:
            self._answers.popleft()
        return Window(
            latencies=[latency for _, latency, _ in self._answers],
            waits=[wait for _, _, wait in self._answers],
        )


class Adapter:
    """Scrape, decide, publish, as :mod:`foveate_adapter.loop` and ``Model.step`` do."""

    def __init__(
        self,
        config: control.Config,
        endpoint: Endpoint,
        *,
        scrape_s: float,
        blind_s: tuple[float, float],
        pilot: Pilot | None,
    ) -> None:
        """``scrape_s``: from the start of a scrape until its policy is in force; under 50 ms."""
        self.decisions: list[control.Decision] = []
        self._config = config if pilot is None else replace(config, pin=0)
        self._endpoint, self._pilot = endpoint, pilot
        self._scrape_s, self._blind_s = scrape_s, blind_s
        self._state = control.State()
        self._previous: Sample | None = None
        self._seen_at = 0.0
        self._policy: Policy | None = None  # in force
        self._next: Policy | None = None  # in force from the end of its scrape

    def policy_at(self, now: float) -> Policy | None:
        """Do all that is due by ``now``; the policy then in force."""
        while (at := self._next_at) + self._scrape_s / 2 <= now:
            self._policy = self._next
            self._steer(at)
            self._decide(at)
        if self._next_at - PERIOD_S + self._scrape_s <= now:
            self._policy = self._next
        return self._policy

    @property
    def _next_at(self) -> float:
        """Start of the next scrape; the first is over when the first request can arrive."""
        return (len(self.decisions) - 1) * PERIOD_S

    def _steer(self, at: float) -> None:
        """Let the pilot choose, at the first scrape of each of its periods."""
        pilot, level = self._pilot, self._config.pin
        if pilot is None or level is None or len(self.decisions) % round(pilot.period_s / PERIOD_S):
            return
        level = pilot.choose(self._config, level, self._endpoint.window(at))
        self._config = replace(self._config, pin=level)

    def _decide(self, at: float) -> None:
        """Scrape, starting ``at``, and decide when its reply is there."""
        now = at + self._scrape_s
        begin, end = self._blind_s
        if not begin <= at < end:
            sample = self._endpoint.scrape(at, at + self._scrape_s / 2)
            seen = replace(observe(self._previous, sample), at=now)
            self._previous, self._seen_at = sample, now
            self._state, decision = control.decide(self._config, self._state, seen)
        elif now - self._seen_at <= self._config.blind_after_s:
            decision = replace(self.decisions[-1], at=now, queue_depth=None)
        else:
            blind = Observation(at=now)
            self._state, decision = control.decide(self._config, self._state, blind)
        self.decisions.append(decision)
        self._next = policy_of(
            replace(decision, at=at),  # the time of the queue depth
            epoch=1,
            sequence=len(self.decisions),
            slo_s=self._config.slo_s,
            floor=self._config.floor,
            lease_s=LEASE_S + self._scrape_s,
        )
