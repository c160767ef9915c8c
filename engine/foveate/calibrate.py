"""Measure candidate levels on this machine and write the ladder of those worth having.

Candidates are chosen on one set of images and reported on another, so that the qualities in
``ladder.json`` are not the luck of the choice. Nothing in a ladder is estimated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from foveate.engine import Engine, Prepared
from foveate.ladder import Ladder, LatencyTable, Level, Quality
from foveate.latency import measure
from foveate.reduce.prune import Fate, Prune
from foveate.reduce.vwt_inter import VwtInter, learn_words
from foveate.reduce.vwt_intra import VwtIntra
from foveate.schedule import Schedule
from foveate.vit import ViTConfig, load_vit, patchify

__all__ = ["Calibration", "Images", "calibrate", "candidates", "climb"]

WEIGHTS = "model.safetensors"
WORDS = 100
_SWEEP = 16  # images per forward pass; more only leave the cache


@dataclass(frozen=True)
class Images:
    """Images [n, H, W, 3] (uint8) and, if there are any, their labels [n] (int64)."""

    pixels: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Calibration:
    """The ladder that was written and what its levels took here."""

    ladder: Ladder
    latency: LatencyTable


def calibrate(
    folder: Path,
    model: str,
    choose: Images,
    report: Images,
    *,
    max_loss: float = 0.025,
    step: float = 1.25,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Write ``ladder.json`` (and a vocabulary, if a level uses it) into a version folder.

    Args:
        folder: version folder that holds ``model.safetensors``.
        choose, report: images to choose levels on, and to measure the chosen ones on.
        max_loss: largest loss of quality against level 0 a level may have, on either set.
        step: least ratio of times between neighbouring levels.
        progress: told what is being measured.
    """
    vit = load_vit(folder / WEIGHTS)
    config = vit.config
    rows = patchify(choose.pixels[:256], config.patch).flatten(0, 1).float()
    progress(f"learn {WORDS} visual words from {len(rows)} patches")
    words = learn_words((rows / 255.0 - config.mean) / config.std, WORDS)
    words = normalize(words.half().float(), dim=1)  # as they are stored
    schedules = candidates(config)
    names = [_name(schedule) for schedule in schedules]

    def bind(chosen: Sequence[int], qualities: Sequence[Quality]) -> Engine:
        levels = [
            _level(names[i], schedules[i], config, quality)
            for i, quality in zip(chosen, qualities, strict=True)
        ]
        ladder = Ladder(
            model=model,
            image_size=(config.height, config.width),
            tokens=config.patches + 1,
            levels=tuple(levels),
        )
        return Engine(ladder, [Prepared(schedules[i], vit, words) for i in chosen])

    everything = range(len(schedules))
    unknown = Quality(top1=None, agreement=0.0, n=0)
    engine = bind(everything, [unknown] * len(schedules))
    progress(f"time {len(schedules)} candidates at batch 8")
    seconds = [row[0] for row in measure(engine, batches=(8,), clock=time.process_time).seconds]
    qualities = _qualities(engine, choose, progress)
    scores = [q.agreement if q.top1 is None else q.top1 for q in qualities]
    chosen = climb(seconds, scores, max_loss=max_loss, step=step)

    progress(f"measure {len(chosen)} chosen levels on {len(report.pixels)} other images")
    engine = bind(chosen, [unknown] * len(chosen))
    measured = _qualities(engine, report, progress)
    scores = [q.agreement if q.top1 is None else q.top1 for q in measured]
    kept = [i for i, score in enumerate(scores) if scores[0] - score <= max_loss]
    chosen, measured = [chosen[i] for i in kept], _monotone([measured[i] for i in kept])
    engine = bind(chosen, measured)
    if any(level.vocabulary for level in engine.ladder.levels):
        save_file({"words": words.half()}, folder / _words_file())
    engine.ladder.save(folder / "ladder.json")
    progress("time the ladder")
    return Calibration(engine.ladder, measure(engine, clock=time.process_time))


