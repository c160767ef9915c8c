"""Shapes of load of any length and mean, for comparing controllers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from foveate_loadtest.arrivals import Phase, Schedule, piecewise
from foveate_loadtest.choices import Shape

__all__ = ["AZURE", "shape_phases", "shape_schedule"]

AZURE = Path(__file__).parent / "series" / "azure.json"  # see foveate_benchmarks.control.azure

_HALF_CYCLE = 5.0  # seconds
_STEPS = 100  # of a slope
_STEP_UP = 3.75  # of the calm: from 0.4 to 1.5 of a capacity
_MMPP_RATE = 4.0  # of the busy state, over that of the quiet one
_MMPP_S = (4.0, 2.0)  # mean time in the quiet and in the busy state
_MMPP_STREAM = 1  # of a seed: states are drawn apart from gaps
_TIDE = 0.6  # of the mean


def shape_phases(shape: Shape, rate: float, seconds: float, seed: int = 0) -> tuple[Phase, ...]:
    """Phases of ``seconds`` in all, with ``rate`` requests/s on average.

    ``steady``: ``rate`` throughout. ``on-off``: 1.3 and 0.7 times that, about 5 s each. ``ramp``:
    from 0.6 to 1.4 times. ``flash``: a little less, doubled at once after a third of the run and
    falling back evenly within a tenth of it. ``step``: 3.75 times as much in the middle third as
    before and after it. ``mmpp``: a quiet and a busy state, in which four times as much arrives,
    for exponential times of 4 and 2 s in the mean, drawn by ``seed``. ``diurnal``: one day, from
    0.4 to 1.6 times and back. ``azure``: an hour of a public trace, on the scale of the run.
    """
    match shape:
        case Shape.STEADY:
            return (Phase(seconds, rate),)
        case Shape.ON_OFF:
            cycles = max(1, round(seconds / (2 * _HALF_CYCLE)))
            half = seconds / (2 * cycles)
            return (Phase(half, 1.3 * rate), Phase(half, 0.7 * rate)) * cycles
        case Shape.RAMP:
            return _slope(seconds, 0.6 * rate, 1.4 * rate)
        case Shape.FLASH:
            usual = rate / 1.05  # half a peak of this height more, for a tenth of the time
            peak = _slope(seconds / 10, 2 * usual, usual)
            before, after = seconds / 3, seconds * (1 - 1 / 3 - 1 / 10)
            return (Phase(before, usual), *peak, Phase(after, usual))
        case Shape.STEP:
            calm = Phase(seconds / 3, 1.0)
            return _with_mean((calm, Phase(seconds / 3, _STEP_UP), calm), rate)
        case Shape.MMPP:
            return _with_mean(_mmpp(seconds, seed), rate)
        case Shape.DIURNAL:
            turns = (2 * math.pi * (step + 0.5) / _STEPS for step in range(_STEPS))
            return tuple(
                Phase(seconds / _STEPS, rate * (1 - _TIDE * math.cos(turn))) for turn in turns
            )
        case Shape.AZURE:
            counts = json.loads(AZURE.read_text())["counts"]
            return _with_mean(tuple(Phase(seconds / len(counts), n) for n in counts), rate)


def shape_schedule(
    shape: Shape, rate: float, seconds: float, cv2: float = 1.0, seed: int = 0
) -> Schedule:
    """Arrivals of a shape, Poisson unless ``cv2`` says otherwise."""
    return Schedule(
        times=piecewise(shape_phases(shape, rate, seconds, seed), cv2, seed),
        seconds=seconds,
        scenario=shape,
        seed=seed,
        cv2=cv2,
        capacities=None,
    )


def _slope(seconds: float, first: float, last: float) -> tuple[Phase, ...]:
    share = [(step + 0.5) / _STEPS for step in range(_STEPS)]
    return tuple(Phase(seconds / _STEPS, first + (last - first) * x) for x in share)


def _mmpp(seconds: float, seed: int) -> tuple[Phase, ...]:
    rng = np.random.default_rng((seed, _MMPP_STREAM))
    phases: list[Phase] = []
    left = seconds
    while left > 0:
        busy = len(phases) % 2
        stay = min(left, float(rng.exponential(_MMPP_S[busy])))
        phases.append(Phase(stay, _MMPP_RATE if busy else 1.0))
        left -= stay
    return tuple(phases)


def _with_mean(phases: tuple[Phase, ...], rate: float) -> tuple[Phase, ...]:
    """The same phases in proportion, ``rate`` on average."""
    seconds = sum(phase.seconds for phase in phases)
    scale = rate * seconds / sum(phase.seconds * phase.rate for phase in phases)
    return tuple(Phase(phase.seconds, scale * phase.rate) for phase in phases)
