"""The loss of one training step, by method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.images.dataset import Images
from foveate.model.vit import ViT
from foveate.reduce.selector_network import Selector
from foveate.selector.losses import (
    attention_loss,
    distillation_loss,
    latency_loss,
    ratio_loss,
)
from foveate.selector.masked import masked_forward
from foveate.selector.pruned import by_selector, pruned_forward
from foveate.selector.recipe import Recipe
from foveate.selector.teacher import teach

__all__ = ["OBJECTIVES", "Objective"]

_MIN_TOKEN_SHARE = 0.5  # minimum share of a count, in distillation

Objective = Callable[[ViT, ViT, Mapping[int, Selector], Images, Recipe, torch.Generator], Tensor]
"""(dense teacher, student, selectors, batch, recipe, noise) -> loss."""


def attention_objective(
    vit: ViT,
    student: ViT,
    selectors: Mapping[int, Selector],
    images: Images,
    recipe: Recipe,
    noise: torch.Generator,
) -> Tensor:
    """Each selector learns the dense model's deep CLS attention on the tokens that reach it.

    Tokens are really removed, so a step costs less than a dense one. Each step draws how many, from
    half the recipe's counts up to all, so that one set of selectors serves many levels.
    """
    taught = teach(vit, images.pixels)
    stretch = float(torch.rand((), generator=noise))
    patches = vit.config.patches
    counts = {
        block: round(n * _MIN_TOKEN_SHARE + (patches - n * _MIN_TOKEN_SHARE) * stretch)
        for block, n in recipe.counts.items()
    }
    pruned = pruned_forward(student, images.pixels, counts, by_selector(selectors), recipe.fate)
    losses = [
        attention_loss(pruned.ranks[block], pruned.positions[block], taught.attention)
        for block in pruned.ranks
    ]
    return torch.stack(losses).mean()


def gumbel_objective(
    vit: ViT,
    student: ViT,
    selectors: Mapping[int, Selector],
    images: Images,
    recipe: Recipe,
    noise: torch.Generator,
) -> Tensor:
    """SPViT's: classes, sparsity, and distillation of classes and surviving tokens (§4.4).

    Without labels the first term is missing, and only the teacher's classes guide training.
    """
    taught = teach(vit, images.pixels)
    masked = masked_forward(
        student,
        selectors,
        images.pixels,
        noise,
        fate=recipe.fate,
        tau=recipe.tau,
        eps=recipe.eps,
        diagonal=recipe.diagonal,
        secant=recipe.secant,
    )
    patches = vit.config.patches
    if recipe.budget is None:
        ratios = {block: n / patches for block, n in recipe.counts.items()}
        sparsity = ratio_loss(masked.alive, ratios)
    else:
        budget = recipe.budget
        sparsity = latency_loss(masked.alive, budget.times, vit.config.depth, budget.ms)
    divergence, error = distillation_loss(masked, taught.logits, taught.patches)
    loss = (
        recipe.sparsity_weight * sparsity
        + recipe.kl_weight * divergence
        + recipe.token_weight * error
    )
    if images.labels is not None:
        loss = loss + F.cross_entropy(masked.logits, images.labels)
    return loss


OBJECTIVES: dict[str, Objective] = {"distill": attention_objective, "gumbel": gumbel_objective}
