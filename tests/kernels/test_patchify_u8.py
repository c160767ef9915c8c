"""``patchify_u8`` against its definition, number by number, and the embedding folded for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.ops.patchify_u8 import fold_patch_embed, launch, patchify_u8


def _images(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(2)).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equals_its_definition(dtype: torch.dtype) -> None:
    images = _images(2, 4, 6, 3)
    rows = patchify_u8(images, 2, dtype)
    expected = [
        [(images[b, top + y, left + x, c].item() - 128) / 64
         for y in range(2) for x in range(2) for c in range(3)]
        for b in range(2) for top in (0, 2) for left in (0, 2, 4)
    ]  # fmt: skip
    assert rows.dtype == dtype
    assert rows.tolist() == expected


def test_an_image_does_not_depend_on_the_others() -> None:
    images = _images(3, 16, 24, 3)
    together = patchify_u8(images, 8).reshape(3, 6, 192)
    assert torch.equal(together[1], patchify_u8(images[1:2], 8))


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_a_folded_embedding_equals_the_convolution(patch: int) -> None:
    generator = torch.Generator().manual_seed(patch)
    images = _images(2, 2 * patch, 3 * patch, 3)
    weight = torch.randn(5, 3, patch, patch, generator=generator) / patch
    bias = torch.randn(5, generator=generator)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = images.double().permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = F.conv2d(pixels, weight.double(), bias.double(), stride=patch)
    folded, shift = fold_patch_embed(weight, bias, mean, std)
    assert folded.dtype == shift.dtype == torch.float32
    rows = patchify_u8(images, patch, torch.float64)
    found = F.linear(rows, folded.double(), shift.double()).reshape(2, 6, 5)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_registration() -> None:
    images = _images(2, 8, 12, 3)
    args = (images, 4, torch.bfloat16)
    torch.library.opcheck(torch.ops.foveate.patchify_u8.default, args)

    def program(images: Tensor) -> Tensor:
        return patchify_u8(images, 4, torch.bfloat16) + 1

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images), program(images))


IMAGES = torch.zeros(2, 16, 24, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((IMAGES[..., :2], 8, torch.float16), r"images.shape=\[2, 16, 24, 2\]: expected \[\*, \*"),
        ((IMAGES.float(), 8, torch.float16), "images.dtype=torch.float32: expected torch.uint8"),
        ((IMAGES[:, ::2], 8, torch.float16), "images.stride=.*: expected contiguous"),
        ((IMAGES, 0, torch.float16), "patch=0: expected 1 or more"),
        ((IMAGES, 12, torch.float16), "images H=16: expected a multiple of patch=12"),
        ((IMAGES, 16, torch.float16), "images W=24: expected a multiple of patch=16"),
        ((IMAGES, 8, torch.float64), "dtype=torch.float64: expected torch.float16 or"),
    ],
)
def test_errors_name_the_argument(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*args)


@pytest.mark.parametrize(
    ("weight", "bias", "mean", "std", "message"),
    [
        ((2, 3, 8, 4), 2, (0, 0, 0), (1, 1, 1), r"weight.shape=\[2, 3, 8, 4\]: expected \[C, 3"),
        ((2, 3, 4, 4), 3, (0, 0, 0), (1, 1, 1), r"bias.shape=\[3\]: expected \[2\]"),
        ((2, 3, 4, 4), 2, (0, 0), (1, 1, 1), r"mean=\(0, 0\), std=\(1, 1, 1\): expected 3"),
        ((2, 3, 4, 4), 2, (0, 0, 0), (1, 0, 1), r"std=\(1, 0, 1\): expected .* std above 0"),
    ],
)
def test_folding_checks_its_arguments(
    weight: tuple[int, ...], bias: int, mean: Any, std: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fold_patch_embed(torch.zeros(weight), torch.zeros(bias), mean, std)
