"""One run on the real server, and what is kept of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np

from foveate_benchmarks.control.answers import (
    cycle,
    dearer_moves,
    goodput,
    level_changes,
    mostly_exact_again,
)
from foveate_benchmarks.control.traces import Steps, Trace
from foveate_benchmarks.results import SLO_MS
from foveate_loadtest.adapter_client import Adapter
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.bench.host import Host, metric, wait_until_idle
from foveate_loadtest.environment import environment
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.stage import Stage, row

__all__ = ["Player", "Policy", "Run"]

WINDOW_S = 10.0  # of goodput
POLL_S = 5.0  # the adapter remembers 256 decisions, and makes 20 a second at most


class Policy(StrEnum):
    ADAPTIVE = "adaptive"
    EXACT = "fixed-exact"
    CHEAPEST = "fixed-cheapest"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trace under a policy; ``part`` is the first that asks for it."""

    part: str
    trace: Trace | Steps
    policy: Policy
    admission: bool = True
    take: int = 1  # of the same once more

    @property
    def key(self) -> str:
        admission = "" if self.admission else " without admission"
        take = "" if self.take == 1 else f", take {self.take}"
        return f"{self.part}: {self.trace.key}, {self.policy}{admission}{take}"


class Player(Host):
    """Plays runs, on a server that is started for the first and kept while its options fit."""

    def play(self, run: Run, schedule: Schedule, seconds: float) -> dict[str, Any]:
        """What is kept of the run; ``seconds`` of a usual run."""
        stage = self.stage(run.admission)
        pins = {Policy.ADAPTIVE: None, Policy.EXACT: 0, Policy.CHEAPEST: stage.ladder.cheapest}
        rejections = metric(stage, "foveate_rejections_total")
        with _watching(stage) as decisions:
            report, rows = stage.play(schedule, pins[run.policy])
        wait_until_idle(stage)
        facts = {
            **row(report),
            "seconds": schedule.seconds,
            "commit": environment()["commit"],
            "rejections_counted": metric(stage, "foveate_rejections_total") - rejections,
            "rejection_p99_ms": report.rejection_ms and report.rejection_ms.p99,
            "goodput": report.goodput,
            "goodput_10s": goodput(rows, SLO_MS / 1e3, schedule.seconds, WINDOW_S),
            "level_changes": level_changes(rows),
            "dearer_moves_1s": dearer_moves(rows, 1.0),
            "dearer_moves_5s": dearer_moves(rows, 5.0),
            # With those of the return to calm when the run is over, three or four.
            "dearer_ranges": dearer_ranges(decisions) if run.policy is Policy.ADAPTIVE else None,
            "cycle": cycle(rows),
        }
        if isinstance(run.trace, Steps):
            facts["bursts"] = list(_bursts(rows, run.trace, seconds))
        return facts


@contextlib.contextmanager
def _watching(stage: Stage) -> Iterator[list[dict[str, Any]]]:
    """The adapter's decisions from now to the end of the context, when all are there."""
    ended = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = ended.wait(POLL_S)
            since = decisions[-1]["time"] if decisions else None
            decisions.extend(reversed(adapter.decisions(since=since, limit=256)))

    with Adapter(str(stage.server.adapter), stage.model) as adapter, ThreadPoolExecutor(1) as pool:
        decisions = adapter.decisions(limit=1)
        polling = pool.submit(poll)
        try:
            yield decisions
        finally:
            ended.set()
        polling.result()


def dearer_ranges(decisions: Sequence[Mapping[str, Any]]) -> int:
    """Moves of the allowed range towards dearer levels."""
    ranges = [(seen["dearest"], seen["cheapest"]) for seen in decisions]
    return sum(b[0] < a[0] or b[1] < a[1] for a, b in pairwise(ranges))


def _bursts(rows: Rows, trace: Steps, seconds: float) -> Iterator[dict[str, float | None]]:
    """Misses of each burst with its calm, and when level 0 was back after it."""
    missed = (rows.outcome != Outcome.OK) | (rows.latency > SLO_MS / 1e3)
    for start in trace.starts(seconds):
        end = start + trace.burst_s
        until = end + trace.calm_s
        here = (rows.intended >= start) & (rows.intended < until)
        yield {
            "missed": int(np.count_nonzero(missed & here)),
            "mostly_level_0_again_s": mostly_exact_again(rows, end, until),
        }
