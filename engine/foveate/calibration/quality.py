"""How well a point answers, with labels or without."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.accuracy.interval import wilson
from foveate.images.dataset import Images
from foveate.inference.engine import Engine
from foveate.levels.ladder import Quality

__all__ = ["Outcome", "answer", "difference", "judge"]

_ROWS = 2048  # tokens per forward pass; more only leave the cache
_TINY = 1e-7  # least probability a logarithm is taken of


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one point on ``n`` images."""

    n: int
    right: int | None  # images classified as labelled; None without labels
    agreeing: int  # images classified as level 0 classifies them
    hits: str  # one bit an image, as hexadecimal digits: right, without labels agreeing
    kl: float  # mean Kullback-Leibler divergence of its probabilities from level 0's, nats
    loss: float  # what a search lowers

    @property
    def quality(self) -> Quality:
        top1 = None if self.right is None else self.right / self.n
        return Quality(top1=top1, agreement=self.agreeing / self.n, n=self.n)

    @property
    def score(self) -> float:
        """Top-1, or agreement without labels."""
        return (self.agreeing if self.right is None else self.right) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Of the score, 95 % (Wilson)."""
        return wilson(self.agreeing if self.right is None else self.right, self.n)


def difference(first: Outcome, second: Outcome) -> tuple[float, float, float]:
    """By how much ``first`` scores more on the same images: the value and its 95 % interval.

    Paired: only images that exactly one of them answers correctly count (McNemar's variance, Wald's
    interval).
    """
    a, b = int(first.hits, 16), int(second.hits, 16)
    gained, lost, n = (a & ~b).bit_count(), (b & ~a).bit_count(), first.n
    value = (gained - lost) / n
    half = 1.96 * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    return value, value - half, value + half


def answer(engine: Engine, level: int, pixels: Tensor) -> Tensor:
    """Probabilities [n, classes] of images [n, H, W, 3] at one level."""
    tokens = engine.ladder.levels[level].tokens
    images = max(1, _ROWS * len(tokens) // sum(tokens))
    if engine.device.type == "cuda":
        images = engine.batches[-1]  # nothing is saved by less, and a part of a graph is none
    parts = torch.split(pixels, images)
    return torch.cat([engine.infer(part, [level] * len(part)).scores for part in parts])


def judge(scores: Tensor, dense: Tensor, images: Images) -> Outcome:
    """Compare probabilities [n, classes] with level 0's, and with labels if there are any."""
    classes, wanted = scores.argmax(1), dense.argmax(1)
    log = scores.clamp(min=_TINY).log()
    kl = F.kl_div(log, dense, reduction="batchmean").item()
    labels = images.labels
    hits = classes == (wanted if labels is None else labels)
    return Outcome(
        n=len(scores),
        right=None if labels is None else int(hits.sum()),
        agreeing=int((classes == wanted).sum()),
        hits=np.packbits(hits.numpy()).tobytes().hex(),
        kl=kl,
        loss=kl if labels is None else F.nll_loss(log, labels).item(),
    )
