"""``patch_variance`` against the variance of the pixels of each channel."""

from __future__ import annotations

import pytest
import torch

from foveate_kernels.ops import patch_variance
from foveate_kernels.ops.patch_variance import launch, row_variance


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=generator)


def test_it_sums_the_variance_of_the_channels() -> None:
    cells = images().view(2, 2, 16, 3, 16, 3).permute(0, 1, 3, 5, 2, 4).reshape(12, 3, 256)
    expected = cells.double().var(2, unbiased=False).sum(1) * 256**2
    torch.testing.assert_close(patch_variance(images(), 16).double(), expected, rtol=1e-6, atol=0)


def test_a_flat_patch_of_any_colour_has_none() -> None:
    flat = torch.tensor([255, 0, 17], dtype=torch.uint8).expand(1, 14, 14, 3).contiguous()
    assert patch_variance(flat, 14).tolist() == [0.0]


def test_rows_of_patches_give_the_same() -> None:
    rows = images().view(2, 4, 8, 6, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(48, 192)
    assert torch.equal(row_variance(rows.float()), patch_variance(images(), 8))


@pytest.mark.parametrize(
    ("pixels", "patch", "message"),
    [
        (images().float(), 16, "images.dtype=torch.float32: expected torch.uint8"),
        (images()[..., :2], 16, r"images.shape=\[2, 32, 48, 2\]: expected \[\*, \*, \*, 3\]"),
        (images().transpose(1, 2), 16, "images.stride=.*: expected a contiguous tensor"),
        (images(), 10, "patch=10: expected 1 to 64 and a divisor of height 32 and width 48"),
    ],
)
def test_the_launcher_refuses(pixels: torch.Tensor, patch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(pixels, patch)


def test_it_is_a_sound_operator() -> None:
    torch.library.opcheck(torch.ops.foveate.patch_variance.default, (images(), 16))
