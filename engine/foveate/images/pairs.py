"""Two disjoint sets of images for a model: one to choose or fit on, one to report on."""

from __future__ import annotations

from pathlib import Path

from foveate.errors import InputError
from foveate.images.dataset import Images
from foveate.images.digit_sets import calibration_images, held_out_images
from foveate.images.folder import Progress, read_folder
from foveate.images.labelled_folder import class_names
from foveate.images.preprocess import read_preprocess
from foveate.model.vit import ViTConfig

__all__ = ["DEMO", "check_data", "load_pair"]

DEMO = "digits"  # the model that comes with its own images


def check_data(model: str, data: Path | None) -> None:
    """Raise :class:`InputError` if a model without its own images has no folder either."""
    if data is None and model != DEMO:
        raise InputError(f"data: missing; only the demo model {DEMO!r} has its own images")


def load_pair(
    model: Path,
    config: ViTConfig,
    data: Path | None,
    *,
    max_images: int,
    seed: int,
    progress: Progress = lambda *_: None,
) -> tuple[Images, Images]:
    """Two disjoint sets, to choose or fit on and to report on: halves of ``data``, or the demo's.

    Args:
        model: folder of the model, which may hold ``labels.txt``.
        max_images: maximum number of images in each set.

    Raises :class:`InputError` as :func:`check_data` and :func:`read_folder` do.
    """
    check_data(model.name, data)
    if data is not None:
        names, preprocess = class_names(model), read_preprocess(model)
        return read_folder(
            data, config, names, preprocess, max_images=2 * max_images, seed=seed, progress=progress
        ).halves
    progress("compose images", 0, 1)
    return calibration_images(max_images), held_out_images(max_images)
