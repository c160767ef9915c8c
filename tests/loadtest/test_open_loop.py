"""The client's clock: nothing a server does may change when requests are sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from foveate_loadtest.arrivals import Schedule, constant
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.errors import SenderError, TargetError
from foveate_loadtest.ladder import LadderFacts
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.run import LoadtestConfig, run

StartFake = Callable[..., str]

LADDER = LadderFacts(names=("dense", "tiny"), quality=(0.98, 0.90), cheapest=1)
RATE, SECONDS = 100.0, 1.0


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[Report, Rows]]:
    """Send 100 requests/s for a second; returns the report and its rows."""

    def play(
        server: str, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> tuple[Report, Rows]:
        schedule = Schedule(
            times=constant(RATE, SECONDS),
            seconds=SECONDS,
            scenario="test",
            seed=0,
            cv2=0.0,
            capacities=None,
        )
        config = LoadtestConfig(
            server=server,
            schedule=schedule,
            slo_ms=200,
            ladder=LADDER,
            images=4,
            timeout=10,
            rows=tmp_path / "rows.npz",
        )
        report = run(config, on_progress)
        return report, Rows.load(tmp_path / "rows.npz")

    return play


def test_a_stalled_server_does_not_stop_the_sends(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    stall = 1.5  # longer than the whole schedule
    progress: list[Progress] = []
    report, rows = play(start_fake(seconds=stall, workers=200), progress.append)
    assert report.max_in_flight == report.requests  # all sent before the first answer
    assert np.median(rows.lag) < 0.1
    assert report.attainment == 0.0
    assert max(tick.in_flight for tick in progress) > RATE / 2


def test_waiting_for_a_queue_counts_from_the_intended_send(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    server = start_fake(seconds=0.02, workers=1)  # half of what is offered
    closed = _closed_loop_latencies(server)
    report, _ = play(server)
    assert report.latency_ms is not None
    # The last of 100 requests waits for 50 others: about 1 s. One caller at a time never sees it.
    assert report.latency_ms.p99 > 500
    assert np.quantile(closed, 0.99) * 1000 < report.latency_ms.p99 / 5


def test_answers_and_rejections_are_told_apart(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    report, rows = play(start_fake(seconds=0.005, workers=20, reject=50))
    assert report.rejected == 50
    assert report.errors == {}
    assert report.messages == {"rejected": "UNAVAILABLE: deadline cannot be met"}
    answered = rows.outcome == Outcome.OK
    assert answered.sum() == report.requests - 50
    assert set(rows.level[answered]) == {1}
    assert set(rows.answer[answered]) == {3}
    assert report.ladder_quality == pytest.approx(0.90)
    assert report.recovered == pytest.approx(0.0)
    assert report.attainment < 0.5  # 50 of 99 were turned away


def test_a_sender_that_cannot_start_says_why(tmp_path: Path) -> None:
    schedule = Schedule(
        times=np.zeros(0), seconds=1.0, scenario="none", seed=0, cv2=0.0, capacities=None
    )
    config = LoadtestConfig(server="127.0.0.1:1", schedule=schedule, slo_ms=200, images=-1)
    with pytest.raises(SenderError, match="Locust ended"):
        run(config)


def test_capacity_is_what_the_server_can_do(start_fake: StartFake) -> None:
    server = start_fake(seconds=0.05, workers=4)  # 80/s at best
    assert 40 < measure_capacity(server, "digits", "dense", seconds=1.0, runs=1) <= 84


def test_capacity_is_not_measured_on_refusals(start_fake: StartFake) -> None:
    server = start_fake(seconds=0.01, workers=4, reject=10_000_000)
    with pytest.raises(TargetError, match="refused"):
        measure_capacity(server, "digits", "dense", seconds=0.5, runs=1)


def _closed_loop_latencies(server: str) -> list[float]:
    """What a client sees that waits for each answer before it sends again."""
    latencies = []
    with grpc.insecure_channel(server) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(20):
            start = time.perf_counter()
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="digits"))
            latencies.append(time.perf_counter() - start)
    return latencies
