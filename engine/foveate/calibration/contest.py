"""Does the ladder beat the uniform schedules it was searched from, at every budget?"""

from __future__ import annotations

from collections.abc import Sequence

from foveate.calibration.candidate import Point
from foveate.calibration.measurements import Bench
from foveate.calibration.result import Contest, Rival
from foveate.calibration.seeds import Seeds
from foveate.images.folder import Progress

__all__ = ["hold_contests"]

_TOLERANCE = 1.03  # of a budget: the same schedule differs by as much from minute to minute


def hold_contests(
    bench: Bench, seeds: Seeds, levels: Sequence[Point], progress: Progress
) -> tuple[Contest, ...]:
    """Judge all on the same images ("contest"), none of which a level was chosen on.

    Who fits a budget is told by measured times; level 0 is no answer to any budget. A budget that
    no level fits is left out. Of a family the best schedule that fits takes part, be it one that
    was meant for a smaller budget.
    """
    every = seeds.points
    for done, point in enumerate(every):
        progress("compare with uniform schedules", done, len(every))
        bench.outcome(point, "contest")
    uniform = {}
    for family, line in seeds.families.items():
        points = [point for point in line if point is not None]
        uniform[family] = [
            Rival(point=point, seconds=seconds, outcome=bench.outcome(point, "contest"))
            for point, seconds in zip(points, bench.seconds(points), strict=True)
        ]
    taken = bench.seconds(levels)
    contests = []
    for budget in seeds.budgets:
        most = budget * _TOLERANCE
        level = next((i for i in range(1, len(levels)) if taken[i] <= most), None)
        if level is None:
            continue
        fitting = {
            family: [rival for rival in rivals if rival.seconds <= most]
            for family, rivals in uniform.items()
        }
        contests.append(
            Contest(
                budget=budget,
                level=level,
                seconds=taken[level],
                outcome=bench.outcome(levels[level], "contest"),
                rivals={
                    family: max(rivals, key=lambda rival: rival.outcome.score)
                    for family, rivals in fitting.items()
                    if rivals
                },
            )
        )
    return tuple(contests)
