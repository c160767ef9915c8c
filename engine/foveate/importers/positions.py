"""Position embeddings, for another size of image if wanted."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from foveate.errors import WeightsError

__all__ = ["find_grid", "interpolate"]


def find_grid(
    count: int, prefix: int, grid: tuple[int, int] | None, where: str
) -> tuple[tuple[int, int], int]:
    """Rows and columns of ``count`` position embeddings, and how many of the ``prefix`` first
    tokens have one too: all, CLS alone, or none.

    Raises :class:`WeightsError` if neither ``grid`` nor a square leaves such a number.
    """
    for positioned in sorted({prefix, min(prefix, 1), 0}, reverse=True):
        patches = count - positioned
        if grid is not None and grid[0] * grid[1] == patches:
            return grid, positioned
        edge = math.isqrt(max(patches, 0))
        if grid is None and edge > 0 and edge**2 == patches:
            return (edge, edge), positioned
    expected = "a square" if grid is None else f"{grid[0]}x{grid[1]}"
    raise WeightsError(
        f"{where}: position embeddings: {count}, expected {expected}, and up to {prefix} for "
        "prefix tokens"
    )


def interpolate(
    positions: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    antialias: bool,
    align_corners: bool,
) -> Tensor:
    """Position embeddings [h*w, C] of a grid for another: bicubic, as timm (antialiased),
    transformers (mostly not) and torchvision (with corners aligned) do it. The same grid is left
    alone."""
    if old == new:
        return positions
    field = positions.T.reshape(1, -1, *old)
    field = F.interpolate(
        field, size=new, mode="bicubic", align_corners=align_corners, antialias=antialias
    )
    return field.reshape(positions.shape[1], -1).T
