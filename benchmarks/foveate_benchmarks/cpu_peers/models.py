"""The models of the comparison, and their levels: reducers with counts that hit a share of the
dense model's multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.images.cluttered_digits import test_set
from foveate.inference.prepared import PreparedLadder, PreparedLevel
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig
from foveate.reduce.selector_network import Selector
from foveate_benchmarks.gpu.models import random_vit

__all__ = ["MODELS", "PRUNE", "SELECTOR", "VWT", "Model", "model"]

# Levels that have a bar of their own.
PRUNE, SELECTOR, VWT = (
    "prune, 63 % of MACs",
    "selector, 51 % of MACs",
    "vwt-intra, half the patches",
)
SHARES = {PRUNE: 0.63, SELECTOR: 0.51}

MODELS = ("demo", "deit-t", "deit-s", "toy")

Reducers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """A model, its ladder, and images to send."""

    name: str
    prepared: PreparedLadder
    images: Tensor  # [B, H, W, 3] uint8

    @property
    def vit(self) -> ViT:
        return self.prepared.levels[0].vit

    def share(self, level: int) -> float:
        """Of the multiply-accumulates of the dense model."""
        levels = self.prepared.ladder.levels
        return levels[level].macs / levels[0].macs

    def level(self, name: str) -> int | None:
        """Its index; None if this model has none of that name."""
        names = [level.name for level in self.prepared.ladder.levels]
        return names.index(name) if name in names else None


def model(name: str, repository: Path, images: int) -> Model:
    """``demo`` as it is shipped; the others have random weights, on which no time depends."""
    if name == "demo":
        prepared = PreparedLadder.load(repository / "digits" / "1")
        return Model(name, prepared, torch.from_numpy(test_set(images)[0]))
    if name not in MODELS:
        raise ValueError(f"models={name!r}: expected {', '.join(MODELS)}")
    config = _CONFIGS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (images, config.height, config.width, 3)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Model(name, _random(name, config), noise)


def _deit(dim: int) -> ViTConfig:
    return ViTConfig(
        height=224,
        width=224,
        patch=16,
        dim=dim,
        depth=12,
        heads=dim // 64,
        mlp_dim=4 * dim,
        classes=1000,
    )


_CONFIGS = {
    "deit-t": _deit(192),
    "deit-s": _deit(384),
    "toy": ViTConfig(
        height=64, width=64, patch=8, dim=64, depth=4, heads=2, mlp_dim=128, classes=10
    ),
}


def _random(name: str, config: ViTConfig) -> PreparedLadder:
    vit = random_vit(config, "cpu", torch.float32)
    blocks = _blocks(config)
    selectors = {block: Selector(config).eval().requires_grad_(False) for block in blocks}
    per_token = selectors[blocks[0]].macs
    levels, prepared = [], []
    for title, reducers in _levels(config, per_token).items():
        schedule = Schedule.parse(reducers, config)
        own = {block: selectors[block] for block in schedule.selectors}
        prepared.append(PreparedLevel(schedule, vit, selectors=own))
        levels.append(
            Level(
                name=title,
                reducers=tuple(reducers),
                weights="model.safetensors",
                vocabulary=None,
                tokens=tuple(schedule.tokens(config)[1]),
                macs=schedule.macs(config, selector=per_token),
                quality=Quality(top1=None, agreement=0.0, n=0),
                selector="selector.safetensors" if own else None,
            )
        )
    ladder = Ladder(
        model=name,
        image_size=(config.height, config.width),
        tokens=config.tokens,
        levels=tuple(levels),
    )
    return PreparedLadder(ladder, tuple(prepared))


def _blocks(config: ViTConfig) -> tuple[int, ...]:
    """That prune: at a quarter, a half and three quarters."""
    return tuple(config.depth * part // 4 for part in (1, 2, 3))


def _levels(config: ViTConfig, selector: int) -> dict[str, Reducers]:
    half, blocks = config.patches // 2, _blocks(config)

    def nearest(share: float, build: Callable[[float], Reducers]) -> Reducers:
        """The reducers, by the ratio they keep, whose cost is nearest to this share."""
        dense = Schedule().macs(config)

        def miss(ratio: float) -> float:
            cost = Schedule.parse(build(ratio), config).macs(config, selector=selector)
            return abs(cost / dense - share)

        return build(min((step / 200 for step in range(100, 190)), key=miss))

    def prune(ratio: float, patches: int = config.patches, **how: str) -> Reducers:
        counts = [max(4, round(patches * ratio ** (i + 1))) for i in range(len(blocks))]
        return [
            {"kind": "prune", "block": block, "keep": keep, **how}
            for block, keep in zip(blocks, counts, strict=True)
        ]

    def both(ratio: float) -> Reducers:
        kept = round(config.patches * ratio)
        return [{"kind": "vwt-intra", "keep": kept}, *prune(ratio, kept, fate="package")]

    return {
        "dense": [],
        PRUNE: nearest(SHARES[PRUNE], lambda r: prune(r, fate="drop")),
        SELECTOR: nearest(SHARES[SELECTOR], lambda r: prune(r, fate="package", score="selector")),
        VWT: [{"kind": "vwt-intra", "keep": half}],
        "prune, half at three blocks": prune(0.5, fate="drop"),
        "vwt-intra and prune, 25 % of MACs": nearest(0.25, both),
    }
