"""The models a GPU is measured on: their sizes, random weights, levels and routes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from foveate.inference.fixed import Maker, Routes
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Fate, Prune
from foveate.reduce.vwt_intra import VwtIntra

__all__ = ["ROUTES", "SERVED", "Spec", "counts", "pruned", "random_vit", "spec", "tome"]


@dataclass(frozen=True)
class Spec:
    """A model, the blocks that prune, and how many rows a block of ToMe removes."""

    config: ViTConfig
    blocks: tuple[int, ...]
    removed: int

    def levels(self) -> dict[str, Schedule]:
        """What part ``model`` measures."""
        half = VwtIntra(keep=self.config.patches // 2 - 1)
        return {
            "dense": Schedule(),
            "keep 0.7": pruned(self, 7, "package"),
            "keep 0.5": pruned(self, 5, "package"),
            "vwt-intra": Schedule(input=half),
        }


def _config(side: int, dim: int, depth: int) -> ViTConfig:
    return ViTConfig(
        height=side,
        width=side,
        patch=16,
        dim=dim,
        depth=depth,
        heads=dim // 64,
        mlp_dim=4 * dim,
        classes=1000,
    )


SPECS = {
    "deit-s": Spec(_config(224, 384, 12), (3, 6, 9), 13),
    "deit-b": Spec(_config(224, 768, 12), (3, 6, 9), 16),
    "vit-l-384": Spec(_config(384, 1024, 24), (6, 12, 18), 8),
}
TINY = Spec(
    ViTConfig(height=48, width=48, patch=8, dim=32, depth=5, heads=2, mlp_dim=64, classes=10),
    (1, 2, 3),
    4,
)


def _routes() -> Iterator[tuple[str, Routes]]:
    """Every way to share out what both PyTorch and we can compute, by the names of what is ours."""
    makers: tuple[Maker, Maker] = ("torch", "foveate")
    for attention, gelu, norm in itertools.product(makers, repeat=3):
        routes = Routes(attention=attention, gelu=gelu, norm=norm)
        ours = [key for key, maker in vars(routes).items() if maker == "foveate"]
        yield " ".join(ours) or "torch", routes


ROUTES = dict(_routes())
SERVED = next(name for name, routes in ROUTES.items() if routes == Routes())


def spec(name: str, quick: bool) -> Spec:
    return TINY if quick else SPECS[name]


def counts(spec: Spec, tenths: int) -> dict[int, int]:
    """What stays at each of the blocks: this many tenths of the patches before it, rounded up."""
    keep, kept = spec.config.patches, {}
    for block in spec.blocks:
        kept[block] = keep = (keep * tenths + 9) // 10
    return kept


def pruned(spec: Spec, tenths: int, fate: Fate) -> Schedule:
    """Keep this many tenths of the patches at each of the blocks, rounded up."""
    kept = counts(spec, tenths).items()
    return Schedule(blocks={b: Prune(block=b, keep=keep, fate=fate) for b, keep in kept})


def tome(spec: Spec) -> Schedule:
    """ToMe as published: every block merges as many rows, or half of those there are."""
    n, blocks = 1 + spec.config.patches, {}
    for block in range(spec.config.depth):
        blocks[block] = Merge(block=block, remove=min(spec.removed, (n - 1) // 2))
        n -= blocks[block].remove
    return Schedule(blocks=blocks)


@torch.inference_mode(False)
def random_vit(config: ViTConfig, device: str, dtype: torch.dtype) -> ViT:
    """Weights that neither swell nor damp what passes, so attention looks at some tokens more.

    Made outside of inference mode, even if called within: compilers want ordinary parameters.
    """
    torch.manual_seed(0)
    vit = ViT(config).eval().requires_grad_(False)
    for module in vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            inputs = math.prod(module.weight.shape[1:])
            module.weight.normal_(std=inputs**-0.5)
            assert module.bias is not None
            module.bias.normal_(std=0.02)
    vit.pos_embed.normal_(std=0.5)
    vit.cls_token.normal_(std=0.5)
    return vit.to(device, dtype)
