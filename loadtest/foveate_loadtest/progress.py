"""Progress of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate_loadtest.rows import Outcome, Rows

__all__ = ["Progress", "measure", "together"]

_WINDOW = 1.0  # seconds that count as "now"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Rates and latency are over the last second, the rest since the start."""

    seconds: float
    offered: float  # requests/s that should have been sent
    served: float  # answers/s
    p99_ms: float | None  # of the answers; None without any
    attainment: float | None  # of the requests that ended or are already late
    rejected: int
    in_flight: int
    level: int | None  # of the newest answer


def measure(rows: Rows, now: float, slo: float) -> Progress:
    """The progress at ``now``; ``now`` and ``slo`` in seconds."""
    ok = rows.outcome == Outcome.OK
    recent = ok & (rows.done > now - _WINDOW)
    window = min(max(now, 0.1), _WINDOW)
    ended = ~np.isnan(rows.done)
    judged = ended | (rows.intended < now - slo)
    due = rows.intended <= now
    newest = int(np.argmax(np.where(ok, rows.done, -np.inf))) if ok.any() else None
    return Progress(
        seconds=now,
        offered=float((due & (rows.intended > now - _WINDOW)).sum() / window),
        served=float(recent.sum() / window),
        p99_ms=_p99(rows.latency[recent]),
        attainment=(
            float((ok & (rows.latency <= slo)).sum() / judged.sum()) if judged.any() else None
        ),
        rejected=int((rows.outcome == Outcome.REJECTED).sum()),
        in_flight=int((~np.isnan(rows.sent) & ~ended).sum()),
        level=None if newest is None else int(rows.level[newest]),
    )


def together(parts: Sequence[Progress]) -> Progress:
    """Combined progress of workers with equal shares; the p99 is the worst worker's."""
    attained = [part.attainment for part in parts if part.attainment is not None]
    return Progress(
        seconds=max(part.seconds for part in parts),
        offered=sum(part.offered for part in parts),
        served=sum(part.served for part in parts),
        p99_ms=max((part.p99_ms for part in parts if part.p99_ms is not None), default=None),
        attainment=sum(attained) / len(attained) if attained else None,
        rejected=sum(part.rejected for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        level=parts[-1].level,
    )


def _p99(latency: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float | None:
    return float(np.quantile(latency, 0.99) * 1000) if len(latency) else None
