"""The usual controllers for accuracy scaling: slow loops over one-minute windows.

Pure functions of configuration, level and window, to be driven by a :class:`Pilot`.
"""

from __future__ import annotations

from foveate_adapter.control import Config
from foveate_loadtest.simulate.scrape import Pilot, Window

__all__ = ["AUTOSCALER", "THRESHOLD", "autoscaler", "threshold"]

CHEAPER_AT, DEARER_AT = 0.8, 0.5  # of the SLO
WAIT_TARGET = 0.1  # of the SLO
TOLERANCE = 0.1  # as in the Kubernetes autoscaler


def threshold(config: Config, level: int, seen: Window) -> int:
    """One level cheaper when the p99 latency nears the SLO, one dearer when it is half of it."""
    if not seen.latencies:
        return level
    p99 = sorted(seen.latencies)[int(0.99 * (len(seen.latencies) - 1))]
    position = config.levels.index(level)
    if p99 > CHEAPER_AT * config.slo_s:
        return config.levels[min(position + 1, len(config.levels) - 1)]
    if p99 < DEARER_AT * config.slo_s:
        return config.levels[max(position - 1, 0)]
    return level


def autoscaler(config: Config, level: int, seen: Window) -> int:
    """The Kubernetes rule on the mean wait: capacity in proportion to its excess over a target.

    Its five minutes of patience before scaling down are left out: it would never come back.
    """
    if not seen.waits:
        return level
    excess = sum(seen.waits) / len(seen.waits) / (WAIT_TARGET * config.slo_s)
    if abs(excess - 1.0) <= TOLERANCE:
        return level
    wanted = excess / config.table.seconds[level][-1]
    fitting = (k for k in config.levels if 1.0 / config.table.seconds[k][-1] >= wanted)
    return next(fitting, config.levels[-1])


THRESHOLD = Pilot(period_s=1.0, choose=threshold)
AUTOSCALER = Pilot(period_s=6.0, choose=autoscaler)  # how often Prometheus evaluates its rules
