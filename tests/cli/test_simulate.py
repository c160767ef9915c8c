"""``foveate simulate``: any ladder, any table, any arrivals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from foveate.errors import LadderError
from foveate.levels.ladder import Ladder
from foveate_adapter.control import Config
from foveate_cli.main import app
from foveate_loadtest.choices import Shape
from foveate_loadtest.errors import ScheduleError
from foveate_loadtest.rows import Rows
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.simulate.baselines import autoscaler, threshold
from foveate_loadtest.simulate.files import load_arrivals, load_table
from foveate_loadtest.simulate.scrape import Window

CONTROLLERS = [
    "foveate",
    "governor alone",
    "fixed exact",
    "fixed cheapest",
    "p99 of 60 s",
    "autoscaler",
    "clairvoyant bound",
]


@pytest.fixture(scope="module")
def demo_table(repository, tmp_path_factory) -> Path:
    """A latency table of the committed ladder: 3 ms, and per image what its arithmetic says."""
    ladder = Ladder.load(repository / "digits" / "1" / "ladder.json")
    table = {
        "device": "cpu",
        "ladder": ladder.digest,
        "batches": [1, 8],
        "seconds": [[0.003 + n * 3.4e-11 * level.macs for n in (1, 8)] for level in ladder.levels],
    }
    path = tmp_path_factory.mktemp("table") / "latency-1.json"
    path.write_text(json.dumps(table))
    return path


@pytest.fixture
def simulate(repository, demo_table):
    def run(*options: str) -> str:
        common = [f"--repository={repository}", f"--latency={demo_table}", "--seconds=5"]
        result = CliRunner().invoke(app, ["simulate", *common, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_table_names_every_controller(simulate):
    lines = simulate("digits").splitlines()
    for column in ("in SLO", "quality", "recovered", "rejected", "switches/min", "p99 ms"):
        assert column in lines[0]
    assert [line.strip().split("  ")[0] for line in lines[1:]] == CONTROLLERS
    assert "100%" in lines[3], "fixed exact recovers everything"


def test_json_for_programs_and_options_that_matter(simulate):
    plain, bursty, slow, seen, open_door = (
        json.loads(simulate("--json", "--load=0.9", *options))
        for options in (
            (),
            ("--cv2=8",),
            ("--slowdown=1.5",),
            ("--within-ms=3", "--overhead-ms=0"),
            ("--no-admission", "--slowdown=1.5"),
        )
    )
    assert list(plain) == CONTROLLERS
    assert plain["fixed cheapest"]["attainment"] == 1
    assert plain["clairvoyant bound"]["recovered"] > plain["foveate"]["recovered"] > 0
    assert bursty["foveate"]["p99_ms"] > plain["foveate"]["p99_ms"]
    assert slow["fixed cheapest"]["rejected"] > 0
    assert seen["fixed cheapest"] == pytest.approx(plain["fixed cheapest"])
    assert seen["foveate"] != plain["foveate"], "the governor knows of it"
    assert open_door["fixed cheapest"]["rejected"] == 0


def test_the_arrivals_of_a_recorded_run_can_be_replayed(simulate, tmp_path):
    schedule = shape_schedule(Shape.STEADY, 200, 5, 4.0, seed=3)
    rows = Rows.blank(schedule.times, np.zeros(len(schedule.times), np.int16))
    paths = [tmp_path / name for name in ("arrivals.json", "rows.npz", "rows.csv")]
    for path, saved in zip(paths, (schedule, rows, rows), strict=True):
        saved.save(path)
        assert load_arrivals(path) == schedule.times.tolist()
    one, other = (simulate("--json", f"--arrivals={path}") for path in paths[:2])
    assert one == other


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "sent\n1.0\n", "column 'intended' is missing"),
        ("rows.csv", "intended\nsoon\n", "could not convert"),
        ("rows.csv", "intended\n", "no arrivals"),
        ("rows.csv", "intended\n2.0\n1.0\n", "must ascend"),
        ("rows.npz", "PK", "rows.npz"),
        ("arrivals.json", "{}", "key 'schema' is missing"),
    ],
)
def test_arrivals_that_cannot_be_used_are_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ScheduleError, match=message) as caught:
        load_arrivals(path)
    assert str(path) in str(caught.value)


def test_the_newest_table_of_the_ladder_is_taken(tmp_path, ladder, table):
    with pytest.raises(LadderError, match="no latency table for this ladder"):
        load_table(None, ladder, tmp_path)
    for name, saved in (("a", table), ("b", replace(table, device="newer"))):
        saved.save(tmp_path / "digits" / f"latency-{name}.json")
    replace(table, ladder="another").save(tmp_path / "digits" / "latency-c.json")
    assert load_table(None, ladder, tmp_path).device == "newer"
    with pytest.raises(LadderError, match="ladder='another'"):
        load_table(tmp_path / "digits" / "latency-c.json", ladder, tmp_path)


def test_the_threshold_moves_one_level_at_a_time(config: Config):
    def step(level: int, seconds: float) -> int:
        return threshold(config, level, Window(latencies=[seconds] * 100, waits=[]))

    assert [step(1, seconds) for seconds in (0.05, 0.13, 0.19)] == [0, 1, 2]
    assert (step(0, 0.05), step(3, 0.3)) == (0, 3)
    assert threshold(config, 2, Window(latencies=[], waits=[])) == 2
    assert threshold(config, 1, Window(latencies=[0.01] * 95 + [0.3] * 5, waits=[])) == 2


def test_the_autoscaler_wants_capacity_in_proportion_to_the_wait(config: Config):
    def step(level: int, wait: float) -> int:
        return autoscaler(config, level, Window(latencies=[], waits=[wait] * 10))

    assert [step(0, wait) for wait in (0.001, 0.0205, 0.03, 0.06, 1.0)] == [0, 0, 1, 2, 3]
    assert step(3, 0.001) == 0
    assert autoscaler(config, 2, Window(latencies=[], waits=[])) == 2
