"""How selectors are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from foveate.selector.blocktable import BlockTable
from foveate.selector.decision import Fate
from foveate.selector.masked import EPS

__all__ = ["Budget", "Method", "Recipe", "after_warm_up", "warm_up"]

Method = Literal["distill", "gumbel"]


@dataclass(frozen=True)
class Budget:
    """Milliseconds that all blocks may take, by a device's table."""

    times: BlockTable
    ms: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train selectors. The defaults take the demo model about a minute.

    ``method="distill"`` keeps the backbone frozen and teaches each selector the dense model's deep
    CLS attention. ``method="gumbel"`` is SPViT's training, end to end through sampled decisions;
    with ``backbone`` the model's weights learn too, at a hundredth of the rate.

    The paper trains 30 epochs of ImageNet at 5e-4 * batch / 512; rates here are for a few hundred
    small steps.
    """

    counts: Mapping[int, int]  # block -> patch tokens to keep
    method: Method = "distill"
    backbone: bool = False
    shared: bool = True
    fate: Fate = "drop"
    steps: int = 120
    batch: int = 32
    rate: float = 3e-3
    decay: float = 0.05  # AdamW's, of matrices
    sparsity_weight: float = 2.0  # of the ratio loss, or of the latency loss
    kl_weight: float = 0.5
    token_weight: float = 0.5
    tau: float = 1.0
    eps: float = EPS  # of masked attention; 0 and no diagonal are for the ablation of its terms
    diagonal: bool = True
    secant: bool = True  # gradients of dropped tokens; see ``masked_attention``
    budget: Budget | None = None  # given: the latency loss, which leaves the ratios to training
    every: int = 20  # steps between validations and checkpoints
    patience: int = 5  # validations without a gain before it stops
    seed: int = 0


def warm_up(recipe: Recipe) -> Recipe:
    """Distillation before end-to-end training, after which log-odds separate tokens.

    From a random start that takes a long time; see ``docs/methods.md``.
    """
    return replace(recipe, method="distill", backbone=False, budget=None)


def after_warm_up(recipe: Recipe) -> Recipe:
    """End-to-end training at a rate for refining, the paper's 5e-4, not for starting over."""
    return replace(recipe, rate=5e-4)
