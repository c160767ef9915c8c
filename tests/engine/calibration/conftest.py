from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foveate.images.dataset import Images
from foveate.model.vit import ViT, ViTConfig, save_vit

TINY = ViTConfig(height=48, width=48, dim=32, depth=4, heads=2, mlp_dim=64)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version folder of a tiny model with random weights: 36 patches, 10 classes."""
    torch.manual_seed(0)
    folder = tmp_path / "toy" / "1"
    folder.mkdir(parents=True)
    save_vit(ViT(TINY), folder / "model.safetensors")
    return folder


@pytest.fixture
def images() -> tuple[Images, Images]:
    """To choose on and to report on, 24 each, labelled."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (48, 48, 48, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(48) % 10
    return Images(pixels[:24], labels[:24]), Images(pixels[24:], labels[24:])
