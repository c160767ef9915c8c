"""Pictures of a calibration, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from foveate.calibration.result import Calibration, Trial

__all__ = ["quality_figure", "token_figure"]

_PACKAGED, _MERGED = (1.0, 0.55, 0.0), (0.1, 0.45, 1.0)  # tints, RGB 0..1
_DPI = 110
_ROUNDING = 1e-6  # nats: what float32 makes of a divergence of 0, with either sign


def quality_figure(found: Calibration) -> bytes:
    """Against time: how far what was tried is from level 0; how good ladder and methods are."""
    scale = "top-1" if found.ladder.uses_labels else "agreement with level 0"
    figure = Figure(figsize=(12.5, 5), layout="constrained")
    tried, compared = figure.subplots(1, 2, sharex=True)
    cheaper = [trial for trial in found.trials if trial.level != 0]
    for family in dict.fromkeys(trial.point.family for trial in cheaper):
        trials = [trial for trial in cheaper if trial.point.family == family]
        x, y = _divergences(trials)
        tried.plot(x, y, "o", markersize=5, alpha=0.7, label=family)
    x, y = _divergences(sorted((t for t in cheaper if t.on_front), key=lambda t: t.seconds))
    tried.plot(x, y, "-", color="black", linewidth=1, label="front")
    tried.set_title(f"Finalists, on the {found.trials[0].outcome.n} images of the choice")
    tried.set_ylabel("divergence from level 0, nats")
    # Not a plain logarithm: answers may equal level 0's.
    tried.set_yscale("symlog", linthresh=_ROUNDING, subs=range(2, 10))

    for family in dict.fromkeys(name for contest in found.contests for name in contest.rivals):
        rivals = [c.rivals[family] for c in found.contests if family in c.rivals]
        points = [(rival.seconds, rival.outcome.score) for rival in rivals]
        compared.plot(*_percent(points), ".--", linewidth=0.8, label=f"{family}, uniform")
    contests = {contest.level: contest for contest in found.contests}.values()
    x, y = _percent([(contest.seconds, contest.outcome.score) for contest in contests])
    ends = [contest.outcome.interval for contest in contests]
    errors = [
        [value - 100 * low for value, (low, _) in zip(y, ends, strict=True)],
        [100 * high - value for value, (_, high) in zip(y, ends, strict=True)],
    ]
    compared.errorbar(x, y, errors, fmt="s-", color="black", capsize=3, label="ladder")
    compared.set_ylabel(f"{scale}, %")
    if contests:
        n = next(iter(contests)).outcome.n
        compared.set_title(f"Ladder and uniform schedules, on {n} other images")
        compared.set_ylim(bottom=min(min(y), 100 * found.outcomes[0].score) - 8)
    for axes in (tried, compared):
        # Also where no level fits a budget there is something to scale the axis by.
        dense = 1e3 * found.trials[0].seconds
        axes.axvline(dense, color="black", linestyle=":", linewidth=1, label="level 0")
        axes.legend(fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(f"ms per batch of {found.settings.batch}")
        axes.grid(alpha=0.3, which="both")
    return _png(figure)


def token_figure(found: Calibration) -> bytes:
    """What became of each patch of the sample images, a row a level."""
    levels, samples = found.token_maps.shape[:2]
    figure = Figure(figsize=(1.5 * samples + 1.5, 1.55 * levels + 0.4), layout="constrained")
    grid = figure.subplots(levels, samples, squeeze=False)
    for level, row in enumerate(grid):
        for sample, axes in enumerate(row):
            axes.imshow(tinted(found.samples[sample], found.token_maps[level, sample]))
            axes.set(xticks=[], yticks=[])
        name = found.ladder.levels[level].name.replace("+", "+\n")
        row[0].set_ylabel(f"{level}\n{name}", fontsize=7)
    legend = [Patch(color=_MERGED, label="merged"), Patch(color=_PACKAGED, label="packaged")]
    legend += [Patch(color="black", label="dropped")]
    figure.legend(handles=legend, loc="outside upper center", ncols=3, fontsize=8)
    return _png(figure)


def tinted(pixels: Tensor, tokens: Tensor) -> NDArray[np.float32]:
    """An image [H, W, 3] (uint8) with patches coloured by their token [patches] (int16).

    Kept patches stay as they are; those that share a token are merged; -1 is dropped, -2 packaged.
    """
    height, width = pixels.shape[:2]
    side = int((height * width / len(tokens)) ** 0.5)
    members = torch.bincount(tokens[tokens >= 0].long(), minlength=1)
    shared = (tokens >= 0) & (members[tokens.clamp(min=0).long()] > 1)
    image = pixels.float().numpy() / 255
    for mask, colour, strength in (
        (shared, _MERGED, 0.55),
        (tokens == -2, _PACKAGED, 0.55),
        (tokens == -1, (0.0, 0.0, 0.0), 0.85),
    ):
        cells = mask.view(height // side, width // side).numpy()
        weight = strength * np.kron(cells, np.ones((side, side)))[..., None]
        image = image * (1 - weight) + np.array(colour) * weight
    return image.astype(np.float32)


def _divergences(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Milliseconds and nats; a divergence is never negative but by rounding."""
    return [1e3 * t.seconds for t in trials], [max(0.0, t.outcome.kl) for t in trials]


def _percent(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Milliseconds and per cent of seconds and shares."""
    return [1e3 * seconds for seconds, _ in points], [100 * score for _, score in points]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
