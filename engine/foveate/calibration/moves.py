"""Changes of one count of a schedule, paid for by another so that the time stays in the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from foveate.calibration.candidate import Point

__all__ = ["moves"]


def moves(
    point: Point,
    step: int,
    *,
    multiple: int,
    legal: Callable[[Point], bool],
    fits: Callable[[Point], bool],
) -> Iterator[Point]:
    """Legal neighbours that fit the budget.

    Every reducer may leave ``step`` multiples of tokens more, and if that is too dear every other
    one in turn leaves as many fewer as it takes. Reducers of blocks may act a block earlier or
    later, and then leave as many tokens as fit; a learned selector stays where it was trained.
    """
    indices = range(len(point.reducers))
    for dearer, cheaper in product(indices, indices):
        raised = point.spend(dearer, step * multiple)
        if dearer == cheaper:
            found = raised if legal(raised) and fits(raised) else None
        else:
            found = _shrink(raised, cheaper, multiple, legal, fits)
        if found is not None:
            yield found
    for index in indices:
        reducer = point.reducers[index]
        if "block" not in reducer or reducer.get("score") == "selector":  # stands where it learned
            continue
        for blocks in (-1, 1):
            found = _shrink(point.shift(index, blocks), index, multiple, legal, fits)
            if found is not None:
                yield _grow(found, index, multiple, legal, fits)


def _shrink(
    point: Point,
    index: int,
    multiple: int,
    legal: Callable[[Point], bool],
    fits: Callable[[Point], bool],
) -> Point | None:
    """The dearest that fits, leaving fewer tokens at ``index``; None if no legal one does."""
    while legal(point):
        if fits(point):
            return point
        point = point.spend(index, -multiple)
    return None


def _grow(
    point: Point,
    index: int,
    multiple: int,
    legal: Callable[[Point], bool],
    fits: Callable[[Point], bool],
) -> Point:
    """The dearest that fits, leaving more tokens at ``index``."""
    while legal(more := point.spend(index, multiple)) and fits(more):
        point = more
    return point
