"""Images to calibrate on, from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.decode import MAX_BYTES, decode_image
from foveate.errors import BadImage, CalibrationError
from foveate.vit import ViTConfig

__all__ = ["FEWEST", "Images", "load_images"]

FEWEST = 16  # images of a folder
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Images:
    """Images [n, H, W, 3] (uint8) and, if there are any, their labels [n] (int64)."""

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Tensor) -> Images:
        """Those at ``indices`` [m] (int64)."""
        labels = None if self.labels is None else self.labels[indices]
        return Images(self.pixels[indices], labels)

    def first(self, most: int) -> Images:
        return self.take(torch.arange(min(most, len(self))))

    def draw(self, most: int, seed: int) -> Images:
        """At most ``most`` of them, at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[:most])

    @property
    def digest(self) -> str:
        """Fingerprint of pixels and labels."""
        sha = hashlib.sha256(self.pixels.numpy().tobytes())
        sha.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        return sha.hexdigest()[:16]


def load_images(
    folder: Path,
    config: ViTConfig,
    classes: Sequence[str] | None,
    *,
    most: int,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Images, Images]:
    """Two disjoint halves of the JPEG and PNG files under ``folder``, drawn at random.

    Args:
        folder: with ``classes``, one sub-folder a class; else any tree of images.
        config: of the model, for the size of images and of its head.
        classes: names of the head's classes in order, or None to use no labels.
        most: images in each half.
        seed: of the drawing.
        tell: told stage, images read, images to read.

    Raises :class:`CalibrationError` naming the folder or file and what was expected.
    """
    if not folder.is_dir():
        raise CalibrationError(f"data={folder}: not a folder")
    if classes is not None:
        _check_classes(folder, config, classes)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if classes is not None and (loose := [path for path in paths if path.parent == folder]):
        raise CalibrationError(f"{loose[0]}: has no label; expected in a sub-folder of its class")
    if len(paths) < FEWEST:
        raise CalibrationError(
            f"data={folder}: {len(paths)} JPEG or PNG files; expected at least {FEWEST}"
        )
    order = np.random.default_rng(seed).permutation(len(paths))[: 2 * most]
    pixels = torch.empty(len(order), config.height, config.width, 3, dtype=torch.uint8)
    for row, index in enumerate(order):
        pixels[row] = _read(paths[index], config)
        tell("read images", row + 1, len(order))
    labels = None
    if classes is not None:
        number = {name: index for index, name in enumerate(classes)}
        names = [paths[index].relative_to(folder).parts[0] for index in order]
        labels = torch.tensor([number[name] for name in names])
    everything, half = Images(pixels, labels), len(order) // 2
    first, second = torch.arange(half), torch.arange(half, len(order))
    return everything.take(first), everything.take(second)


def _check_classes(folder: Path, config: ViTConfig, classes: Sequence[str]) -> None:
    if len(classes) != config.classes:
        raise CalibrationError(
            f"labels: {len(classes)} names for a head of {config.classes} classes; "
            f"expected {config.classes}"
        )
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not found:
        raise CalibrationError(f"data={folder}: no sub-folder; expected one a class")
    if unknown := [name for name in found if name not in classes]:
        known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise CalibrationError(
            f"labels: sub-folder {unknown[0]!r} of {folder} is no class of the model; "
            f"expected one of {known}"
        )


def _read(path: Path, config: ViTConfig) -> Tensor:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return torch.from_numpy(decode_image(data, config.height, config.width).copy())
    except (OSError, BadImage) as error:
        raise CalibrationError(f"{path}: {error}") from error
