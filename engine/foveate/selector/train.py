"""The training loop: steps that depend on (seed, step) alone, validation, early stop, resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.images.dataset import Images
from foveate.images.folder import Progress
from foveate.model.vit import ViT
from foveate.reduce.selector_network import Selector
from foveate.selector.budget import fit_counts
from foveate.selector.checkpoint import load_checkpoint, save_checkpoint
from foveate.selector.masked import masked_forward
from foveate.selector.objectives import OBJECTIVES
from foveate.selector.pruned import by_selector, pruned_forward
from foveate.selector.recipe import Budget, Recipe

__all__ = ["Trained", "random_start", "train", "validate"]

_BATCH = 32  # images per validation pass


@dataclass(frozen=True)
class Trained:
    """Selectors by block and the model they are for, both frozen and in evaluation mode."""

    selectors: dict[int, Selector]
    vit: ViT
    counts: dict[int, int]  # patch tokens to keep: the recipe's, or with a budget the learned ones
    steps: int  # done until the end or the early stop
    history: list[dict[str, float]]  # "step" and "divergence" of every validation


def train(
    vit: ViT,
    images: Images,
    validation: Images,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    start: Mapping[int, Selector] | None = None,
    progress: Progress = lambda *_: None,
) -> Trained:
    """Train one selector for each block of ``recipe.counts``; return the best by validation.

    Args:
        vit: the dense model; it is its own teacher and stays as it is.
        images, validation: see :func:`~foveate.selector.split.split`. Labels are used if given.
        checkpoint: written at each validation, read at the start, removed at the end. A resumed run
            gives bit-identical results.
        start: selectors to begin with, of any of the blocks.
        progress: called after each step with method and loss, steps done and most steps.

    Raises :class:`~foveate.errors.InputError` if ``checkpoint`` is of another run.
    """
    settings = _settings(recipe, images)
    student = copy.deepcopy(vit).requires_grad_(recipe.backbone)
    selectors = random_start(vit, recipe)
    for block, selector in (start or {}).items():
        if block in selectors:
            selectors[block].load_state_dict(selector.state_dict())
    optimiser = _optimiser(student, selectors, recipe)
    objective = OBJECTIVES[recipe.method]
    best = math.inf
    kept = _states(student, selectors)
    history: list[dict[str, float]] = []
    first = since = 0
    state = load_checkpoint(checkpoint, settings) if checkpoint else None
    if state is not None:
        _restore(student, selectors, state["now"])
        optimiser.load_state_dict(state["optimiser"])
        kept, history = state["best"], state["history"]
        first, best, since = state["step"], state["score"], state["since"]

    step = first
    while step < recipe.steps and since < recipe.patience:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _cosine(step / recipe.steps)
        loss = objective(vit, student, selectors, images[rows], recipe, generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()
        step += 1
        progress(f"{recipe.method}: loss {loss.item():.3f}", step, recipe.steps)
        if step % recipe.every == 0 or step == recipe.steps:
            score = validate(vit, student, selectors, validation, recipe)
            history.append({"step": step, "divergence": score})
            since += 1
            if score < best:
                best, since, kept = score, 0, _states(student, selectors)
            if checkpoint:
                now = _states(student, selectors)
                save_checkpoint(
                    checkpoint,
                    {
                        "settings": settings,
                        "step": step,
                        "score": best,
                        "since": since,
                        "history": history,
                        "now": now,
                        "best": kept,
                        "optimiser": optimiser.state_dict(),
                    },
                )
    _restore(student, selectors, kept)
    student.eval().requires_grad_(False)
    for selector in selectors.values():
        selector.eval().requires_grad_(False)
    if recipe.method == "distill":
        centre(student, selectors, validation, recipe)
    counts = dict(recipe.counts)
    if recipe.budget is not None:
        counts = learned_counts(student, selectors, validation, recipe, recipe.budget)
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    return Trained(selectors, student, counts, step, history)


@torch.inference_mode()
def validate(
    vit: ViT,
    student: ViT,
    selectors: Mapping[int, Selector],
    images: Images,
    recipe: Recipe,
) -> float:
    """Mean KL(dense model || student as served, top-k), nats: needs no labels, finer than top-1."""
    total = 0.0
    for part in torch.split(images.pixels, _BATCH):
        dense = vit(part).log_softmax(-1)
        pruned = pruned_forward(
            student, part, recipe.counts, by_selector(selectors), recipe.fate
        ).logits.log_softmax(-1)
        total += F.kl_div(pruned, dense, log_target=True, reduction="sum").item()
    return total / len(images)


@torch.inference_mode()
def centre(student: ViT, selectors: Mapping[int, Selector], images: Images, recipe: Recipe) -> None:
    """Shift log-odds so that, on average, keep-probability 0.5 keeps the counts of the recipe.

    A ranking leaves their offset open; it matters for a threshold and in a package token.
    """
    cuts: dict[int, list[Tensor]] = {block: [] for block in selectors}
    for part in torch.split(images.pixels, _BATCH):
        pruned = pruned_forward(student, part, recipe.counts, by_selector(selectors), recipe.fate)
        for block, ranks in pruned.ranks.items():
            ordered = ranks.sort(1, descending=True).values
            k = recipe.counts[block]
            cuts[block].append(ordered[:, k - 1 : k + 1].mean(1))
    for block, selector in selectors.items():
        selector.shift(-torch.cat(cuts[block]).mean().item())


@torch.inference_mode()
def learned_counts(
    student: ViT,
    selectors: Mapping[int, Selector],
    images: Images,
    recipe: Recipe,
    budget: Budget,
) -> dict[int, int]:
    """Counts in the proportion in which drawn decisions keep tokens, made to fit the budget."""
    noise = torch.Generator().manual_seed(recipe.seed)
    kept = dict.fromkeys(selectors, 0.0)
    for part in torch.split(images.pixels, _BATCH):
        masked = masked_forward(student, selectors, part, noise, fate=recipe.fate, tau=recipe.tau)
        for block, alive in masked.alive.items():
            kept[block] += alive.sum().item()
    config = student.config
    shape = {
        block: min(max(total / (len(images) * config.patches), 0.01), 0.99)
        for block, total in kept.items()
    }
    return fit_counts(budget.times, shape, config.depth, config.patches, budget.ms)


def random_start(vit: ViT, recipe: Recipe) -> dict[int, Selector]:
    """Selectors by block, with weights drawn by the seed of the recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return {block: Selector(vit.config, recipe.shared) for block in sorted(recipe.counts)}


