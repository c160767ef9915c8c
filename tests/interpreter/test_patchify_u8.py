"""``patchify_u8``: the kernel against float64, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.patchify_u8 import launch, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("images", "height", "width", "patch"),
    [(3, 16, 40, 8), (1, 28, 70, 14), (2, 32, 16, 16), (1, 32, 96, 32), (5, 1, 3, 1), (0, 8, 8, 8)],
)
def test_kernel_equals_float64(
    images: int, height: int, width: int, patch: int, dtype: torch.dtype, guard: Any
) -> None:
    shape = (images, height, width, 3)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(patch))
    pixels = guard(pixels.to(torch.uint8))
    out = launch(pixels, patch, dtype)
    assert out.dtype == dtype
    assert torch.equal(out.double(), reference(pixels, patch, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_byte_is_exact(dtype: torch.dtype) -> None:
    pixels = torch.arange(256 * 3, dtype=torch.int32).remainder(256).to(torch.uint8)
    out = launch(pixels.reshape(1, 16, 16, 3), 16, dtype)
    assert torch.equal(out[0].double() * 64 + 128, pixels.double())
