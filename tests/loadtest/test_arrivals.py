"""Arrival schedules: the promised rate, the promised burstiness, and the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate_loadtest.arrivals import (
    Capacities,
    Phase,
    Schedule,
    constant,
    gamma,
    piecewise,
    poisson,
    recorded_schedule,
    scenario_phases,
    scenario_schedule,
)
from foveate_loadtest.choices import Scenario
from foveate_loadtest.errors import ScheduleError

CAPACITIES = Capacities(exact=160.0, cheapest=600.0)
RATES = st.floats(0.5, 500)
SEEDS = st.integers(0, 2**32)


def _cv2(times: np.ndarray) -> float:
    gaps = np.diff(times)
    return float(gaps.var() / gaps.mean() ** 2)


@given(rate=RATES, seconds=st.floats(0, 30), cv2=st.floats(0, 8), seed=SEEDS)
def test_times_ascend_within_the_run(rate: float, seconds: float, cv2: float, seed: int) -> None:
    times = gamma(rate, seconds, cv2, seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < max(seconds, 1e-12))).all()


@given(rate=RATES, seed=SEEDS)
def test_same_seed_same_times(rate: float, seed: int) -> None:
    assert np.array_equal(poisson(rate, 5.0, seed), poisson(rate, 5.0, seed))


def test_other_seed_other_times() -> None:
    assert not np.array_equal(poisson(100, 5.0, 0), poisson(100, 5.0, 1))


def test_constant_is_a_metronome() -> None:
    times = constant(50, 2.0)
    assert len(times) == 99  # the hundredth would be at the end
    assert np.allclose(np.diff(times), 0.02)


@pytest.mark.parametrize("cv2", [0.25, 1.0, 2.0, 4.0, 8.0])
def test_rate_and_burstiness_are_as_asked(cv2: float) -> None:
    times = gamma(100.0, 2000.0, cv2, seed=7)
    assert len(times) == pytest.approx(200_000, rel=0.03)
    assert _cv2(times) == pytest.approx(cv2, rel=0.1)


def test_each_phase_has_its_rate() -> None:
    phases = (Phase(500, 20), Phase(500, 0), Phase(500, 80))
    counts, _ = np.histogram(piecewise(phases, 1.0, seed=3), bins=[0, 500, 1000, 1500])
    assert counts[0] == pytest.approx(10_000, rel=0.05)
    assert counts[1] <= 1
    assert counts[2] == pytest.approx(40_000, rel=0.05)


def test_scenarios_scale_with_capacities() -> None:
    calm, peak, after = scenario_phases(Scenario.BURST, CAPACITIES)
    assert (calm.rate, peak.rate, after.rate) == (64.0, 240.0, 64.0)
    assert (calm.seconds, peak.seconds, after.seconds) == (5.0, 10.0, 10.0)
    assert scenario_phases(Scenario.OVERLOAD, CAPACITIES)[1].rate == 1200.0
    assert {phase.rate for phase in scenario_phases(Scenario.CALM, CAPACITIES)} == {64.0}


@pytest.mark.parametrize("bad", [Phase(-1, 10), Phase(1, float("nan")), Phase(float("inf"), 1)])
def test_impossible_phases_are_refused(bad: Phase) -> None:
    with pytest.raises(ScheduleError, match="finite"):
        piecewise((bad,), 1.0, 0)


@given(scenario=st.sampled_from(Scenario), seed=SEEDS)
def test_a_saved_schedule_is_the_same_schedule(
    tmp_path_factory: pytest.TempPathFactory, scenario: Scenario, seed: int
) -> None:
    path = tmp_path_factory.mktemp("arrivals") / "a.json"
    schedule = scenario_schedule(scenario, Capacities(exact=3.7, cheapest=9.1), seed)
    schedule.save(path)
    loaded = Schedule.load(path)
    assert np.array_equal(loaded.times, schedule.times)
    assert loaded.sha256 == schedule.sha256
    assert (loaded.seed, loaded.scenario, loaded.capacities) == (
        seed,
        scenario,
        schedule.capacities,
    )


def test_an_edited_arrival_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    scenario_schedule(Scenario.CALM, CAPACITIES, 0).save(path)
    data = json.loads(path.read_text())
    data["times"][3] += 0.001
    path.write_text(json.dumps(data))
    with pytest.raises(ScheduleError, match="sha256"):
        Schedule.load(path)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "[1, 2]"])
def test_a_broken_arrival_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=r"broken\.json"):
        Schedule.load(path)


def test_a_record_is_stretched_to_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "seen.txt"
    path.write_text("1000\n1001\n1003\n1002\n1010\n")
    schedule = recorded_schedule(path, 4.0, 10.0)
    assert schedule.times.tolist() == [0.0, 0.1, 0.2, 0.3]  # the last time is the end
    assert len(schedule.times) / schedule.seconds == 4.0  # nothing is offered after it
    assert recorded_schedule(path, 4.0, 0.25).times.tolist() == [0.0, 0.1, 0.2]
    assert schedule.scenario == "seen"


@pytest.mark.parametrize("text", ["", "1", "2\n2", "a\nb", "nan\n1"])
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "seen.txt"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=r"seen\.txt"):
        recorded_schedule(path, 4.0, 10.0)
