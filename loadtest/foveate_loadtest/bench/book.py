"""The file of results: what has been run, and what it was defined by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foveate.atomic_file import replacing
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.errors import ResultsError

__all__ = ["Book", "Played"]


class Arrivals(Protocol):
    """What makes a schedule of capacities; ``key`` names it."""

    @property
    def key(self) -> str: ...

    def schedule(self, capacities: Sequence[float], seconds: float) -> Schedule: ...


class Played(Protocol):
    """A run: arrivals under a policy. ``key`` tells it from all others."""

    @property
    def key(self) -> str: ...

    @property
    def trace(self) -> Arrivals: ...


R = TypeVar("R", bound=Played)


class Book:
    """Saved after every change."""

    def __init__(
        self,
        path: Path,
        ladder: Ladder,
        seconds: float,
        slo_ms: float,
        environment: Mapping[str, Any],
        fresh: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """``seconds`` of a usual run; ``more`` are inputs, too.

        Raises :class:`ResultsError` if the file is of other inputs.
        """
        self._path, self.ladder, self.seconds, self.slo_ms = path, ladder, seconds, slo_ms
        inputs = {"ladder": ladder.digest, "slo_ms": slo_ms, "seconds": seconds, **(more or {})}
        self.data: dict[str, Any] = {
            "environment": dict(environment),
            **inputs,
            "table": None,
            "levels": None,
            "speeds": {},
            "runs": {},
            "bounds": {},
        }
        if path.exists() and not fresh:
            self.data = json.loads(path.read_text())
            for key, value in inputs.items():
                if self.data.get(key) != value:
                    raise ResultsError(
                        f"{path}: {key}={self.data.get(key)!r}, but this run has {value!r}: choose "
                        "another results folder, or start over with --fresh"
                    )

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as scratch:
            scratch.write_text(json.dumps(self.data, indent=1) + "\n")

    @property
    def measured(self) -> bool:
        """Are the capacities known?"""
        return self.data["levels"] is not None

    def measure(self, table: LatencyTable, levels: list[dict[str, Any]]) -> None:
        """Capacities, and the table the server was planning with."""
        self.data["table"], self.data["levels"] = asdict(table), levels
        self.save()

    @property
    def table(self) -> LatencyTable:
        saved = self.data["table"]
        return LatencyTable(
            **{
                **saved,
                "batches": tuple(saved["batches"]),
                "seconds": tuple(map(tuple, saved["seconds"])),
            }
        )

    def column(self, name: str) -> list[Any]:
        """Of the levels, dearest first: index, level, quality or capacity."""
        return [level[name] for level in self.data["levels"]]

    def speed(self, run: Played) -> float:
        """Of the machine when the trace was first played, over that of the first measurement."""
        return float(self.data["speeds"].get(run.trace.key, 1.0))

    def capacities(self, run: Played) -> list[float]:
        """Of the levels, as the trace found them."""
        return [self.speed(run) * capacity for capacity in self.column("capacity")]

    def meet(self, run: Played, capacity: float) -> None:
        """Define the load of a trace by what the cheapest level carries now."""
        self.data["speeds"][run.trace.key] = capacity / self.column("capacity")[-1]
        self.save()

    def met(self, run: Played) -> bool:
        return run.trace.key in self.data["speeds"]

    def schedule(self, run: Played) -> Schedule:
        return run.trace.schedule(self.capacities(run), self.seconds)

    def put(self, run: Played, facts: dict[str, Any]) -> None:
        self.data["runs"][run.key] = facts
        self.save()

    def __getitem__(self, run: Played) -> dict[str, Any]:
        facts: dict[str, Any] = self.data["runs"][run.key]
        return facts

    def start(self, group: Sequence[R]) -> Sequence[R]:
        """The runs to play, of those of one trace that are held against each other: all or none.

        Machines change by the hour. If a run is missing or invalid, all that was played of these
        arrivals is forgotten.
        """
        if self.whole(group):
            return ()
        runs = self.data["runs"]
        stale = {runs[run.key]["arrivals_sha256"] for run in group if run.key in runs}
        self.data["runs"] = {
            key: facts for key, facts in runs.items() if facts["arrivals_sha256"] not in stale
        }
        for run in group:
            self.data["speeds"].pop(run.trace.key, None)
        self.save()
        return group

    def whole(self, group: Sequence[R]) -> bool:
        """Were all played, and validly?"""
        return not self.missing(group) and all(self[run]["problem"] is None for run in group)

    def missing(self, runs: Iterable[R]) -> list[R]:
        """Those that were never played, or with other arrivals."""
        known = self.data["runs"]
        return [
            run
            for run in runs
            if run.key not in known
            or known[run.key]["arrivals_sha256"] != self.schedule(run).sha256
        ]
