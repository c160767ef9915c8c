"""The images of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foveate.atomic_file import replacing
from foveate.images.labelled_folder import class_names
from foveate_loadtest.choices import DIGITS, Target
from foveate_loadtest.classes import Classes
from foveate_loadtest.errors import ScheduleError
from foveate_loadtest.image_sets import NO_LABEL, labelled_images, load_images, save_images

__all__ = ["MAX_IMAGES", "Pictures", "gather"]

MAX_IMAGES = 2000  # for digits: the images the demo model's ladder was measured on


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A labelled image set, see :func:`load_images`, and the face of a model that takes it."""

    source: str = DIGITS
    target: Target = Target.PIXELS
    count: int = 500


def gather(image_set: str, folder: Path, model: Path) -> Pictures:
    """Digits are composed once, and kept in ``folder``; ``model`` is the folder of the model.

    Raises :class:`ScheduleError` for a set without labels: what was answered rightly counts.
    """
    path = Path(image_set).absolute()
    if image_set == DIGITS:
        path = (folder / "images.npz").absolute()
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as scratch:
                save_images(scratch, *labelled_images(MAX_IMAGES))
    target = Target.CLASSIFY if path.is_dir() else Target.PIXELS
    names = class_names(model)
    _, labels = load_images(str(path), MAX_IMAGES, target, Classes(len(names) or None, names))
    if unknown := int((labels == NO_LABEL).sum()):
        raise ScheduleError(f"images={image_set}: {unknown} of {len(labels)} have no label")
    return Pictures(source=str(path), target=target, count=len(labels))
