"""What the rows of a run say about levels and goodput over time. Pure; times in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foveate_loadtest.rows import Outcome, Rows

__all__ = ["cycle", "dearer_moves", "goodput", "in_order", "level_changes", "mostly_exact_again"]

_MOSTLY_S = 0.5  # length of the window in which most answers must be exact
_LAGS_S = (2, 60)  # of a limit cycle

Numbers = NDArray[np.float64]


def in_order(rows: Rows) -> tuple[Numbers, NDArray[np.int16], Numbers]:
    """Times, levels and intended sends of the answers, in order of completion."""
    ok = np.flatnonzero(rows.outcome == Outcome.OK)
    ok = ok[np.argsort(rows.done[ok], kind="stable")]
    return rows.done[ok], rows.level[ok], rows.intended[ok]


def level_changes(rows: Rows) -> int:
    """Successive answers at different levels."""
    _, level, _ = in_order(rows)
    return int(np.count_nonzero(np.diff(level)))


def mostly_exact_again(rows: Rows, since: float, until: float) -> float | None:
    """Seconds after ``since`` from which half a second of answers is mostly of level 0.

    None if that is not so before ``until``.
    """
    done, level, _ = in_order(rows)
    for start in np.arange(since, until, 0.1):
        window = level[(done >= start) & (done < start + _MOSTLY_S)]
        if len(window) and (window == 0).mean() > 0.5:
            return float(start - since)
    return None


def per_window(rows: Rows, window: float) -> list[NDArray[np.int16]]:
    """Levels of the answers completed in each window of the run; a window may be empty."""
    done, level, _ = in_order(rows)
    if not len(done):
        return []
    edges = np.arange(window, done[-1], window)
    return np.split(level, np.searchsorted(done, edges))


def dearer_moves(rows: Rows, window: float) -> int:
    """Moves of the most frequent level of windows towards a dearer one."""
    majority = [
        int(np.bincount(levels).argmax()) for levels in per_window(rows, window) if len(levels)
    ]
    return int(np.count_nonzero(np.diff(majority) < 0))


def cycle(rows: Rows) -> float:
    """Highest autocorrelation of the mean level of each second, at lags of 2 to 60 seconds.

    0 where the level never changes. A second without answers has the level of the one before.
    """
    means: list[float] = []
    for levels in per_window(rows, 1.0):
        means.append(float(levels.mean()) if len(levels) else means[-1] if means else 0.0)
    series = np.array(means) - np.mean(means)
    power = float(series @ series)
    first, last = _LAGS_S
    lags = range(first, min(last, len(series) // 2) + 1)
    if power == 0 or not lags:
        return 0.0
    return max(float(series[lag:] @ series[:-lag]) / power for lag in lags)


def goodput(rows: Rows, slo: float, seconds: float, window: float) -> list[float]:
    """Answers in time per second, in each whole window of the run's ``seconds``."""
    in_time = (rows.outcome == Outcome.OK) & (rows.latency <= slo)
    edges = np.arange(0, seconds + window / 2, window)
    counts, _ = np.histogram(rows.done[in_time], edges)
    return [float(count) / window for count in counts]
