"""Evaluate a simulated run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foveate_loadtest.simulate.server import Run

__all__ = ["Verdict", "judge", "recovered"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Shares are of all requests. None: nothing to say."""

    attainment: float  # answered within the SLO
    quality: float | None  # the ladder's, mean over the answers in time
    recovered: float | None  # that quality, from the cheapest level (0) to level 0 (1)
    rejected: float | None
    switches_per_minute: float | None  # batches at another level than the one before
    p99_ms: float | None  # of the answers


def judge(run: Run, *, quality: Sequence[float], slo_s: float) -> Verdict:
    """``quality``: of every level up to the cheapest that may be used."""
    requests = len(run.answers)
    answered = [(a.latency_s, a.level) for a in run.answers if a.level is not None]
    worth = [quality[level] for latency, level in answered if latency <= slo_s]
    mean = float(np.mean(worth)) if worth else None
    latencies = [latency for latency, _ in answered]
    switches = sum(a.level != b.level for a, b in pairwise(run.batches))
    minutes = run.answers[-1].arrived_s / 60
    return Verdict(
        attainment=len(worth) / requests,
        quality=mean,
        recovered=recovered(mean, quality),
        rejected=1 - len(answered) / requests,
        switches_per_minute=switches / minutes if run.batches else None,
        p99_ms=1000 * float(np.quantile(latencies, 0.99, method="higher")) if answered else None,
    )


def recovered(mean: float | None, quality: Sequence[float]) -> float | None:
    """Share of the range between the last level and level 0 that ``mean`` reaches."""
    exact, cheapest = quality[0], quality[-1]
    return None if mean is None or exact <= cheapest else (mean - cheapest) / (exact - cheapest)
