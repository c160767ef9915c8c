"""The load test against the real server: every protocol and target, and what the answers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from foveate_cli.loadtest import loadtest
from foveate_loadtest.adapter_client import Adapter
from foveate_loadtest.choices import Protocol, Shape, Target
from foveate_loadtest.errors import TargetError
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.shapes import shape_schedule

SCHEDULE = shape_schedule(Shape.STEADY, 40, 1.0, cv2=0.0)


@pytest.mark.parametrize(
    ("protocol", "target"), [(Protocol.GRPC, Target.CLASSIFY), (Protocol.HTTP, Target.PIXELS)]
)
def test_every_face_answers_with_level_and_class(
    server: Any, tmp_path: Path, protocol: Protocol, target: Target
) -> None:
    facts = LadderFacts.from_file(server.repository / "digits" / "1" / "ladder.json")
    config = LoadtestConfig(
        server=server.grpc if protocol is Protocol.GRPC else server.http,
        protocol=protocol,
        target=target,
        schedule=SCHEDULE,
        slo_ms=10_000,  # whether it is quick is not the question here
        ladder=facts,
        images=39,
        rows=tmp_path / "rows.npz",
    )
    report = run(config)
    assert (report.rejected, dict(report.errors)) == (0, {}), report.messages
    assert report.attainment == 1.0
    rows = Rows.load(tmp_path / "rows.npz")
    assert set(rows.level.tolist()) <= set(range(len(facts.names)))
    assert report.measured_quality is not None
    assert report.measured_quality > 0.75


def test_requests_can_be_pinned(server: Any, tmp_path: Path) -> None:
    facts = LadderFacts.from_file(server.repository / "digits" / "1" / "ladder.json")
    config = LoadtestConfig(
        server=server.grpc,
        schedule=SCHEDULE,
        slo_ms=10_000,
        level=facts.names[facts.cheapest],
        images=10,
        rows=tmp_path / "rows.npz",
    )
    run(config)
    rows = Rows.load(tmp_path / "rows.npz")
    assert set(rows.level[rows.outcome == Outcome.OK].tolist()) == {facts.cheapest}


def test_workers_share_the_sending(server: Any, tmp_path: Path) -> None:
    config = LoadtestConfig(
        server=server.grpc,
        schedule=SCHEDULE,
        slo_ms=10_000,
        images=10,
        workers=2,
        max_send_lag_ms=1000,
        rows=tmp_path / "rows.npz",
    )
    report = run(config)
    assert report.problem is None
    assert report.attainment == 1.0, report.messages
    rows = Rows.load(tmp_path / "rows.npz")
    assert np.bincount(rows.worker).tolist() == [len(rows.worker[::2]), len(rows.worker[1::2])]


def test_the_adapter_tells_what_the_ladder_file_tells(server: Any) -> None:
    facts = LadderFacts.from_file(server.repository / "digits" / "1" / "ladder.json")
    with Adapter(f"http://{server.adapter}", "digits") as adapter:
        told = LadderFacts.from_adapter(adapter.view())
    assert told.names == facts.names
    assert np.allclose(told.quality, facts.quality)


def test_decisions_can_be_followed(server: Any) -> None:
    with Adapter(f"http://{server.adapter}", "digits") as adapter:
        seen = adapter.decisions()
        times = [decision["time"] for decision in seen]
        assert times == sorted(times, reverse=True)
        assert adapter.decisions(limit=1)[0]["time"] >= times[0]
        later = adapter.decisions(since=times[-1])
    assert times[-1] not in [decision["time"] for decision in later]
    assert len(later) >= len(seen) - 1


def test_an_unknown_model_is_named(server: Any) -> None:
    url = f"http://{server.adapter}"
    with Adapter(url, "nonesuch") as adapter, pytest.raises(TargetError, match="nonesuch"):
        adapter.view()


def test_the_command_prints_its_report_as_json(server: Any, tmp_path: Path) -> None:
    app = Typer()
    app.command()(loadtest)
    arrivals, output = tmp_path / "arrivals.json", tmp_path / "report.json"
    SCHEDULE.save(arrivals)
    options = {
        "grpc-url": server.grpc,
        "adapter-url": f"http://{server.adapter}",
        "arrivals": arrivals,
        "output": output,
        "max-send-lag-ms": 1000,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    result = CliRunner().invoke(app, [*flags, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(output.read_text())
    assert report["arrivals_sha256"] == SCHEDULE.sha256
    assert report["requests"] == len(SCHEDULE.times)
    assert report["problem"] is None
