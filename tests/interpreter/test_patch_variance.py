"""``patch_variance``: integers, so the kernel and the reference agree to the bit."""

from __future__ import annotations

import pytest
import torch

from foveate_kernels.ops.patch_variance import launch, reference


@pytest.mark.parametrize(("patch", "height", "width"), [(8, 24, 40), (14, 28, 42), (16, 32, 48)])
def test_kernel_equals_reference(patch: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(patch)
    images = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=generator)
    images[0, :patch] = 255
    assert torch.equal(launch(images, patch), reference(images, patch))
