"""Images and labels that commands learn from and judge by: one folder, read in one way."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.decode import MAX_BYTES, decode_image
from foveate.errors import BadImage, InputError
from foveate.preprocess import Preprocess, read_preprocess
from foveate.vit import ViTConfig

__all__ = [
    "DEMO",
    "FEWEST",
    "Images",
    "check_data",
    "class_names",
    "list_folder",
    "load_pair",
    "read_folder",
    "read_image",
]

DEMO = "digits"  # the model that brings its own images
FEWEST = 16  # images of a folder
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_WORDNET = re.compile(r"n\d{8}")  # how ImageNet calls its folders

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Images:
    """Images [n, H, W, 3] (uint8) and, if there are any, their labels [n] (int64)."""

    pixels: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Images:
        """Those at ``rows``: a slice, or indices [m] (int64)."""
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows])

    def draw(self, most: int, seed: int) -> Images:
        """At most ``most`` of them, at random."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:most]]

    @property
    def halves(self) -> tuple[Images, Images]:
        half = len(self) // 2
        return self[:half], self[half:]

    @property
    def digest(self) -> str:
        """Fingerprint of pixels and labels."""
        sha = hashlib.sha256(self.pixels.numpy().tobytes())
        sha.update(b"" if self.labels is None else self.labels.numpy().tobytes())
        return sha.hexdigest()[:16]


def check_data(model: str, data: Path | None) -> None:
    """Raise :class:`InputError` if there is no folder for a model without images of its own."""
    if data is None and model != DEMO:
        raise InputError(f"data: missing; only the demo model {DEMO!r} brings its own images")


def load_pair(
    model: Path,
    config: ViTConfig,
    data: Path | None,
    *,
    most: int,
    seed: int,
    tell: Tell = lambda *_: None,
) -> tuple[Images, Images]:
    """Disjoint images to choose or fit on and to report on: halves of ``data``, or the demo's own.

    Args:
        model: folder of the model, which may hold ``labels.txt``.
        most: images in each.

    Raises :class:`InputError` as :func:`check_data` and :func:`read_folder` do.
    """
    check_data(model.name, data)
    if data is not None:
        names, preprocess = class_names(model), read_preprocess(model)
        return read_folder(
            data, config, names, preprocess, most=2 * most, seed=seed, tell=tell
        ).halves
    from foveate.digits.sets import calibration_images, held_out_images

    tell("compose images", 0, 1)
    return calibration_images(most), held_out_images(most)


def class_names(model: Path) -> list[str]:
    """Names of the head's classes in order: lines of ``labels.txt``; empty if there is none."""
    path = model / "labels.txt"
    return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


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
    paths, labels = list_folder(folder, config, names)
    order = np.random.default_rng(seed).permutation(len(paths))[:most]
    pixels = torch.empty(len(order), config.height, config.width, 3, dtype=torch.uint8)
    for row, index in enumerate(order):
        pixels[row] = read_image(paths[index], config, preprocess)
        tell("read images", row + 1, len(order))
    return Images(pixels, None if labels is None else torch.tensor(labels)[order])


def list_folder(
    folder: Path, config: ViTConfig, names: Sequence[str]
) -> tuple[list[Path], list[int] | None]:
    """JPEG and PNG files of ``folder`` and the class of each.

    Sub-folders, if there are any, are classes; without them images have no labels.

    Args:
        folder: flat, or one tree of images a class.
        config: of the model, for the size of its head.
        names: of the head's classes in order, as sub-folders must be called. If unknown (empty), or
            if sub-folders are called by WordNet numbers that are not among them, as ImageNet's are,
            they must be as many as classes and count in alphabetical order.

    Raises :class:`InputError` naming folder or label and what was expected.
    """
    if not folder.is_dir():
        raise InputError(f"data={folder}: not a folder")
    numbers = _numbers(folder, config, names)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if numbers and (loose := [path for path in paths if path.parent == folder]):
        raise InputError(f"{loose[0]}: has no label; expected in a sub-folder of its class")
    if len(paths) < FEWEST:
        raise InputError(
            f"data={folder}: {len(paths)} JPEG or PNG files; expected at least {FEWEST}"
        )
    if not numbers:
        return paths, None
    return paths, [numbers[path.relative_to(folder).parts[0]] for path in paths]


def _numbers(folder: Path, config: ViTConfig, names: Sequence[str]) -> dict[str, int]:
    """Class of every sub-folder; empty if there is none."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not found:
        return {}
    by_wordnet = all(_WORDNET.fullmatch(name) for name in found)
    if not names or (by_wordnet and not all(name in names for name in found)):
        classes: Sequence[str] = found
    else:
        classes = names
    if len(classes) != config.classes:
        source = f"sub-folders of {folder}" if classes is found else "names in labels.txt"
        raise InputError(
            f"labels: {len(classes)} {source} for a head of {config.classes} classes; "
            f"expected {config.classes}"
        )
    if unknown := [name for name in found if name not in classes]:
        known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise InputError(
            f"labels: sub-folder {unknown[0]!r} of {folder} is no class of the model; expected "
            f"one of {known}; or no sub-folders, for images without labels"
        )
    return {name: classes.index(name) for name in found}


def read_image(path: Path, config: ViTConfig, preprocess: Preprocess) -> Tensor:
    """Pixels [H, W, 3] (uint8) of a JPEG or PNG file. Raises :class:`InputError` naming it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        pixels = decode_image(data, config.height, config.width, preprocess)
        return torch.from_numpy(pixels.copy())
    except (OSError, BadImage) as error:
        raise InputError(f"{path}: {error}") from error
