"""A server and its adapter, ready to be loaded; what a run on it was worth."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foveate_loadtest.adapter_client import Adapter
from foveate_loadtest.arrivals import Capacities, Schedule
from foveate_loadtest.capacity import measure_capacities
from foveate_loadtest.choices import DIGITS, Target
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.rows import Rows
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.temporary_server import Addresses

__all__ = ["Stage", "row"]

_SETTLE_S = 3.0  # for the level; the queue is empty, as a run waits for every answer


class Stage:
    """One model of a running server."""

    def __init__(
        self,
        server: Addresses,
        model: str,
        image_set: str = DIGITS,
        target: Target = Target.PIXELS,
    ) -> None:
        """``image_set`` see :func:`load_images`, which ``target`` takes."""
        self.server, self.model = server, model
        self.image_set, self.target = image_set, target
        self.adapter = Adapter(str(server.adapter), model)
        view = self.adapter.view()
        self.ladder = LadderFacts.from_adapter(view)
        self.slo_ms = float(view["slo"]["latency_ms"])

    def capacities(self) -> Capacities:
        return measure_capacities(
            self.server.grpc, self.model, self.ladder, self.image_set, self.target
        )

    def play(
        self,
        schedule: Schedule,
        pin: int | None,
        *,
        limiter: bool = False,
        images: int = 500,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> tuple[Report, Rows]:
        """Send the schedule, served at level ``pin``, or adaptively for None.

        With ``limiter`` the client limits requests in flight adaptively. Keeps nothing of an
        interrupted run.
        """
        with contextlib.ExitStack() as stack:
            if pin is not None:
                self.adapter.pin(self.ladder.names[pin])
                stack.callback(self.adapter.unpin)
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "rows.npz"
            report = run(
                LoadtestConfig(
                    server=self.server.grpc,
                    schedule=schedule,
                    slo_ms=self.slo_ms,
                    model=self.model,
                    ladder=self.ladder,
                    limiter=limiter,
                    target=self.target,
                    image_set=self.image_set,
                    images=images,
                    rows=path,
                ),
                on_progress,
            )
            rows = Rows.load(path)
        if report.interrupted:
            raise KeyboardInterrupt
        time.sleep(_SETTLE_S)
        return report, rows


def row(report: Report) -> dict[str, Any]:
    """What is kept of a report."""
    return {
        "requests": report.requests,
        "attainment": report.attainment,
        "p50_ms": report.latency_ms and report.latency_ms.p50,
        "p99_ms": report.latency_ms and report.latency_ms.p99,
        "rejected": report.rejected,
        "errors": dict(report.errors),
        "ladder_quality": report.ladder_quality,
        "measured_quality": report.measured_quality,
        "recovered": report.recovered,
        "send_lag_p99_ms": report.send_lag_ms and report.send_lag_ms.p99,
        "levels": {share.name: round(share.answers, 4) for share in report.levels},
        "arrivals_sha256": report.arrivals_sha256,
        "problem": report.problem,
    }
