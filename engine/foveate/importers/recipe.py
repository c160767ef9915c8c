"""What a family knows about a checkpoint: names of tensors, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foveate.images.preprocess import Preprocess
from foveate.model.vit import Activation, Pool

__all__ = ["IMAGENET", "INCEPTION", "Layout", "Recipe", "Rgb"]

Rgb = tuple[float, float, float]

IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names of tensors by those of timm, without ``.weight`` and ``.bias`` where both are alike.

    What is not listed is called as timm calls it.
    """

    block: str = "blocks.{}"
    inside: Mapping[str, str] = field(default_factory=dict)  # of a block
    outside: Mapping[str, str] = field(default_factory=dict)

    def name(self, timm: str, block: int | None = None) -> str:
        """Their name of a tensor, of a ``block`` if given."""
        table = self.outside if block is None else self.inside
        stem, _, kind = timm.rpartition(".")
        if timm in table:
            name = table[timm]
        elif stem in table:
            name = f"{table[stem]}.{kind}"
        else:
            name = timm
        return name if block is None else f"{self.block.format(block)}.{name}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to read one checkpoint."""

    family: str
    layout: Layout
    heads: int
    eps: float
    size: tuple[int, int]  # height, width of the images it is made for
    mean: Rgb  # of pixels scaled to 0..1
    std: Rgb
    preprocess: Preprocess
    pool: Pool = "cls"
    activation: Activation = "gelu"
    grid: tuple[int, int] | None = None  # of the position embeddings, in patches; None: a square
    # When position embeddings are interpolated, as the original does it:
    antialias: bool = True
    align_corners: bool = False
    unasked: bool = False  # it does so for whatever size comes
    labels: Sequence[str] | None = None
    ignored: tuple[str, ...] = ()  # beginnings of names of tensors that serving does not need
    zero_shot: bool = False  # the head is made of texts
    sigmoid: bool = False
    assumed: str | None = None  # what the checkpoint does not say
