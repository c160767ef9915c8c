"""Shapes of load of any length and mean, for comparing controllers."""

from __future__ import annotations

from foveate_loadtest.arrivals import Phase, Schedule, piecewise
from foveate_loadtest.choices import Shape

__all__ = ["shape_phases", "shape_schedule"]

_HALF_CYCLE = 5.0  # seconds
_STEPS = 100  # of a slope


def shape_phases(shape: Shape, rate: float, seconds: float) -> tuple[Phase, ...]:
    """Phases of ``seconds`` in all, with ``rate`` requests/s on average.

    ``steady``: ``rate`` throughout. ``on-off``: 1.3 and 0.7 times that, about 5 s each. ``ramp``:
    from 0.6 to 1.4 times. ``flash``: a little less, doubled at once after a third of the run and
    falling back evenly within a tenth of it.
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


def shape_schedule(
    shape: Shape, rate: float, seconds: float, cv2: float = 1.0, seed: int = 0
) -> Schedule:
    """Arrivals of a shape, Poisson unless ``cv2`` says otherwise."""
    return Schedule(
        times=piecewise(shape_phases(shape, rate, seconds), cv2, seed),
        seconds=seconds,
        scenario=shape,
        seed=seed,
        cv2=cv2,
        capacities=None,
    )


def _slope(seconds: float, first: float, last: float) -> tuple[Phase, ...]:
    share = [(step + 0.5) / _STEPS for step in range(_STEPS)]
    return tuple(Phase(seconds / _STEPS, first + (last - first) * x) for x in share)
