"""Images to train on: a folder of the user's, or the demo's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.decode import decode_image
from foveate.errors import BadImage, TrainingError
from foveate.vit import ViTConfig

__all__ = ["TrainingImages", "digits_images", "read_folder", "split"]

FEWEST = 10  # images: one of them validates
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_SHARE = 0.1  # of the images, for validation
_MOST = 512  # of them
_STREAM = 3 * 2**40  # seeds of the demo's images here: neither test, calibration nor its training
_BACKGROUNDS = 512


@dataclass(frozen=True)
class TrainingImages:
    """Images [n, H, W, 3] (uint8) and, if there are any, their labels [n] (int64)."""

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> TrainingImages:
        return TrainingImages(self.pixels[rows], None if self.labels is None else self.labels[rows])


def split(images: TrainingImages, seed: int) -> tuple[TrainingImages, TrainingImages]:
    """(to train on, to validate on): a tenth, at most 512, drawn by ``seed``, validates."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held = min(_MOST, max(1, round(_SHARE * len(images))))
    return images[order[held:]], images[order[:held]]


def digits_images(count: int, seed: int) -> TrainingImages:
    """Fresh composites of the demo's train digits; no held-out digit is in them."""
    from foveate.digits.images import make_backgrounds, make_scenes, train_digits

    digits, stream = train_digits(), _STREAM + seed
    pool = make_backgrounds(digits, min(count, _BACKGROUNDS), stream)
    scenes = make_scenes(digits, count, stream, pool)
    return TrainingImages(torch.from_numpy(scenes.pixels), torch.from_numpy(scenes.labels))


def read_folder(folder: Path, config: ViTConfig, names: Sequence[str]) -> TrainingImages:
    """JPEG and PNG files of ``folder``, resized; subfolders, if there are any, are their classes.

    Args:
        folder: flat (no labels), or one subfolder a class, named as the label.
        config: of the model; gives the image size and the number of classes.
        names: labels of the model, in the order of its head; empty if unknown, and then the
            subfolders must be as many as classes and count in alphabetical order.

    Raises :class:`TrainingError` if the folder is missing or empty, holds a file that cannot be
    decoded, or classes that are not the head's.
    """
    if not folder.is_dir():
        raise TrainingError(f"data={folder}: not a folder")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    numbers = _numbers(folder, classes, config, names)
    found = [(path, None) for path in _files(folder)] if not classes else []
    labelled = [(path, numbers[name]) for name in classes for path in _files(folder / name)]
    files = [*found, *labelled]
    if len(files) < FEWEST:
        raise TrainingError(
            f"data={folder}: {len(files)} JPEG or PNG files, expected at least {FEWEST}"
        )
    pixels = np.empty((len(files), config.height, config.width, 3), np.uint8)
    for i, (path, _) in enumerate(files):
        try:
            pixels[i] = decode_image(path.read_bytes(), config.height, config.width)
        except (BadImage, OSError) as error:
            raise TrainingError(f"data={folder}: {path.relative_to(folder)}: {error}") from error
    labels = torch.tensor([label for _, label in labelled]) if labelled else None
    return TrainingImages(torch.from_numpy(pixels), labels)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in _SUFFIXES)


def _numbers(
    folder: Path, classes: Sequence[str], config: ViTConfig, names: Sequence[str]
) -> dict[str, int]:
    """Class number of every subfolder."""
    if not classes:
        return {}
    if names:
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise TrainingError(
                f"data={folder}: subfolder {unknown[0]!r} is no label of the model; its "
                f"{len(names)} labels are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            )
        return {name: names.index(name) for name in classes}
    if len(classes) != config.classes:
        raise TrainingError(
            f"data={folder}: {len(classes)} subfolders, the model's head has {config.classes} "
            "classes"
        )
    return {name: number for number, name in enumerate(classes)}
