"""Does a trained selector choose better tokens than the CLS token's attention? And why a short
end-to-end training can end with a selector that keeps everything.

    python -m foveate_benchmarks.ladders.selector [--distill-steps N] [--gumbel-steps N]
        [--ablation-steps N] [--resume]

Top-1 on held-out images at equal counts of tokens, blocks 1, 3 and 4 of the demo model. Selectors
are trained on composites of train digits, on one thread. Writes ``results/selector.json``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

from foveate.digits.evaluate import Accuracy
from foveate.images.dataset import Images
from foveate.images.digit_sets import held_out_images, training_images
from foveate.inference.allocator import tune_allocator
from foveate.model.vit import ViT, load_vit
from foveate.reduce.selector_network import Selector
from foveate.selector.masked import masked_forward
from foveate.selector.objectives import gumbel_objective
from foveate.selector.pruned import Score, by_attention, by_selector, pruned_forward
from foveate.selector.recipe import Recipe, after_warm_up
from foveate.selector.report import threshold_report
from foveate.selector.split import split
from foveate.selector.train import Trained, random_start, train
from foveate_benchmarks.results import save, saved

BLOCKS = (1, 3, 4)
RATIOS = (0.5, 0.3, 0.2)
SWEEP = 50


def counts(ratio: float, patches: int = 144) -> dict[int, int]:
    """Each block keeps ``ratio`` of what comes to it, never fewer than four tokens."""
    return {b: max(4, math.ceil(patches * ratio ** (i + 1))) for i, b in enumerate(BLOCKS)}


@torch.inference_mode()
def top1(vit: ViT, score: Score, kept: Mapping[int, int], images: Images) -> dict[str, Any]:
    """Share of right answers when exactly ``kept`` tokens stay, with its 95 % interval."""
    assert images.labels is not None
    guesses = [
        pruned_forward(vit, part, kept, score).logits.argmax(1)
        for part in torch.split(images.pixels, SWEEP)
    ]
    right = int((torch.cat(guesses) == images.labels).sum())
    accuracy = Accuracy(right, len(images))
    return {"top1": accuracy.top1, "interval": accuracy.interval}


def compare(vit: ViT, score: Score, images: Images) -> dict[str, Any]:
    return {f"{ratio:g}": top1(vit, score, counts(ratio), images) for ratio in RATIOS}


@torch.inference_mode()
def drawn_shares(
    vit: ViT,
    selectors: Mapping[int, Selector],
    images: Images,
    draws: torch.Generator | None,
) -> list[float]:
    """Mean share of patch tokens left after each selector, decisions drawn or by threshold."""
    total = torch.zeros(len(selectors))
    for part in torch.split(images.pixels, SWEEP):
        alive = masked_forward(vit, selectors, part, draws).alive.values()
        total += torch.stack([mask.mean(1).sum() for mask in alive])
    return (total / len(images)).tolist()


@torch.inference_mode()
def spread(vit: ViT, selectors: Mapping[int, Selector], images: Images) -> list[float]:
    """Standard deviation of log-odds over the tokens of an image, mean over images, by block."""
    ranks: dict[int, list[torch.Tensor]] = {}
    full = dict.fromkeys(selectors, vit.config.patches)
    for part in torch.split(images.pixels, SWEEP):
        pruned = pruned_forward(vit, part, full, by_selector(selectors))
        for block, rank in pruned.ranks.items():
            ranks.setdefault(block, []).append(rank.std(1))
    return [torch.cat(parts).mean().item() for parts in ranks.values()]


def told(
    label: str,
    recipe: Recipe,
    vit: ViT,
    learning: Images,
    validation: Images,
    start: Mapping[int, Selector] | None = None,
) -> tuple[Trained, float]:
    """Train, and say how it goes; returns the CPU seconds it took, validation included."""
    began = time.process_time()

    def show(stage: str, step: int, steps: int) -> None:
        if step % recipe.every == 0:
            seconds = time.process_time() - began
            print(f"{label}: {stage}, step {step} of {steps}, {seconds:.0f} s", flush=True)

    trained = train(vit, learning, validation, recipe, start=start, progress=show)
    return trained, time.process_time() - began


def ablations(steps: int) -> dict[str, Recipe]:
    """Short end-to-end trainings from a random start: what their gradients are made of."""
    ours = Recipe(
        counts=counts(0.4), method="gumbel", steps=steps, batch=16, every=steps, patience=10**6
    )
    slopes = replace(ours, secant=False)
    bare = replace(slopes, eps=0.0, diagonal=False)
    mild = {block: round(144 * 0.4 ** ((i + 1) / 3)) for i, block in enumerate(BLOCKS)}
    return {
        "secants": ours,
        "secants, 0.4 left in the end": replace(ours, counts=mild),
        "slopes, as in DynamicViT": slopes,
        "slopes, without eps and diagonal": bare,
        "slopes, without them, ten times the ratio loss": replace(bare, sparsity_weight=20.0),
    }


def gradients(vit: ViT, recipe: Recipe, images: Images) -> dict[str, float]:
    """Norms at the random start: of the ratio loss as weighted, and of the loss of the answers."""
    norms = {}
    for term, weighted in (
        ("ratio", replace(recipe, kl_weight=0.0, token_weight=0.0)),
        ("answers", replace(recipe, sparsity_weight=0.0)),
    ):
        selectors = random_start(vit, recipe)
        batch = images[: recipe.batch]
        batch = replace(batch, labels=None) if term == "ratio" else batch
        noise = torch.Generator().manual_seed(recipe.seed)
        loss = gumbel_objective(vit, vit, selectors, batch, weighted, noise)
        weights = [w for selector in selectors.values() for w in selector.parameters()]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        parts = [part.norm() for part in found if part is not None]
        norms[term] = torch.stack(parts).norm().item()
    return norms


def ablate(
    case: str, recipe: Recipe, vit: ViT, learning: Images, validation: Images
) -> dict[str, Any]:
    """Shares left after each selector: aimed at, drawn as in training, and by the threshold.

    If the drawn shares are near the aim while the threshold keeps everything or nothing, and
    log-odds hardly differ between tokens, it is the noise that selects. If the gradient of the
    answers dwarfs that of the ratio loss, the aim is not even heard: both are clipped as one.
    """
    norms = gradients(vit, recipe, learning)
    trained, seconds = told(case, recipe, vit, learning, validation)
    noise = torch.Generator().manual_seed(0)
    row = {
        "case": case,
        "images": recipe.steps * recipe.batch,
        "cpu_seconds": seconds,
        "gradients": norms,
        "aim": [n / 144 for n in recipe.counts.values()],
        "drawn": drawn_shares(vit, trained.selectors, validation, noise),
        "threshold": drawn_shares(vit, trained.selectors, validation, None),
        "log_odds_std": spread(vit, trained.selectors, validation),
        "top1_top_k": top1(vit, by_selector(trained.selectors), counts(0.4), validation),
    }
    print(row, flush=True)
    return row


def recipes(distill_steps: int, gumbel_steps: int) -> dict[str, Recipe]:
    """Trained selectors to compare. All aim at a ratio of 0.3 and are judged at every ratio."""
    distilled = Recipe(counts=counts(0.3), steps=distill_steps)
    gumbel = Recipe(counts=counts(0.3), method="gumbel", steps=gumbel_steps, batch=16, every=40)
    return {
        "distilled": distilled,
        "distilled, weights per head": replace(distilled, shared=False),
        "gumbel, frozen backbone": gumbel,
        "gumbel, trained backbone": replace(gumbel, backbone=True),
        "gumbel from distilled, frozen backbone": after_warm_up(gumbel),
        "gumbel from distilled, trained backbone": after_warm_up(replace(gumbel, backbone=True)),
    }


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    images: int = 2000,
    distill_steps: int = 100,
    gumbel_steps: int = 160,
    ablation_steps: int = 50,
    resume: bool = typer.Option(False, help="Keep what is in the result file already."),
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    vit = load_vit(repository / name / "1" / "model.safetensors")
    learning, validation = split(training_images(4096, 0), 0)
    held_out = held_out_images(images)
    asked = {
        "images": images,
        "blocks": list(BLOCKS),
        "counts": {f"{r:g}": {str(b): n for b, n in counts(r).items()} for r in RATIOS},
        "steps": {"distill": distill_steps, "gumbel": gumbel_steps, "ablation": ablation_steps},
    }
    done: dict[str, Any] = {**asked, "methods": {}, "ablation": []}
    if resume and (before := saved("selector")):
        if any(before.get(key) != value for key, value in asked.items()):
            raise SystemExit("selector.json: of other arguments")
        done = before
    methods: dict[str, Any] = done["methods"]

    def keep() -> None:
        save("selector", **done)

    if "cls-value" not in methods:
        done["dense"] = top1(vit, by_attention, {}, held_out)
        methods["cls-value"] = {"top1": compare(vit, by_attention, held_out)}
        keep()
    start: dict[int, Selector] = {}
    for label, recipe in recipes(distill_steps, gumbel_steps).items():
        if label in methods and label != "distilled":  # which others begin with
            continue
        begin = start if "from distilled" in label else None
        trained, seconds = told(label, recipe, vit, learning, validation, start=begin)
        if label == "distilled":
            start = trained.selectors
        score = by_selector(trained.selectors)
        methods[label] = {
            "steps": trained.steps,
            "batch": recipe.batch,
            "rate": recipe.rate,
            "cpu_seconds": seconds,
            "parameters": sum(
                weight.numel() for s in trained.selectors.values() for weight in s.parameters()
            ),
            "history": trained.history,
            "log_odds_std": spread(trained.vit, trained.selectors, validation),
            "top1": compare(trained.vit, score, held_out),
            "threshold": threshold_report(trained.vit, trained.selectors, held_out),
        }
        if recipe.backbone:  # what of it is the backbone's?
            methods[label]["cls_value_top1"] = compare(trained.vit, by_attention, held_out)
        keep()
        print(label, {r: row["top1"] for r, row in methods[label]["top1"].items()}, flush=True)
    for case, recipe in ablations(ablation_steps).items():
        if case not in {row["case"] for row in done["ablation"]}:
            done["ablation"].append(ablate(case, recipe, vit, learning, validation))
            keep()


if __name__ == "__main__":
    typer.run(main)
