"""The layer-to-phase schedule run on a model, with short training of each inserted selector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from foveate.images.dataset import Images
from foveate.model.vit import ViT
from foveate.reduce.selector_network import Selector
from foveate.selector.phases import insert_selectors, merge_phases
from foveate.selector.pruned import by_selector
from foveate.selector.recipe import Recipe
from foveate.selector.report import served_report
from foveate.selector.train import train

__all__ = ["search_plan"]

_STEPS = 20  # of training an inserted selector


def search_plan(
    vit: ViT,
    images: Images,
    validation: Images,
    *,
    max_drop: float,
    seed: int = 0,
    steps: int = _STEPS,
    progress: Callable[[Mapping[int, float], float], None] = lambda plan, agreement: None,
) -> dict[int, float]:
    """Phases of ``vit``: block -> share of the patch tokens that its selector leaves.

    Quality is the agreement with the dense model on ``validation``. An inserted selector is trained
    by distillation for ``steps`` steps, once; those behind it stay. The paper trains the backbone
    too, for epochs at each insertion.

    Args:
        max_drop: agreement that may be lost, 0..1.
        progress: called with each tried plan and its agreement.
    """
    selectors: dict[int, Selector] = {}
    patches = vit.config.patches

    def score(plan: Mapping[int, float]) -> float:
        counts = {block: math.ceil(patches * ratio) for block, ratio in sorted(plan.items())}
        new = {block: n for block, n in counts.items() if block not in selectors}
        if new:
            recipe = Recipe(counts=new, steps=steps, every=steps, seed=seed)
            selectors.update(train(vit, images, validation, recipe).selectors)
        by = by_selector(selectors)
        agreement = served_report(vit, vit, counts, by, validation)["agreement"]
        assert agreement is not None
        progress(plan, agreement)
        return agreement

    plan = insert_selectors(vit.config.depth, score, max_drop=max_drop)
    return merge_phases(plan)
