"""Images of a folder, drawn at random and brought to a model's size."""

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

__all__ = ["Tell", "read_folder", "read_image"]

Tell = Callable[[str, int, int], None]


def read_folder(
    folder: Path,
    config: ViTConfig,
    names: Sequence[str],
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (it is frozen)
    *,
    most: int,
    seed: int = 0,
    tell: Tell = lambda *_: None,
) -> Images:
    """JPEG and PNG files of :func:`list_folder`, drawn at random and brought to the model's size.

    Args:
        folder, config, names: as there.
        preprocess: what the model's images go through.
        most: images to read.
        seed: of the drawing.
        tell: told stage, images read, images to read.

    Raises :class:`InputError` naming folder, label or file and what was expected.
    """
    paths, labels = list_folder(folder, config.classes, names)
    order = np.random.default_rng(seed).permutation(len(paths))[:most]
    pixels = torch.empty(len(order), config.height, config.width, 3, dtype=torch.uint8)
    for row, index in enumerate(order):
        pixels[row] = read_image(paths[index], config, preprocess)
        tell("read images", row + 1, len(order))
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
