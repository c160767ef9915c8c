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
    seconds: Sequence[float],
    scores: Sequence[float],
    losses: Sequence[float],
    *,
    max_loss: float,
    step: float,
) -> list[int]:
    """Indices of the levels to keep, dearest first; index 0 is always the first.

    From the front of the others that lose at most ``max_loss``: the fastest, and then every next
    that takes at least ``step`` times as long as the one before.
    """
    allowed = [i for i in range(1, len(seconds)) if losses[i] <= max_loss]
    best = front([seconds[i] for i in allowed], [scores[i] for i in allowed])
    levels: list[int] = []
    for i in (allowed[k] for k in best):
        if all(seconds[level] * step <= seconds[i] for level in levels[-1:]):
            levels.append(i)
    below = [level for level in levels if seconds[level] * step <= seconds[0]]
    return [0, *reversed(below)]
