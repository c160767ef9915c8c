"""``linear_gelu``: the kernel against float64, with every tile it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.matmul import Tile
from foveate_kernels.ops.linear_gelu import launch, reference

TILES = (Tile(128, 256, 64, 8, 3, 1), Tile(64, 64, 32, 4, 2, 3))


def _inputs(rows: int, inner: int, cols: int, dtype: torch.dtype, guard: Any) -> list[torch.Tensor]:
    """x and weight with NaN round them and in the columns behind theirs."""
    generator = torch.Generator().manual_seed(rows + inner)
    wide = torch.full((rows + cols, inner + 8), float("nan"))
    wide[:, :inner] = torch.randn(rows + cols, inner, generator=generator)
    wide[rows:] *= inner**-0.5
    x, weight = (guard(part.to(dtype))[:, :inner] for part in wide.split([rows, cols]))
    return [x, weight, torch.randn(cols, generator=generator).to(dtype)]


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.cols}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "inner", "cols"), [(130, 64, 264), (65, 100, 70)])
def test_kernel_equals_float64(
    rows: int,
    inner: int,
    cols: int,
    dtype: torch.dtype,
    tile: Tile,
    guard: Any,
    close: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(launch.__globals__, "tile_for", lambda *_: tile)
    x, weight, bias = _inputs(rows, inner, cols, dtype, guard)
    exact = reference(x.double(), weight.double(), bias.double())
    close(launch(x, weight, bias), exact, "output", dtype)


@pytest.mark.parametrize(
    "rows", [0, 1, 2, 15, 16, 17, 64, 577]
)  # 577: a group of tiles, and a rest
def test_any_number_of_rows(rows: int, guard: Any, close: Any) -> None:
    x, weight, bias = _inputs(rows, 32, 72, torch.float16, guard)
    exact = reference(x.double(), weight.double(), bias.double())
    close(launch(x, weight, bias.float()), exact, "output", torch.float16)


def test_a_row_of_nan_keeps_to_itself(guard: Any) -> None:
    x, weight, bias = _inputs(5, 40, 24, torch.float32, guard)
    clean = launch(x, weight, bias)
    x[3, 7] = float("nan")
    out = launch(x, weight, bias)
    assert out[3].isnan().all()
    assert torch.equal(out[[0, 1, 2, 4]], clean[[0, 1, 2, 4]])


def test_gelu_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(launch.__globals__, "tile_for", lambda *_: TILES[0])
    y = torch.cat([torch.linspace(-9, 9, 4093), torch.tensor([-1e15, 1e15, float("inf")])])
    out = launch(torch.ones(1, 1), y.unsqueeze(1), torch.zeros(len(y)))[0]
    exact = torch.nn.functional.gelu(y.double())
    assert (out[:-3] - exact[:-3]).abs().max() < 1e-6  # of the tanh form: 5e-4
    assert torch.equal(out[-3:], y[-3:].clamp(min=0))