def _optimiser(
    student: ViT, selectors: Mapping[int, Selector], recipe: Recipe
) -> torch.optim.Optimizer:
    """AdamW; the backbone at a hundredth of the rate, its CLS token and positions frozen (§1.6)."""
    groups = []
    own = [p for selector in selectors.values() for p in selector.parameters()]
    sets = [(own, recipe.rate)]
    if recipe.backbone:
        student.cls_token.requires_grad_(False)
        student.pos_embed.requires_grad_(False)
        sets.append(([p for p in student.parameters() if p.requires_grad], 0.01 * recipe.rate))
    for parameters, rate in sets:
        for decay, chosen in (
            (recipe.decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            groups.append({"params": chosen, "weight_decay": decay, "base": rate, "lr": rate})
    return torch.optim.AdamW(groups)


def _cosine(done: float) -> float:
    """From 1 to 0.02, the ratio of the paper's rates 5e-4 and 1e-5."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _states(student: ViT, selectors: Mapping[int, Selector]) -> dict[str, Any]:
    states: dict[str, Any] = {
        str(block): copy.deepcopy(selector.state_dict()) for block, selector in selectors.items()
    }
    return {**states, "vit": copy.deepcopy(student.state_dict())}


def _restore(student: ViT, selectors: Mapping[int, Selector], states: Mapping[str, Any]) -> None:
    for block, selector in selectors.items():
        selector.load_state_dict(states[str(block)])
    student.load_state_dict(states["vit"])


def _settings(recipe: Recipe, images: Images) -> dict[str, Any]:
    """What a checkpoint must have been begun with, as plain values."""
    values = asdict(recipe)
    values["counts"] = dict(sorted(recipe.counts.items()))
    return {**values, "images": len(images), "labels": images.labels is not None}
