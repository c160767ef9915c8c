"""Images from a folder, drawn at random and resized for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.errors import BadImage, InputError
from foveate.images.dataset import Images
from foveate.images.decode import MAX_BYTES, decode_image
from foveate.images.labelled_folder import list_folder
from foveate.images.preprocess import Preprocess
from foveate.model.vit import ViTConfig

__all__ = ["Progress", "read_folder", "read_image"]

Progress = Callable[[str, int, int], None]


def read_folder(
    folder: Path,
    config: ViTConfig,
    names: Sequence[str],
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (it is frozen)
    *,
    max_images: int,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Images:
    """JPEG and PNG files of :func:`list_folder`, drawn at random and resized for the model.

    Args:
        folder, config, names: as for :func:`list_folder`.
        preprocess: the model's preprocessing.
        max_images: maximum number of images to read.
        seed: random seed of the draw.
        progress: called with stage, images read and images to read.

    Raises :class:`InputError` naming folder, label or file and what was expected.
    """
    paths, labels = list_folder(folder, config.classes, names)
    order = np.random.default_rng(seed).permutation(len(paths))[:max_images]
    pixels = torch.empty(len(order), config.height, config.width, 3, dtype=torch.uint8)
    for row, index in enumerate(order):
        pixels[row] = read_image(paths[index], config, preprocess)
        progress("read images", row + 1, len(order))
    return Images(pixels, None if labels is None else torch.tensor(labels)[order])


def read_image(path: Path, config: ViTConfig, preprocess: Preprocess) -> Tensor:
    """Pixels [H, W, 3] (uint8) of a JPEG or PNG file. Raises :class:`InputError` naming it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        pixels = decode_image(data, config.height, config.width, preprocess)
        return torch.from_numpy(pixels.copy())
    except (OSError, BadImage) as error:
        raise InputError(f"{path}: {error}") from error
