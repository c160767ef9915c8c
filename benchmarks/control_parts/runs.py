"""One run on the real server, and what is kept of it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from answers import cycle, dearer_moves, goodput, level_changes, mostly_exact_again
from control_parts.traces import Steps, Trace
from foveate.local import running
from foveate_loadtest.adapter import Adapter
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.rows import Outcome, Rows
from results import environment
from stage import SLO_MS, Stage, row

__all__ = ["Player", "Policy", "Run"]

WINDOW_S = 10.0  # of goodput
POLL_S = 5.0  # the adapter remembers 256 decisions, and makes 20 a second at most
IDLE_S = 300.0  # a queue without admission may hold minutes of work


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


class Player:
    """Plays runs, on a server that is started for the first and kept while its options fit."""

    def __init__(self, repository: Path, model: str, core: int) -> None:
        self._repository, self._model, self._core = repository, model, core
        self._open = contextlib.ExitStack()
        self._stage: Stage | None = None
        self._admission = True

    def close(self) -> None:
        self._open.close()

    def capacities(self) -> list[dict[str, Any]]:
        """Each level down to the cheapest: what it carries, in requests per second."""
        stage = self._started(admission=True)
        ladder = stage.ladder
        return [
            {
                "index": index,
                "level": ladder.names[index],
                "quality": ladder.quality[index],
                **_throughput(stage, ladder.names[index]),
            }
            for index in range(ladder.cheapest + 1)
        ]

    def capacity(self, admission: bool) -> float:
        """What the cheapest level carries now, in requests per second."""
        stage = self._started(admission)
        cheapest = stage.ladder.names[stage.ladder.cheapest]
        return measure_capacity(stage.server.grpc, stage.model, cheapest, 2.0, runs=2)

    def play(self, run: Run, schedule: Schedule, seconds: float) -> dict[str, Any]:
        """What is kept of the run; ``seconds`` of a usual run."""
        stage = self._started(run.admission)
        pins = {Policy.ADAPTIVE: None, Policy.EXACT: 0, Policy.CHEAPEST: stage.ladder.cheapest}
        rejections = _metric(stage, "foveate_rejections_total")
        with _watching(stage) as decisions:
            report, rows = stage.play(schedule, pins[run.policy])
        _wait_until_idle(stage)
        facts = {
            **row(report),
            "seconds": schedule.seconds,
            "commit": environment()["commit"],
            "rejections_counted": _metric(stage, "foveate_rejections_total") - rejections,
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

    def _started(self, admission: bool) -> Stage:
        if self._stage is None or self._admission != admission:
            self._open.close()
            options = [] if admission else ["--no-admission"]
            server = self._open.enter_context(
                running(
                    self._repository,
                    "--no-pin-cap",
                    f"--slo-ms={SLO_MS:g}",
                    *options,
                    core=self._core,
                )
            )
            self._stage, self._admission = Stage(server, self._model), admission
        return self._stage


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


def _throughput(stage: Stage, level: str) -> dict[str, float]:
    """Best of three closed loops, with the mean batch time by the model's own clock."""
    names = ("foveate_batches_total", "foveate_batch_seconds_total")
    runs = []
    for _ in range(3):
        before = [_metric(stage, name) for name in names]
        capacity = measure_capacity(stage.server.grpc, stage.model, level, runs=1)
        batches, seconds = (
            _metric(stage, name) - old for name, old in zip(names, before, strict=True)
        )
        runs.append({"capacity": capacity, "batch_s": seconds / batches})
    return max(runs, key=lambda run: run["capacity"])


def _metric(stage: Stage, name: str) -> float:
    """Sum of a metric of the model, once the model process has published all it knows."""
    time.sleep(0.5)
    text = httpx.get(stage.server.metrics, trust_env=False).text
    found: Sequence[str] = re.findall(
        rf'^{name}{{(?:.*,)?model="{re.escape(stage.model)}".*}} (\S+)', text, re.M
    )
    return sum(map(float, found))


def _wait_until_idle(stage: Stage) -> None:
    """Requests the client has given up may still be waiting."""
    end = time.monotonic() + IDLE_S
    while waiting := _metric(stage, "nv_inference_pending_request_count"):
        if time.monotonic() > end:
            raise TimeoutError(f"{waiting:.0f} requests are waiting after {IDLE_S:g} s")
