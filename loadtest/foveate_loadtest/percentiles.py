"""Percentiles of times, computed the same way everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Percentiles"]


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Milliseconds; each value was seen (no interpolation)."""

    p50: float
    p99: float
    p999: float
    longest: float

    @staticmethod
    def of(seconds: NDArray[np.float64]) -> Percentiles | None:
        """None of nothing."""
        if not len(seconds):
            return None
        values = np.quantile(seconds, (0.5, 0.99, 0.999, 1.0), method="higher") * 1000
        p50, p99, p999, longest = values.tolist()
        return Percentiles(p50=p50, p99=p99, p999=p999, longest=longest)
