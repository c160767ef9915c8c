"""What arrives, how bursty it is, and how much of the SLO that leaves to spend. Pure.

In heavy traffic the backlog of a queue is a reflected Brownian motion, whose tail is exponential
(Kingman 1962; Harrison, *Brownian Motion and Stochastic Flow Systems*, 1985): with load rho, index
of dispersion I of the arrivals and service time s,

    P(backlog > x) = exp(-theta x),    theta = 2 (1 - rho) / (I s)

for x in seconds of work. Serving dearer than need be adds a backlog d and misses
``exp(-theta (SLO - d)) - exp(-theta SLO)`` more requests than serving at the cheapest level would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Traffic", "room_s"]

_WINDOW_S = 0.2  # as long as the batch in work, which is in no counter, hardly matters
_LOAD_MEMORY_S = 3.0
_DISPERSION_MEMORY_S = 20.0
_PRIOR_WINDOWS = 10


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Arrivals so far, as far as they are remembered."""

    load: float = 0.0  # requests per second, smoothed
    dispersion: float = 4.0  # variance over mean of the arrivals in a window: 1 is Poisson
    windows: int = 0  # so far
    rate: float | None = None  # requests per second in the last window
    arrivals: float = 0.0  # in the window that has begun
    seconds: float = 0.0

    def seen(self, arrivals: float, seconds: float) -> Traffic:
        """With ``arrivals`` more in ``seconds`` more."""
        arrivals, seconds = self.arrivals + arrivals, self.seconds + seconds
        if seconds < _WINDOW_S:
            return replace(self, arrivals=arrivals, seconds=seconds)
        rate, dispersion = max(0.0, arrivals / seconds), self.dispersion
        if self.rate is not None and rate + self.rate > 0:
            # From neighbours, so that a trend is not taken for a burst (von Neumann 1941).
            sample = seconds * (rate - self.rate) ** 2 / (rate + self.rate)
            # Until shown otherwise, a load is bursty: the first value counts for some windows.
            weight = self._weight(seconds, _DISPERSION_MEMORY_S, _PRIOR_WINDOWS)
            dispersion += weight * (sample - dispersion)
        return Traffic(
            load=self.load + self._weight(seconds, _LOAD_MEMORY_S, 0) * (rate - self.load),
            dispersion=dispersion,
            windows=self.windows + 1,
            rate=rate,
        )

    def _weight(self, seconds: float, memory_s: float, prior: int) -> float:
        """Of a new window: the plain mean as long as there is little to remember."""
        return max(1.0 - math.exp(-seconds / memory_s), 1.0 / (self.windows + 1 + prior))


def room_s(traffic: Traffic, service_s: float, slo_s: float, missable: float) -> float:
    """Seconds of backlog that may be added, so that ``missable`` of the requests miss by it.

    ``service_s`` is the time of one request at the cheapest level; no room if that cannot carry the
    load.
    """
    spare = 1.0 - traffic.load * service_s
    if spare <= 0:
        return 0.0
    theta = 2.0 * spare / (max(traffic.dispersion, 0.1) * service_s)
    # log(1 + missable exp(theta SLO)) / theta, without overflow
    exponent = theta * slo_s + math.log(missable)
    return (max(exponent, 0.0) + math.log1p(math.exp(-abs(exponent)))) / theta
