"""Shapes of load: as long and as heavy as asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from foveate_loadtest.choices import Shape
from foveate_loadtest.shapes import shape_phases, shape_schedule


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
