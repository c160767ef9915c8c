"""A simulated server like a real one, from what the real one does when every batch is full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from foveate.levels.latency_table import LatencyTable
from foveate_loadtest.simulate.server import Server

__all__ = ["Throughput", "fit"]


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One level in a closed loop that keeps the queue full."""

    capacity: float  # answers per second
    batch_s: float  # mean time of a batch, as the model process measures it


def fit(table: LatencyTable, measured: Mapping[int, Throughput]) -> Server:
    """The server that explains the throughput ``measured`` at levels, best at two or more.

    A table is measured by a model that has the device to itself. Beside a server's front end a
    full batch takes ``slowdown`` times as long, and ``within_s`` more, by the model's own clock;
    ``overhead_s`` is the rest of the time from one batch to the next. Least squares of the errors
    as shares of that time, none of the three below zero.
    """
    batch = table.batches[-1]
    rows: list[tuple[float, float, float]] = []
    values: list[float] = []
    for level, seen in measured.items():
        weight = seen.capacity / batch
        rows.append((weight * table.batch_seconds(level, batch), weight, 0.0))
        rows.append((0.0, 0.0, weight))
        values += [weight * seen.batch_s, 1.0 - weight * seen.batch_s]
    (slowdown, within, overhead), _ = nnls(np.array(rows), np.array(values))
    return Server(slowdown=float(slowdown), within_s=float(within), overhead_s=float(overhead))
