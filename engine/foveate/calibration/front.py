"""Which points are worth serving: the front of time against score, and a ladder along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["climb", "front"]


def front(seconds: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices that no other point beats, fastest first.

    A point is dominated if another takes no longer and scores no lower; of equals the first stays.
    """
    kept: list[int] = []
    best = -math.inf
    for i in sorted(range(len(seconds)), key=lambda i: (seconds[i], -scores[i])):
        if scores[i] > best:
            kept.append(i)
            best = scores[i]
    return kept


def climb(
    seconds: Sequence[float], scores: Sequence[float], *, max_loss: float, step: float
) -> list[int]:
    """Indices of the levels to keep, dearest first; index 0 is always the first.

    From the front of the others: none that loses more than ``max_loss`` against index 0, neighbours
    at least ``step`` apart in time.
    """
    others = [i for i in range(1, len(seconds)) if scores[0] - scores[i] <= max_loss]
    best = front([seconds[i] for i in others], [scores[i] for i in others])
    ladder = [0]
    for i in (others[k] for k in reversed(best)):
        if seconds[i] * step <= seconds[ladder[-1]]:
            ladder.append(i)
    return ladder
