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


@pytest.fixture(params=[False, True], ids=["pointers", "descriptors"])
def descriptors(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Also as Hopper does it."""
    monkeypatch.setitem(launch.__globals__, "takes_descriptors", lambda *_: request.param)
    return bool(request.param)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_that_descriptors_fetch(
    dtype: torch.dtype, gelu: bool, guard: Any, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(launch.__globals__, "takes_descriptors", lambda *_: True)
    monkeypatch.setitem(launch.__globals__, "tile_for", lambda *_: Tile(64, 128, 64, 4, 3, 1))
    monkeypatch.setitem(launch.__globals__, "MULTIPROCESSORS", 2)  # a program has many tiles
    generator = torch.Generator().manual_seed(2)
    x = guard(torch.randn(150, 104, generator=generator).to(dtype))  # the inner tile is cut, too
    weight = guard((torch.randn(280, 104, generator=generator) / 10).to(dtype))
    bias = torch.randn(280, generator=generator)
    rows = torch.tensor([150], dtype=torch.int32)
    exact = reference(x.double(), weight.double(), bias, rows, gelu)
    close(launch(x, weight, bias, rows, gelu), exact, "output", dtype)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 64, 65, 197])
def test_only_the_rows_there_are(count: int, descriptors: bool) -> None:
    x = torch.randn(197, 48, generator=torch.Generator().manual_seed(count)).half()
    x[count:] = float("nan")
    weight, bias = torch.eye(48).half(), torch.zeros(48).half()
    cu_seqlens = torch.tensor([0, count // 2, count], dtype=torch.int32)
    out = launch(x, weight, bias, cu_seqlens[-1:], False)
    assert torch.equal(out[:count], x[:count])
    assert out[count:].isnan().all()
