"""The largest batch to serve, from measured times.

In a larger batch an image takes less work, but longer. One that arrives when a batch has just
started waits for that and then takes its own. At the cheapest level, where all are in a hurry,
these two may take half of the SLO; the other half is for whatever else delays a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from foveate.inference.engine import batch_sizes
from foveate.levels.latency_table import LatencyTable

__all__ = ["GPU_SIZES", "SIZES", "MaxBatch", "batch_ms", "choose_max_batch"]

SIZES = batch_sizes(32)  # to choose from
GPU_SIZES = batch_sizes(64)  # a GPU is not full before
_SHARE = 1 / 4  # of the SLO


@dataclass(frozen=True)
class MaxBatch:
    """Images of the largest batch, and why so many."""

    images: int
    reason: str


def choose_max_batch(table: LatencyTable, slo_ms: float) -> MaxBatch:
    """The largest measured size that takes at most a quarter of the SLO; 1 if there is none."""
    most = _SHARE * slo_ms
    chosen = max((size for size in table.batches if batch_ms(table, size) <= most), default=1)
    larger = [size for size in table.batches if size > chosen][:1]
    times = "".join(f", one of {size} {batch_ms(table, size):.1f} ms" for size in larger)
    return MaxBatch(
        chosen,
        f"at the cheapest level a batch of {chosen} takes {batch_ms(table, chosen):.1f} ms{times}; "
        f"a quarter of the SLO is {most:g} ms",
    )


def batch_ms(table: LatencyTable, batch: int) -> float:
    """Time of a batch at the level that is cheapest for it."""
    return 1e3 * min(table.batch_seconds(level, batch) for level in range(len(table.seconds)))
