"""From a time budget to the number of tokens each selector keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foveate.errors import InputError
from foveate.selector.blocktable import BlockTable

__all__ = ["MIN_TOKENS", "fit_counts", "geometric"]

MIN_TOKENS = 4  # patch tokens the engine always keeps
_EXPONENTS = [1.01**step for step in range(-700, 1000)]  # from next to all tokens to next to none


def geometric(blocks: Sequence[int]) -> dict[int, float]:
    """DynamicViT's shape of ratios: each selector keeps the same share of what comes to it."""
    return {block: 0.5 ** (i + 1) for i, block in enumerate(sorted(blocks))}


def fit_counts(
    times: BlockTable, shape: Mapping[int, float], depth: int, patches: int, budget_ms: float
) -> dict[int, int]:
    """Patch tokens to keep after each block's selector, as many as take at most ``budget_ms``.

    Of the family N r_b^t, t > 0, for the ratios r of ``shape``; with :func:`geometric` those are
    SPViT's and DynamicViT's rho, rho^2, rho^3. Counts fall from each selector to the next.

    Raises :class:`InputError` naming the range of budgets the table allows.
    """
    dense = float(times.model_ms({}, depth, patches))
    if budget_ms < dense:
        for exponent in _EXPONENTS:
            counts = _counts(shape, exponent, patches)
            if float(times.model_ms(counts, depth, patches)) <= budget_ms:
                return counts
    fewest = _counts(shape, math.inf, patches)
    least = float(times.model_ms(fewest, depth, patches))
    raise InputError(
        f"budget_ms={budget_ms:g}: expected a number from {least:.3g} (selectors at blocks "
        f"{', '.join(map(str, fewest))} keep {', '.join(map(str, fewest.values()))} tokens) to "
        f"below {dense:.3g} (the dense model's blocks)"
    )


def _counts(shape: Mapping[int, float], exponent: float, patches: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    left = patches
    for later, block in reversed(list(enumerate(sorted(shape, reverse=True)))):
        left = max(MIN_TOKENS + later, min(left - 1, math.ceil(patches * shape[block] ** exponent)))
        counts[block] = left
    return counts
