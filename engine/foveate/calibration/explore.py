"""Searches from the best uniform schedules of each budget."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from foveate.calibration.bench import Bench
from foveate.calibration.moves import moves
from foveate.calibration.point import Point, legal
from foveate.calibration.search import descend
from foveate.calibration.seeds import Seeds, predicted_budget
from foveate.calibration.settings import Settings

__all__ = ["explore"]

_STEPS = (16, 48)  # the first steps are these parts of the patches, the last is one token


def explore(
    bench: Bench,
    seeds: Seeds,
    settings: Settings,
    deadline: float | None,
    tell: Callable[[str, int, int], None],
) -> list[Point]:
    """Finalists of each budget: its best uniform schedule, and what searches found.

    Judged on few images ("glance", "search"): a schedule that is worth more is judged on all by the
    caller. No search starts after ``deadline`` (of ``time.monotonic``).
    """
    uniform = seeds.points
    for done, point in enumerate(uniform):
        tell("judge uniform schedules", done, len(uniform))
        bench.outcome(point, "glance")
    starts = list(_starts(bench, seeds, settings))
    best: dict[int, Point] = {}
    for budget, start in starts:
        best.setdefault(budget, start)
    found = list(best.values())
    for done, (budget, start) in enumerate(starts):
        tell("search schedules", done, len(starts))
        if deadline is not None and time.monotonic() > deadline:
            break
        found.append(_search(bench, seeds, budget, start, settings))
    return found


def _starts(bench: Bench, seeds: Seeds, settings: Settings) -> Iterator[tuple[int, Point]]:
    """Index of the budget and schedule: the best of every budget, then the second best.

    Successive halving: all are looked at on a few images, the better half of each budget on more.
    """

    def rank(points: list[Point], on: str) -> list[Point]:
        return sorted(points, key=lambda point: bench.outcome(point, on).loss)

    ranked = []
    for index in range(len(seeds.budgets)):
        points = seeds.at(index)
        better = max(settings.starts, len(points) // 2)
        ranked.append(rank(rank(points, "glance")[:better], "search"))
    for place in range(settings.starts):
        for index, points in enumerate(ranked):
            if place < len(points):
                yield index, points[place]


def _search(bench: Bench, seeds: Seeds, budget: int, start: Point, settings: Settings) -> Point:
    """The best schedule found from ``start`` within the budget of that index."""
    config = bench.configs[start.weights]
    seconds = predicted_budget(bench, seeds, budget, start)

    def neighbours(point: Point, step: int) -> list[Point]:
        """In an order drawn anew for each point, so that no count is always tried first."""
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
