"""Arrivals of the control benchmark: those of the load test, and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foveate_loadtest.arrivals import Phase, Schedule, piecewise
from foveate_loadtest.traces import Trace, Unit

__all__ = ["Steps", "Trace", "Unit"]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Calm for 8 s, then bursts of 5 s, each with a calm of 8 s after it."""

    calm: float = 0.4  # of level 0's capacity
    burst: float = 0.85  # of the cheapest level's
    calm_s: float = 8.0
    burst_s: float = 5.0
    bursts: int = 10  # of a usual run of half a minute, in proportion for others
    seed: int = 1

    title = key = "steps"

    def count(self, seconds: float) -> int:
        return max(1, round(self.bursts * seconds / 30))

    def starts(self, seconds: float) -> list[float]:
        """When each burst begins."""
        cycle = self.burst_s + self.calm_s
        return [self.calm_s + cycle * number for number in range(self.count(seconds))]

    def schedule(self, capacities: Sequence[float], seconds: float) -> Schedule:
        calm = Phase(self.calm_s, self.calm * capacities[0])
        burst = Phase(self.burst_s, self.burst * capacities[-1])
        phases = (calm, *(burst, calm) * self.count(seconds))
        return Schedule(
            times=piecewise(phases, 1.0, self.seed),
            seconds=sum(phase.seconds for phase in phases),
            scenario=self.title,
            seed=self.seed,
            cv2=1.0,
            capacities=None,
        )
