"""Load, burstiness, and how much of the SLO they leave to spend. Pure.

In heavy traffic the backlog of a queue is a reflected Brownian motion, whose tail is exponential
(Kingman 1962; Harrison, *Brownian Motion and Stochastic Flow Systems*, 1985): with load rho, index
of dispersion I of the arrivals and service time s,

    P(backlog > x) = exp(-theta x),    theta = 2 (1 - rho) / (I s)

for x in seconds of work. Serving at dearer levels than necessary adds to the backlog.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Traffic", "room_s"]

_WINDOW_S = 0.2  # long enough that the running batch, which is in no counter, hardly matters
_LOAD_MEMORY_S = 3.0
_DISPERSION_MEMORY_S = 20.0
_PRIOR_WINDOWS = 10


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Statistics of the arrivals so far."""

    load: float = 0.0  # requests per second, smoothed
    dispersion: float = 4.0  # variance over mean of the arrivals in a window: 1 is Poisson
    windows: int = 0  # so far
    rate: float = 0.0  # requests per second in the last window
    length_s: float = 0.0  # of the last window
    arrivals: float = 0.0  # in the window that has begun
    seconds: float = 0.0

    def seen(self, arrivals: float, seconds: float) -> Traffic:
        """The statistics after another ``arrivals`` in ``seconds``.

        ``arrivals`` may be negative, because a running batch is in no counter.
        """
        arrivals, seconds = self.arrivals + arrivals, self.seconds + seconds
        if seconds < _WINDOW_S:
            return replace(self, arrivals=arrivals, seconds=seconds)
        rate, dispersion = arrivals / seconds, self.dispersion
        if self.windows and rate + self.rate > 0:
            # From neighbouring windows, so that a trend does not count as a burst (von Neumann
            # 1941).
            spread = 2 * (rate - self.rate) ** 2 / (1 / seconds + 1 / self.length_s)
            # Assume bursts until proven otherwise; a single window proves little.
            young = 1 / (self.windows + _PRIOR_WINDOWS)
            weight = min(0.1, max(1 - math.exp(-seconds / _DISPERSION_MEMORY_S), young))
            dispersion += weight * (spread / (rate + self.rate) - dispersion)
        weight = max(1 - math.exp(-seconds / _LOAD_MEMORY_S), 1 / (self.windows + 1))
        return Traffic(
            load=self.load + weight * (rate - self.load),
            dispersion=dispersion,
            windows=self.windows + 1,
            rate=rate,
            length_s=seconds,
        )


def room_s(traffic: Traffic, service_s: float, slo_s: float, missable: float) -> float:
    """Seconds of backlog that may be added while at most a share ``missable`` of requests miss.

    ``service_s`` is the time of one request at the cheapest level. 0 if that level cannot carry the
    load.
    """
    spare = 1 - max(0.0, traffic.load) * service_s
    if spare <= 0:
        return 0.0
    theta = 2 * spare / (max(traffic.dispersion, 0.1) * service_s)
    return max(0.0, slo_s + math.log(missable) / theta)
