"""A server and its adapter, ready to be loaded; what a run on it was worth."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from foveate.local import Addresses
from foveate_loadtest.adapter import Adapter
from foveate_loadtest.arrivals import Capacities, Schedule
from foveate_loadtest.capacity import measure_capacities
from foveate_loadtest.ladder import LadderFacts
from foveate_loadtest.report import Report
from foveate_loadtest.rows import Rows
from foveate_loadtest.run import LoadtestConfig, run

__all__ = ["SLO_MS", "Stage", "row"]

SLO_MS = 200.0


class Stage:
    """One model of a running server."""

    def __init__(self, server: Addresses, model: str) -> None:
        self.server, self.model = server, model
        self.adapter = Adapter(str(server.adapter), model)
        self.ladder = LadderFacts.from_adapter(self.adapter.view())

    def capacities(self) -> Capacities:
        return measure_capacities(self.server.grpc, self.model, self.ladder)

    def play(self, schedule: Schedule, pin: int | None) -> tuple[Report, Rows]:
        """Send the schedule, served at level ``pin``, or adaptively for None."""
        if pin is not None:
            self.adapter.pin(self.ladder.names[pin])
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "rows.npz"
            report = run(
                LoadtestConfig(
                    server=self.server.grpc,
                    schedule=schedule,
                    slo_ms=SLO_MS,
                    model=self.model,
                    ladder=self.ladder,
                    rows=path,
                )
            )
            rows = Rows.load(path)
        if pin is not None:
            self.adapter.unpin()
        time.sleep(3.0)  # the queue is empty: the run waited for every answer
        return report, rows


def row(report: Report) -> dict[str, object]:
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
