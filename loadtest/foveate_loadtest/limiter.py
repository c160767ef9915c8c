"""An adaptive limit on requests in flight, after Netflix's Gradient2.

It compares current with long-run round trips: while they are similar, the limit grows by a small
queue; when round trips grow, it shrinks in proportion. Constants are the defaults of
github.com/Netflix/concurrency-limits, with its windows of one second.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Config", "Limiter", "Observation", "State", "decide"]


@dataclass(frozen=True, kw_only=True)
class Config:
    min_limit: float = 20.0  # requests in flight; also the first limit
    max_limit: float = 200.0
    queue: float = 4.0  # requests by which the limit grows
    smoothing: float = 0.2
    tolerance: float = 1.5  # round trips may exceed the long run by this factor
    shrink: float = 0.5  # one window may shrink the limit to this share at most
    long_windows: int = 600  # memory of the long run
    warm_up: int = 10  # first windows, which are averaged plainly
    drift: float = 2.0  # long run over now from which the long run is forgotten faster
    forget: float = 0.95
    window_s: float = 1.0
    window_answers: int = 10


@dataclass(frozen=True, kw_only=True)
class State:
    limit: float = Config.min_limit
    long_s: float = 0.0  # round trip of the long run
    windows: int = 0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One window."""

    round_trip_s: float  # mean of the answers
    in_flight: int  # maximum


def decide(config: Config, state: State, seen: Observation) -> State:
    """The limit after a window."""
    windows = state.windows + 1
    weight = 1 / windows if windows <= config.warm_up else 2 / (config.long_windows + 1)
    long_s = state.long_s + weight * (seen.round_trip_s - state.long_s)
    if long_s > config.drift * seen.round_trip_s:
        long_s *= config.forget
    limit = state.limit
    if seen.in_flight >= limit / 2:  # or it would grow for ever while unused
        gradient = config.tolerance * long_s / seen.round_trip_s
        aim = limit * max(config.shrink, min(1.0, gradient)) + config.queue
        limit += config.smoothing * (aim - limit)
    return State(
        limit=max(config.min_limit, min(config.max_limit, limit)), long_s=long_s, windows=windows
    )


class Limiter:
    """Collects windows and updates the limit. Times are seconds of one clock."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._state = State(limit=self._config.min_limit)
        self._start: float | None = None
        self._round_trips: list[float] = []
        self._in_flight = 0

    def admits(self, in_flight: int) -> bool:
        """Whether one more request may be sent."""
        return in_flight < int(self._state.limit)

    def answered(self, now: float, round_trip_s: float, in_flight: int) -> None:
        """Record an answer, and how many requests were in flight with it."""
        self._start = now if self._start is None else self._start
        self._round_trips.append(round_trip_s)
        self._in_flight = max(self._in_flight, in_flight)
        full = len(self._round_trips) >= self._config.window_answers
        if full and now - self._start >= self._config.window_s:
            mean = sum(self._round_trips) / len(self._round_trips)
            seen = Observation(round_trip_s=mean, in_flight=self._in_flight)
            self._state = decide(self._config, self._state, seen)
            self._start, self._round_trips, self._in_flight = now, [], 0
