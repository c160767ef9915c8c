"""Cases of ``vwt_assign``: 16 x 16 RGB patches of 224² images, 8 x 8 of digits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foveate_benchmarks.kernels.case import DTYPES, Case, rand

PATCHES = (("digits b8", 8 * 144, 192), ("deit b1", 196, 768), ("deit b32", 32 * 196, 768))


def cases(device: str) -> Iterator[Case]:
    for name, rows, dim in PATCHES:
        for words in (100, 1000, 10000):
            yield _case(f"{name} {words} words", rows, dim, words, "cosine", device, torch.float16)
    yield _case("deit b32 1000 words l2", 32 * 196, 768, 1000, "l2", device, torch.float16)
    yield _case("deit b1 1000 words", 196, 768, 1000, "cosine", device, torch.float32)


def _case(
    name: str, rows: int, dim: int, words: int, metric: str, device: str, dtype: torch.dtype
) -> Case:
    return Case(
        f"{name} {DTYPES[dtype]}",
        (
            rand(rows, dim, device=device, dtype=dtype),
            rand(words, dim, device=device, dtype=dtype),
            metric,
            0.1,
        ),
        flops=2.0 * rows * dim * words,
        bytes=(rows + words) * dim * dtype.itemsize + 8.0 * rows,
        tensor_core=dtype == torch.float16,
    )
