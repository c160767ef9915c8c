"""Several processes share one schedule, under ``foveate loadtest`` and under plain Locust."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.choices import Shape
from foveate_loadtest.errors import SenderError
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import summarise
from foveate_loadtest.rows import DEAD, Rows
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.temporary_server import free_ports

StartFake = Callable[..., str]
Start = Callable[..., subprocess.Popen[bytes]]

RATE = 50.0
PATIENT = 10_000.0  # ms; how quick this machine is, is not the question here


def _schedule(seconds: float) -> Schedule:
    return shape_schedule(Shape.STEADY, RATE, seconds, cv2=0.0)


def _config(server: str, seconds: float, rows: Path, **others: object) -> LoadtestConfig:
    options = {"images": 4, "timeout": 10, "max_send_lag_ms": PATIENT, "workers": 2, **others}
    return LoadtestConfig(
        server=server, schedule=_schedule(seconds), slo_ms=PATIENT, rows=rows, **options
    )


def test_two_workers_send_what_one_would(start_fake: StartFake, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = _config(start_fake(seconds=0.01, workers=8), 2.0, tmp_path / "rows.npz")
    report = run(config, seen.append)
    assert report.problem is None
    assert report.attainment == 1.0
    assert not report.interrupted
    rows = Rows.load(tmp_path / "rows.npz")
    assert np.array_equal(rows.intended, config.schedule.times)
    assert np.array_equal(rows.worker, np.arange(len(rows.worker)) % 2)
    assert np.array_equal(rows.label[4:], rows.label[:-4])  # images in turn, by all
    assert (rows.sent >= rows.intended).all()
    assert any(progress.served > RATE / 2 + 5 for progress in seen), "both are told of"


def test_a_late_worker_is_not_hidden_by_the_others() -> None:
    parts = []
    for worker, lag in enumerate([0.0, 0.0, 0.0, 0.1]):
        times = (np.arange(1000) * 4 + worker) / 1000
        part = Rows.blank(times, np.zeros(1000, np.int16), worker)
        part.sent[:] = times
        part.sent[:20] += lag  # 2 % of one worker's, 0.5 % of all
        parts.append(part)
    for late, chosen in ((False, parts[:3]), (True, parts)):
        report = summarise(Rows.merged(chosen), _schedule(4.0), PATIENT, None, 5.0, {})
        assert (report.problem is not None) == late
    assert report.send_lag_ms is not None
    assert report.send_lag_ms.p99 == pytest.approx(100.0)


def test_an_interruption_leaves_the_rows_of_all_workers(
    start_fake: StartFake, tmp_path: Path
) -> None:
    waiting = [KeyboardInterrupt]

    def interrupt(progress: Progress) -> None:
        if waiting and progress.seconds > 0.5:
            raise waiting.pop()

    config = _config(start_fake(seconds=0.01, workers=8), 30.0, tmp_path / "rows.npz")
    report = run(config, interrupt)
    assert report.interrupted
    assert report.problem is None
    assert report.errors == {}  # what was in flight was still waited for
    rows = Rows.load(tmp_path / "rows.npz").played()
    assert set(rows.worker) == {0, 1}
    assert report.requests == len(rows.sent) < RATE * 15


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    config = _config("127.0.0.1:1", 1.0, tmp_path / "rows.npz", image_set=str(tmp_path / "nothing"))
    with pytest.raises(SenderError, match=r"worker .* failed: ScheduleError.*nothing"):
        run(config)


def test_the_web_ui_stays_for_another_run_until_a_worker_is_lost(
    start_fake: StartFake, locust: Start, tmp_path: Path
) -> None:
    rpc, web = free_ports(2)
    rows = tmp_path / "rows.npz"
    _schedule(1.0).save(tmp_path / "arrivals.json")
    locust(
        "--master",
        "--master-bind-host=127.0.0.1",
        f"--master-bind-port={rpc}",
        "--web-host=127.0.0.1",
        f"--web-port={web}",
        f"--host={start_fake(seconds=0.01, workers=8)}",
        f"--max-send-lag-ms={PATIENT}",
        f"--rows={rows}",
    )
    workers = [locust("--worker", f"--master-port={rpc}") for _ in range(2)]
    url = f"http://127.0.0.1:{web}"
    transport = httpx.HTTPTransport(retries=10)  # while it starts
    with httpx.Client(base_url=url, transport=transport, timeout=60, trust_env=False) as ui:

        def ready(count: int) -> bool:
            stats = ui.get("/stats/requests").json()
            states = [worker["state"] for worker in stats.get("workers", [])]
            return states == ["ready"] * count and stats["state"] in ("ready", "stopped")

        def sending() -> bool:
            stats = ui.get("/stats/requests").json()
            return stats["state"] == "running" and stats["stats"][0]["num_requests"] > 0

        for _ in range(2):
            _wait(lambda: ready(2))
            rows.unlink(missing_ok=True)
            ui.post("/swarm", data={"user_count": 2, "spawn_rate": 2}).raise_for_status()
            _wait(rows.exists)
            _wait(lambda: ready(2))
            sent = Rows.load(rows)
            assert np.array_equal(sent.worker, np.arange(len(sent.worker)) % 2)
            assert np.isfinite(sent.done).all()
            assert sent.messages == {}
        rows.unlink()
        _schedule(60.0).save(tmp_path / "arrivals.json")
        ui.post("/swarm", data={"user_count": 2, "spawn_rate": 2}).raise_for_status()
        _wait(sending)
        workers[0].kill()
        _wait(rows.exists)
        sent = Rows.load(rows)
        assert "worker" in sent.messages[DEAD]
        assert len(set(sent.worker)) == 1


def test_plain_locust_ends_by_control_c_with_the_rows(
    start_fake: StartFake, locust: Start, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.npz"
    _schedule(60.0).save(tmp_path / "arrivals.json")
    process = locust(
        "--headless",
        "--processes=2",
        f"--host={start_fake(seconds=0.01, workers=8)}",
        f"--max-send-lag-ms={PATIENT}",
        f"--rows={rows}",
        f"--csv={tmp_path / 'stats'}",
    )
    stats = tmp_path / "stats_stats.csv"
    _wait(lambda: stats.exists() and ",digits," in stats.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    sent = Rows.load(rows).played()
    assert set(sent.worker) == {0, 1}
    assert "interrupted" in sent.messages


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(900):
        if until():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that in 90 seconds")
