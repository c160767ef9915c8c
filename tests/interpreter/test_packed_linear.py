"""``packed_linear``: the kernel against float64, fewer programs than tiles, rows past the count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.matmul import Tile
from foveate_kernels.ops.packed_linear import launch, reference

TILES = (Tile(128, 256, 64, 8, 3, 1), Tile(64, 64, 32, 4, 2, 3))


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.cols}")
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_float64(
    dtype: torch.dtype,
    gelu: bool,
    tile: Tile,
    guard: Any,
    close: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(launch.__globals__, "tile_for", lambda *_: tile)
    monkeypatch.setitem(launch.__globals__, "MULTIPROCESSORS", 1)  # a program has many tiles
    generator = torch.Generator().manual_seed(1)
    x = guard(torch.randn(150, 100, generator=generator).to(dtype))
    weight = guard((torch.randn(270, 100, generator=generator) / 10).to(dtype))
    bias = torch.randn(270, generator=generator)
    rows = torch.tensor([150], dtype=torch.int32)
    exact = reference(x.double(), weight.double(), bias, rows, gelu)
    close(launch(x, weight, bias, rows, gelu), exact, "output", dtype)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 64, 65, 197])
def test_only_the_rows_there_are(count: int, close: Any) -> None:
    x = torch.randn(197, 48, generator=torch.Generator().manual_seed(count)).half()
    x[count:] = float("nan")
    weight, bias = torch.eye(48).half(), torch.zeros(48).half()
    cu_seqlens = torch.tensor([0, count // 2, count], dtype=torch.int32)
    out = launch(x, weight, bias, cu_seqlens[-1:], False)
    assert torch.equal(out[:count], x[:count])
    assert out[count:].isnan().all()
