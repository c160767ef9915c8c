"""SPViT's layer-to-phase schedule: where selectors stand and how much each keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

__all__ = ["RATIOS", "SIMILAR", "insert_selectors", "merge_phases"]

RATIOS = (0.9, 0.7, 0.5, 0.35, 0.25)  # shares of the patch tokens to try, falling
SIMILAR = 0.085  # ratios nearer than this are one phase (HeatViT, arXiv 2211.08110, §VI)


def insert_selectors(
    depth: int,
    score: Callable[[Mapping[int, float]], float],
    *,
    max_drop: float,
    ratios: Sequence[float] = RATIOS,
) -> dict[int, float]:
    """Insert selectors from the last block but one to the first; keep what costs little.

    At each block the share of patch tokens that is left falls along ``ratios`` as long as the
    quality is at least that of no selector at all minus ``max_drop``. A share is of all the model's
    patch tokens, so it is never below that of a deeper block. The last block needs no selector: of
    it only CLS is read.

    Args:
        depth: blocks of the model.
        score: quality of a plan (block -> share), higher is better. It trains what the plan adds.
        max_drop: on the scale of ``score``.

    Returns block -> share; empty if not even the mildest was acceptable anywhere.
    """
    plan: dict[int, float] = {}
    dense = score(plan)
    for block in reversed(range(depth - 1)):
        deeper = max(plan.values(), default=0.0)
        for ratio in ratios:
            longer = {**plan, block: ratio}
            if ratio < deeper or dense - score(longer) > max_drop:
                break
            plan = longer
    return dict(sorted(plan.items()))


def merge_phases(plan: Mapping[int, float], similar: float = SIMILAR) -> dict[int, float]:
    """Make one selector of neighbouring blocks whose ratios differ by less than ``similar``.

    It stands at the first block of its phase and keeps the mean ratio of the phase. Blocks without
    a selector between two others part phases.
    """
    phases: list[list[int]] = []
    for block in sorted(plan):
        last = phases[-1] if phases else []
        if last and block == last[-1] + 1 and abs(plan[block] - plan[last[0]]) < similar:
            last.append(block)
        else:
            phases.append([block])
    return {phase[0]: sum(plan[b] for b in phase) / len(phase) for phase in phases}
