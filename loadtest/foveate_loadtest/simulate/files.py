"""What a simulation is made from: arrival files and measured latency tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from foveate.errors import LadderError
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.errors import ScheduleError
from foveate_loadtest.rows import Rows

__all__ = ["load_arrivals", "load_table"]


def load_arrivals(path: Path) -> list[float]:
    """Arrival times, ascending seconds, of what ``foveate loadtest`` writes.

    That is an arrival file (``.json``) or the rows of a run (``.npz``, ``.csv``), whose intended
    times are the arrivals. Raises :class:`ScheduleError` naming the file.
    """
    try:
        if path.suffix == ".npz":
            times = Rows.load(path).intended
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                times = np.array([row["intended"] for row in csv.DictReader(file)], np.float64)
        else:
            times = Schedule.load(path).times
    except KeyError as error:
        raise ScheduleError(f"{path}: column {error} is missing") from error
    except (OSError, TypeError, ValueError) as error:
        raise ScheduleError(f"{path}: {error}") from error
    if not len(times):
        raise ScheduleError(f"{path}: no arrivals")
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise ScheduleError(f"{path}: times must ascend from 0 or later")
    return [float(time) for time in times]


def load_table(path: Path | None, ladder: Ladder, state_dir: Path) -> LatencyTable:
    """The table in ``path``, by default the last one measured for ``ladder`` on this machine.

    Raises :class:`LadderError` if there is none, or it is of another ladder.
    """
    if path is None:
        folder = state_dir / ladder.model
        tables = sorted(folder.glob("latency-*.json"), key=lambda file: file.stat().st_mtime)
        known = [table for file in tables if _fits(table := LatencyTable.load(file), ladder)]
        if not known:
            raise LadderError(
                f"{folder}: no latency table for this ladder; serve the model once, or pass one "
                "with --latency"
            )
        return known[-1]
    table = LatencyTable.load(path)
    if not _fits(table, ladder):
        raise LadderError(f"{path}: ladder={table.ladder!r}, {ladder.model!r} is {ladder.digest!r}")
    return table


def _fits(table: LatencyTable, ladder: Ladder) -> bool:
    return table.ladder == ladder.digest and len(table.seconds) == len(ladder.levels)
