"""The best result possible if all arrivals were known: a linear program over the arrivals.

It treats requests as a fluid. A time slot holds as much work as it is long, and an image costs what
it costs at the best batch size; everything that arrives in a slot is answered at some level within
the SLO, or given up. Every schedule of a real server is a special case, so at the same attainment
no controller reaches a better quality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, eye_array, hstack, kron, vstack

__all__ = ["best_quality"]

SLOTS_PER_SLO = 5  # ten change the result by less than a thousandth, and take three times as long


def best_quality(
    times: Sequence[float],
    *,
    seconds: Sequence[float],
    quality: Sequence[float],
    slo_s: float,
    attainment: float,
) -> float | None:
    """Highest mean quality of the answers when the share ``attainment`` of ``times`` is in time.

    ``seconds`` is the least time of one image, ``quality`` its worth, for each level that may be
    used. None if so many cannot be answered in time.
    """
    slot = slo_s / SLOTS_PER_SLO
    index = (np.asarray(times) / slot).astype(int)
    slots, levels = int(index[-1]) + SLOTS_PER_SLO + 1, len(quality)
    arrived = np.bincount(index, minlength=slots).astype(float)

    # Unknown: answered [slot, level], given up [slot], and left over at the end of a slot [slot].
    each = eye_array(slots)
    before = diags_array([np.ones(slots - 1)], offsets=[-1], shape=(slots, slots))
    flow = hstack([kron(each, np.ones((1, levels))), each, each - before])
    total = hstack([csr_array(np.ones((1, slots * levels))), csr_array((1, 2 * slots))])
    work = hstack([kron(each, np.array([seconds])), csr_array((slots, 2 * slots))])
    bounds = np.zeros((slots * (levels + 2), 2))
    bounds[:, 1] = np.inf
    # What waits arrived within the last SLO.
    bounds[-slots:, 1] = np.convolve(arrived, np.ones(SLOTS_PER_SLO))[:slots]
    answers = attainment * len(times)
    solution = linprog(
        -np.append(np.tile(quality, slots), np.zeros(2 * slots)),
        A_ub=work,
        b_ub=np.full(slots, slot),
        A_eq=vstack([flow, total]),
        b_eq=np.append(arrived, answers),
        bounds=bounds,
        method="highs-ipm",
    )
    return -float(solution.fun) / answers if solution.status == 0 else None
