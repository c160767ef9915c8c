"""How sure a measured share is."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["wilson"]


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Binomial 95 % interval of ``correct`` out of ``total`` (Wilson), images independent."""
    z = NormalDist().inv_cdf(0.975)
    p = correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    return min(p, centre - half), max(p, centre + half)  # which rounding may leave at 0 and 1
