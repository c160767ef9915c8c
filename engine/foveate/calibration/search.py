"""Coordinate search: DiffRate's lesson, that the schedule matters more than the score, without
gradients (arXiv 2305.17997 learns the schedule; here moves of integers are tried)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

__all__ = ["descend"]

P = TypeVar("P")


def descend(
    start: P,
    moves: Callable[[P, int], Iterable[P]],
    loss: Callable[[P], float],
    *,
    steps: Sequence[int],
    patience: int,
) -> P:
    """The best point found from ``start``: a move is kept if its loss is lower.

    Args:
        start: where to begin.
        moves: neighbours of a point at a step size; all of them are allowed.
        loss: to be lowered; deterministic, asked once for each point that is tried.
        steps: step sizes, largest first. The next is taken when no move at one helps.
        patience: most points to try.
    """
    best, lowest, tried = start, loss(start), 0
    for step in steps:
        improved = True
        while improved:
            improved = False
            for point in moves(best, step):
                if tried == patience:
                    return best
                tried += 1
                value = loss(point)
                if value < lowest:
                    best, lowest, improved = point, value, True
                    break
    return best