def candidates(config: ViTConfig) -> list[Schedule]:
    """A small grid: dense first, then words at the input, pruning alone, and both together.

    Pruning acts after a quarter, a half and three quarters of the blocks, as published, or after
    one and two thirds: early pruning is what costs quality.
    """
    n, depth = config.patches, config.depth
    inputs: list[VwtIntra | VwtInter] = [
        *(VwtIntra(keep=round(n * share)) for share in (0.7, 0.6, 0.5, 0.4, 0.3, 0.25)),
        *(VwtInter(count=round(n * share)) for share in (0.5, 0.3)),
    ]
    quarters, thirds = (depth // 4, depth // 2, 3 * depth // 4), (depth // 3, 2 * depth // 3)
    fates: tuple[Fate, ...] = ("drop", "package")
    return [
        Schedule(),
        *(Schedule(input=reducer) for reducer in inputs),
        *(
            Schedule(blocks=_prunes(blocks, n, ratio, fate))
            for blocks, ratios in ((quarters, (0.7, 0.5)), (thirds, (0.7, 0.5, 0.3)))
            for ratio in ratios
            for fate in fates
        ),
        *(
            Schedule(input=reducer, blocks=_prunes(thirds, reducer.tokens() - 1, ratio, "package"))
            for reducer in inputs
            for ratio in (0.6, 0.4, 0.3)
        ),
    ]


def _prunes(blocks: Sequence[int], first: int, ratio: float, fate: Fate) -> dict[int, Prune]:
    """Keep ``ratio`` of the tokens at each block, starting from ``first``."""
    return {
        block: Prune(block=block, keep=max(4, math.ceil(first * ratio ** (i + 1))), fate=fate)
        for i, block in enumerate(blocks)
    }


def climb(
    seconds: Sequence[float], scores: Sequence[float], *, max_loss: float, step: float
) -> list[int]:
    """Indices of the levels to keep, dearest first; index 0 is always the first.

    From the front of time against score: no level that another beats in both, none that loses more
    than ``max_loss``, neighbours at least ``step`` apart in time.
    """
    fast_first = sorted(range(1, len(seconds)), key=lambda i: (seconds[i], -scores[i]))
    front: list[int] = []
    best = -math.inf
    for i in fast_first:
        if scores[i] > best and scores[0] - scores[i] <= max_loss:
            front.append(i)
            best = scores[i]
    ladder = [0]
    for i in reversed(front):
        if seconds[i] * step <= seconds[ladder[-1]]:
            ladder.append(i)
    return ladder


def _qualities(engine: Engine, images: Images, progress: Callable[[str], None]) -> list[Quality]:
    """Top-1 (with labels) and agreement with level 0 of every level."""
    dense: Tensor | None = None
    out = []
    for index, level in enumerate(engine.ladder.levels):
        progress(f"quality of {level.name}")
        classes = torch.cat(
            [
                engine.infer(part, [index] * len(part)).scores.argmax(1)
                for part in torch.split(images.pixels, _SWEEP)
            ]
        )
        dense = classes if dense is None else dense
        top1 = None if images.labels is None else (classes == images.labels).double().mean().item()
        agreement = (classes == dense).double().mean().item()
        out.append(Quality(top1=top1, agreement=agreement, n=len(classes)))
    return out


def _monotone(qualities: Sequence[Quality]) -> list[Quality]:
    """Lower a measured quality to that of the dearer level before it, if it is above."""
    out = [qualities[0]]
    for quality in qualities[1:]:
        last = out[-1]
        top1 = None
        if quality.top1 is not None and last.top1 is not None:
            top1 = min(quality.top1, last.top1)
        out.append(
            Quality(top1=top1, agreement=min(quality.agreement, last.agreement), n=quality.n)
        )
    return out


def _level(name: str, schedule: Schedule, config: ViTConfig, quality: Quality) -> Level:
    uses_words = isinstance(schedule.input, VwtInter)
    return Level(
        name=name,
        reducers=schedule.dump(),
        weights=WEIGHTS,
        vocabulary=_words_file() if uses_words else None,
        tokens=tuple(schedule.tokens(config)[1]),
        macs=schedule.macs(config, WORDS if uses_words else 0),
        quality=quality,
    )


def _name(schedule: Schedule) -> str:
    """Such as ``dense``, ``intra43`` or ``intra43+package22-11-6``."""
    parts = []
    if isinstance(schedule.input, VwtIntra):
        parts.append(f"intra{schedule.input.keep}")
    elif isinstance(schedule.input, VwtInter):
        parts.append(f"inter{schedule.input.count}")
    prunes = [reducer for reducer in schedule.blocks.values() if isinstance(reducer, Prune)]
    if prunes:
        parts.append(prunes[0].fate + "-".join(str(prune.keep) for prune in prunes))
    return "+".join(parts) or "dense"


def _words_file() -> str:
    return f"words-{WORDS}.safetensors"
