"""The client's clock: nothing a server does may change when requests are sent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from foveate_loadtest.arrivals import Schedule, constant
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.choices import Protocol, Shape
from foveate_loadtest.errors import SenderError, TargetError
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.rows import INTERRUPTED, Outcome, Rows
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.shapes import shape_schedule

StartFake = Callable[..., str]
Start = Callable[..., subprocess.Popen[bytes]]

LADDER = LadderFacts(names=("dense", "tiny"), quality=(0.98, 0.90), cheapest=1)
RATE, SECONDS = 100.0, 1.0
CALLERS = 4


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[Report, Rows]]:
    """Send 100 requests/s, for a second by default; returns the report and its rows."""

    def play(
        server: str,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        seconds: float = SECONDS,
        max_send_lag_ms: float = 5.0,
    ) -> tuple[Report, Rows]:
        config = LoadtestConfig(
            server=server,
            schedule=_schedule(seconds),
            slo_ms=200,
            ladder=LADDER,
            images=4,
            timeout=10,
            max_send_lag_ms=max_send_lag_ms,
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


def test_a_closed_loop_hides_an_overload_and_ours_does_not(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    service = 0.02  # half of what is offered can be served
    server = start_fake(seconds=service, workers=1)
    closed = 1000 * np.quantile(_closed_loop_latencies(server), 0.99)
    report, _ = play(server)
    truth = 1000 * np.quantile(_queueing_latencies(constant(RATE, SECONDS), service), 0.99)
    assert report.latency_ms is not None
    assert report.latency_ms.p99 >= 0.95 * truth  # the server is never quicker than its time
    assert closed <= report.latency_ms.p99 / 2


def test_a_client_that_cannot_keep_up_reports_no_result(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    report, _ = play(start_fake(seconds=0.0, workers=4), max_send_lag_ms=0.0)
    assert report.problem is not None
    assert "the client was late" in report.problem
    assert json.loads(report.to_json())["problem"] == report.problem


def test_an_interrupted_run_reports_what_was_sent(
    start_fake: StartFake, play: Callable[..., tuple[Report, Rows]]
) -> None:
    waiting = [KeyboardInterrupt]

    def interrupt(progress: Progress) -> None:
        if waiting and progress.seconds > 0.5:
            raise waiting.pop()

    report, rows = play(start_fake(seconds=0.01, workers=8), interrupt, seconds=30.0)
    assert report.interrupted
    assert report.messages["interrupted"].startswith("interrupted")
    assert 0 < report.requests < RATE * 15
    assert report.requests == np.count_nonzero(~np.isnan(rows.sent))
    assert report.seconds < 15
    assert report.offered_rate == pytest.approx(RATE, rel=0.2)
    assert report.served_rate > 0
    assert report.errors == {}  # what was in flight was still waited for


@pytest.mark.parametrize("fault", ["never there", "dies", "freezes"])
def test_a_dead_server_is_reported_within_five_seconds(
    start_fake: StartFake,
    fakes: list[grpc.Server],
    play: Callable[..., tuple[Report, Rows]],
    fault: str,
) -> None:
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{frozen.getsockname()[1]}"
        if fault == "freezes":
            frozen.listen()  # and never accepts
        elif fault == "dies":
            address = start_fake(seconds=0.01, workers=8)
        at = 0.0

        def kill(progress: Progress) -> None:
            nonlocal at
            if fault == "dies" and not at and progress.seconds > 0.5:
                at = progress.seconds
                fakes[0].stop(None)

        report, _ = play(address, kill, seconds=30.0)
    assert report.problem is not None
    assert "the server is dead" in report.problem
    stopped = float(report.problem.split(", ")[-1].split()[0])
    assert stopped - at <= 5.0


@pytest.mark.parametrize("frozen", [False, True])
def test_a_dead_http_server_is_reported(tmp_path: Path, frozen: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if frozen:
            server.listen()  # and never accepts
        config = LoadtestConfig(
            server=f"127.0.0.1:{server.getsockname()[1]}",
            schedule=_schedule(30.0),
            slo_ms=200,
            protocol=Protocol.HTTP,
            images=4,
            timeout=1,  # shorter than the silence of a dead server
        )
        report = run(config)
    assert "the server is dead" in str(report.problem)
    assert report.rejected == 0


def test_what_a_run_writes_has_its_folders_and_its_wishes_their_seed(
    start_fake: StartFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        commands.append(command)
        return popen(command, **options)

    monkeypatch.setattr("foveate_loadtest.run.subprocess.Popen", spy)
    config = LoadtestConfig(
        server=f"http://{start_fake(seconds=0.0, workers=4)}",  # as Locust's users write it
        schedule=replace(_schedule(0.5), seed=7),
        slo_ms=200,
        images=4,
        rows=tmp_path / "a" / "rows.csv",
        page=tmp_path / "b" / "page.html",
    )
    report = run(config)
    assert report.errors == {}
    assert config.rows.exists()
    assert config.page.exists()
    assert "--wish-seed=7" in commands[0]


def test_a_run_that_nobody_follows_stops(
    start_fake: StartFake, tmp_path: Path, locust: Start
) -> None:
    _schedule(60.0).save(tmp_path / "arrivals.json")
    reader, writer = os.pipe()
    process = locust(
        "--headless",
        f"--host={start_fake(seconds=0.0, workers=4)}",
        "--max-send-lag-ms=10000",
        f"--rows={tmp_path / 'rows.npz'}",
        f"--live-fd={writer}",
        pass_fds=(writer,),
    )
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    assert process.wait(30) == 0
    sent = Rows.load(tmp_path / "rows.npz")
    assert "the process that started it is gone" in sent.messages[INTERRUPTED]
    assert len(sent.played().sent) < len(sent.sent)


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
    with pytest.raises(SenderError, match="Locust exited"):
        run(config)


def test_capacity_is_what_the_server_can_do(start_fake: StartFake) -> None:
    server = start_fake(seconds=0.05, workers=4)  # 80/s at best
    assert 40 < measure_capacity(server, "digits", "dense", seconds=1.0, runs=1) <= 84


def test_capacity_is_not_measured_on_refusals(start_fake: StartFake) -> None:
    server = start_fake(seconds=0.01, workers=4, reject=10_000_000)
    with pytest.raises(TargetError, match="rejected"):
        measure_capacity(server, "digits", "dense", seconds=0.5, runs=1)


def _schedule(seconds: float) -> Schedule:
    return shape_schedule(Shape.STEADY, RATE, seconds, cv2=0.0)


def _closed_loop_latencies(server: str) -> list[float]:
    """What clients see that wait for each answer before they send again, and aim at RATE."""
    with grpc.insecure_channel(server) as channel, ThreadPoolExecutor(CALLERS) as pool:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def call(_: int) -> list[float]:
            latencies = []
            end = time.perf_counter() + SECONDS
            while (start := time.perf_counter()) < end:
                stub.ModelInfer(service_pb2.ModelInferRequest(model_name="digits"))
                latencies.append(time.perf_counter() - start)
                time.sleep(max(0.0, CALLERS / RATE - latencies[-1]))
            return latencies

        return [latency for found in pool.map(call, range(CALLERS)) for latency in found]


def _queueing_latencies(times: np.ndarray, service: float) -> np.ndarray:
    """Lindley's recursion: a queue with one server that takes ``service`` seconds for each."""
    done, latencies = 0.0, []
    for arrived in times:
        done = max(done, arrived) + service
        latencies.append(done - arrived)
    return np.array(latencies)
