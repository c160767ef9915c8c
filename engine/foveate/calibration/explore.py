"""Searches from the best uniform schedules of each budget."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial

from foveate.calibration.candidate import Point, legal
from foveate.calibration.measurements import Bench
from foveate.calibration.moves import moves
from foveate.calibration.search import descend
from foveate.calibration.seeds import Seeds, predicted_budget
from foveate.calibration.settings import Settings
from foveate.images.folder import Progress

__all__ = ["explore"]

_STEPS = (16, 48)  # the first steps are these parts of the patches, the last is one token
_SHARES = 64  # resolution of the share of tokens that is left where a schedule is made to fit


def explore(
    bench: Bench,
    seeds: Seeds,
    settings: Settings,
    deadline: float | None,
    progress: Progress,
) -> list[Point]:
    """Finalists of each budget: its best uniform schedule, and what searches found.

    Judged on few images ("glance", "search"): a schedule that is worth more is judged on all by the
    caller. No search starts after ``deadline`` (of ``time.monotonic``).
    """
    uniform = seeds.points
    for done, point in enumerate(uniform):
        progress("measure uniform schedules", done, len(uniform))
        bench.outcome(point, "glance")
    dearest_first = sorted(range(len(seeds.budgets)), key=lambda i: seeds.budgets[i], reverse=True)
    ranked = {budget: _ranked(bench, seeds.at(budget), settings) for budget in dearest_first}
    found = [points[0] for points in ranked.values() if points]
    for place in range(settings.starts):
        last: Point | None = None
        for done, (budget, points) in enumerate(ranked.items(), place * len(ranked)):
            progress("search schedules", done, settings.starts * len(ranked))
            if deadline is not None and time.monotonic() > deadline:
                return found
            # Also from what was found for more time: the best uniform schedule of a small budget is
            # often of a family that has nowhere better to go.
            shrunk = last and _fitted(bench, seeds, budget, last, settings.multiple)
            starts = [point for point in (*points[place : place + 1], shrunk) if point]
            if starts:
                start = min(starts, key=lambda point: bench.outcome(point, "search").loss)
                last = _search(bench, seeds, budget, start, settings)
                found.append(last)
    return found


def _ranked(bench: Bench, points: Sequence[Point], settings: Settings) -> list[Point]:
    """The better half, best first: all are measured on a few images, these on more."""

    def rank(points: Sequence[Point], on: str) -> list[Point]:
        return sorted(points, key=lambda point: bench.outcome(point, on).loss)

    better = max(settings.starts, len(points) // 2)
    return rank(rank(points, "glance")[:better], "search")


def _fitted(bench: Bench, seeds: Seeds, budget: int, point: Point, multiple: int) -> Point | None:
    """``point`` with as many tokens as fit the budget of that index; None if none do."""
    config = bench.configs[point.weights]
    seconds = predicted_budget(bench, seeds, budget, point)
    smaller = (point.scaled(1 - i / _SHARES, multiple) for i in range(_SHARES))
    fitting = (p for p in smaller if legal(p, config) and seeds.cost.seconds(p) <= seconds)
    return next(fitting, None)


def _search(bench: Bench, seeds: Seeds, budget: int, start: Point, settings: Settings) -> Point:
    """The best schedule found from ``start`` within the budget of that index."""
    config = bench.configs[start.weights]
    seconds = predicted_budget(bench, seeds, budget, start)

    def neighbours(point: Point, step: int) -> list[Point]:
        """In a new random order for each point, so that no count is always tried first."""
        near = list(
            moves(
                point,
                step,
                multiple=settings.multiple,
                legal=partial(legal, config=config),
                fits=lambda candidate: seeds.cost.seconds(candidate) <= seconds,
            )
        )
        random.Random(f"{settings.seed} {step} {point.key}").shuffle(near)
        return near

    sizes = [config.patches // (part * settings.multiple) for part in _STEPS]
    return descend(
        start,
        neighbours,
        lambda point: bench.outcome(point, "search").loss,
        steps=sorted({max(1, size) for size in (*sizes, 1)}, reverse=True),
        patience=round(settings.patience / settings.budgets[budget]),
    )
