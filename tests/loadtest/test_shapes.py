"""Shapes of load: as long and as heavy as asked for."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from foveate_loadtest.choices import Shape
from foveate_loadtest.shapes import AZURE, shape_phases, shape_schedule


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("seconds", [7.0, 60.0])
def test_length_and_mean_rate_are_what_was_asked_for(shape, seconds):
    phases = shape_phases(shape, 300, seconds)
    assert sum(phase.seconds for phase in phases) == pytest.approx(seconds)
    assert sum(phase.seconds * phase.rate for phase in phases) == pytest.approx(300 * seconds)


def test_a_flash_doubles_the_load_at_once_and_a_ramp_never_jumps():
    jumps = {}
    for shape in (Shape.FLASH, Shape.RAMP):
        rates = [phase.rate for phase in shape_phases(shape, 300, 60)]
        jumps[shape] = max(abs(b - a) for a, b in pairwise(rates))
    assert jumps[Shape.FLASH] > 250
    assert jumps[Shape.RAMP] < 5


def test_a_schedule_repeats_by_its_seed():
    one, same, other = (shape_schedule(Shape.ON_OFF, 100, 20, 4.0, seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256
    assert one.times[-1] < one.seconds == 20


def test_a_step_is_3_75_times_the_calm_in_the_middle_third():
    before, middle, after = shape_phases(Shape.STEP, 300, 60)
    assert before == after
    assert before.seconds == middle.seconds == pytest.approx(20)
    assert middle.rate / before.rate == pytest.approx(3.75)


def test_mmpp_has_two_states_and_their_dwell_times():
    phases = shape_phases(Shape.MMPP, 300, 60_000, seed=5)[:-1]  # the last one is cut short
    quiet, busy = phases[::2], phases[1::2]
    assert len({phase.rate for phase in quiet}) == len({phase.rate for phase in busy}) == 1
    assert busy[0].rate / quiet[0].rate == pytest.approx(4)
    for state, mean in ((quiet, 4.0), (busy, 2.0)):
        stays = np.array([phase.seconds for phase in state])
        assert stays.mean() == pytest.approx(mean, rel=0.06)
        assert stays.std() == pytest.approx(mean, rel=0.1)  # as of an exponential
    assert shape_phases(Shape.MMPP, 300, 60, 1) != shape_phases(Shape.MMPP, 300, 60, 2)


def test_a_day_ebbs_to_0_4_at_its_ends_and_rises_to_1_6_at_noon():
    rates = [phase.rate / 300 for phase in shape_phases(Shape.DIURNAL, 300, 60)]
    assert rates[0] == rates[-1] == pytest.approx(0.4, abs=0.01) == min(rates)
    assert max(rates) == pytest.approx(1.6, abs=0.01)
    assert rates.index(max(rates)) in (len(rates) // 2 - 1, len(rates) // 2)
    assert rates == pytest.approx(rates[::-1])


def test_azure_keeps_the_proportions_of_its_trace():
    counts = np.array(json.loads(AZURE.read_text())["counts"], float)
    phases = shape_phases(Shape.AZURE, 300, 60)
    assert len({phase.seconds for phase in phases}) == 1
    rates = np.array([phase.rate for phase in phases])
    assert rates / rates.mean() == pytest.approx(counts / counts.mean())
    assert rates.max() > 1.2 * rates.mean()
