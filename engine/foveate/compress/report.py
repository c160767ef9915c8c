"""Cost and quality of a slim model, compared with the dense one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from foveate.compress.counts import parameters
from foveate.compress.search import macs
from foveate.model.vit import ViT

__all__ = ["Report", "examine", "times"]

_BATCH = 16  # images per forward pass; more only leave the cache
_ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class Report:
    """One model; times are seconds of processor time of a forward pass."""

    macs: int
    parameters: int
    seconds_batch_1: float
    seconds_batch_8: float
    top1: float | None  # None without labels
    agreement: float  # share of images classified as the first model does
    images: int


@torch.inference_mode()
def examine(
    vits: Sequence[ViT], pixels: Tensor, labels: Tensor | None, rounds: int = _ROUNDS
) -> list[Report]:
    """Reports of several models on the same images [n, H, W, 3] (uint8); the first is the dense."""
    guesses = [torch.cat([vit(p).argmax(1) for p in torch.split(pixels, _BATCH)]) for vit in vits]
    by_batch = [times(vits, [pixels[:batch]] * (rounds + 1)) for batch in (1, 8)]
    return [
        Report(
            macs=macs(vit.config, vit.config.dim, vit.config.shapes),
            parameters=parameters(vit.config),
            seconds_batch_1=one,
            seconds_batch_8=eight,
            top1=None if labels is None else (guess == labels).double().mean().item(),
            agreement=(guess == guesses[0]).double().mean().item(),
            images=len(pixels),
        )
        for vit, guess, one, eight in zip(vits, guesses, *by_batch, strict=True)
    ]


@torch.inference_mode()
def times(runs: Sequence[Callable[[Tensor], object]], rounds: Iterable[Tensor]) -> list[float]:
    """Median seconds of processor time of each run, interleaved; ``rounds`` are their inputs.

    The first round warms up and does not count.
    """
    samples: list[list[float]] = [[] for _ in runs]
    for pixels in rounds:
        for run, own in zip(runs, samples, strict=True):
            start = time.process_time()
            run(pixels)
            own.append(time.process_time() - start)
    return [median(own[1:]) for own in samples]
