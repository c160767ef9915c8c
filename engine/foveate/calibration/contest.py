"""Does the ladder beat the uniform schedules it was searched from, at every budget?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foveate.calibration.bench import Bench
from foveate.calibration.point import Point
from foveate.calibration.result import Contest, Rival
from foveate.calibration.seeds import Seeds

__all__ = ["hold_contests"]

_TOLERANCE = 1.03  # of a budget: the same schedule differs by as much from minute to minute


def hold_contests(
    bench: Bench, seeds: Seeds, levels: Sequence[Point], tell: Callable[[str, int, int], None]
) -> tuple[Contest, ...]:
    """Judge all on the same images ("contest"), none of which a level was chosen on.

    Who fits a budget is told by measured times; level 0 is no answer to any budget. A budget that
    no level fits is left out.
    """
    uniform = seeds.points
    for done, point in enumerate(uniform):
        tell("compare with uniform schedules", done, len(uniform))
        bench.outcome(point, "contest")
    rivals = {
        point.key: Rival(point=point, seconds=seconds, outcome=bench.outcome(point, "contest"))
        for point, seconds in zip(uniform, bench.seconds(uniform), strict=True)
    }
    seconds = bench.seconds(levels)
    contests = []
    for index, budget in enumerate(seeds.budgets):
        most = budget * _TOLERANCE
        level = next((i for i in range(1, len(levels)) if seconds[i] <= most), None)
        if level is None:
            continue
        fitting = {
            family: rivals[seed.key]
            for family, line in seeds.families.items()
            if (seed := line[index]) is not None and rivals[seed.key].seconds <= most
        }
        contests.append(
            Contest(
                budget=budget,
                level=level,
                seconds=seconds[level],
                outcome=bench.outcome(levels[level], "contest"),
                rivals=fitting,
            )
        )
    return tuple(contests)
