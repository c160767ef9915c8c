"""Cases of ``merge_groups``: two rows to a group, the sizes of an earlier merge in half of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import DTYPES, SHAPES, Case, Shape, lengths, rand


def cases(device: str) -> Iterator[Case]:
    for shape in SHAPES:
        yield _case(shape, device, torch.float16, sized=False)
        yield _case(shape, device, torch.float16, sized=True)
    yield _case(SHAPES[1], device, torch.float32, sized=True)


def _case(shape: Shape, device: str, dtype: torch.dtype, sized: bool) -> Case:
    groups = (shape.tokens + 1) // 2
    dest = torch.arange(shape.tokens, device=device, dtype=torch.int32) % groups
    count = torch.full((shape.images,), groups, device=device, dtype=torch.int32)
    sizes = torch.ones(shape.rows, device=device) if sized else None
    moved = (shape.rows + shape.images * groups) * (shape.dim * dtype.itemsize + 4)
    return Case(
        f"{shape.name} {DTYPES[dtype]}{' sizes' if sized else ''}",
        (
            rand(shape.rows, shape.dim, device=device, dtype=dtype),
            dest.repeat(shape.images),
            count,
            lengths(shape, device),
            shape.tokens,
            shape.images * groups,
            sizes,
        ),
        flops=2.0 * shape.rows * shape.dim,
        bytes=moved + 4.0 * shape.rows * sized,
        tensor_core=dtype == torch.float16,
    )
