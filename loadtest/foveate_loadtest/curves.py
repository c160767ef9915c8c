"""Data for the plots of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from foveate_loadtest.report import Report
from foveate_loadtest.rows import Outcome, Rows

__all__ = ["curves"]

_SHARES = np.linspace(0, 1, 101)  # of the answers, in the curve of their latencies


def curves(report: Report, rows: Rows) -> dict[str, Any]:
    """Columns of its seconds, and the latency within which each percent of the answers came."""
    answered = rows.latency[rows.outcome == Outcome.OK]
    series = report.series
    return {
        "series": {
            "offered": [second.offered for second in series],
            "in_time": [second.in_time for second in series],
            "p99_ms": [_rounded(second.p99_ms) for second in series],
            "level": [_rounded(second.level) for second in series],
        },
        "latency_ms": (
            (1e3 * np.quantile(answered, _SHARES, method="higher")).round(2).tolist()
            if len(answered)
            else []
        ),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
