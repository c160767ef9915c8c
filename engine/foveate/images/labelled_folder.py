"""List the images of a folder, and the class of each. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import InputError

__all__ = ["MIN_IMAGES", "class_names", "list_folder"]

MIN_IMAGES = 16  # in a folder
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_WORDNET = re.compile(r"n\d{8}")  # names of ImageNet's folders


def class_names(model: Path) -> list[str]:
    """Names of the head's classes in order: the lines of ``labels.txt``; empty without one."""
    path = model / "labels.txt"
    if not path.exists():
        return []
    return [line.strip() for line in path.read_text().rstrip().splitlines()]


def list_folder(
    folder: Path,
    classes: int | None,
    names: Sequence[str],
    min_images: int = MIN_IMAGES,
    key: str = "data",
) -> tuple[list[Path], list[int] | None]:
    """JPEG and PNG files of ``folder`` and the class of each.

    Sub-folders, if any, are classes; without them images have no labels.

    Args:
        folder: flat, or with one sub-folder per class.
        classes: number of classes of the model's head; None if unknown, and then not checked.
        names: names of the head's classes in order, which sub-folders must have. Without names, or
            if sub-folders are named by WordNet IDs that are not among them (ImageNet), there must
            be one sub-folder for each class, and their alphabetical order is the class order.
        min_images: required number of images.
        key: what errors call the folder.

    Raises :class:`InputError` naming folder or label and what was expected.
    """
    if not folder.is_dir():
        raise InputError(f"{key}={folder}: not a folder")
    numbers = _numbers(folder, classes, names)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if numbers and (loose := [path for path in paths if path.parent == folder]):
        raise InputError(f"{loose[0]}: has no label; expected it in a sub-folder of its class")
    if len(paths) < min_images:
        raise InputError(
            f"{key}={folder}: {len(paths)} JPEG or PNG files; expected at least {min_images}"
        )
    if not numbers:
        return paths, None
    return paths, [numbers[path.relative_to(folder).parts[0]] for path in paths]


def _numbers(folder: Path, classes: int | None, names: Sequence[str]) -> dict[str, int]:
    """Class of every sub-folder; empty without sub-folders."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not found:
        return {}
    by_wordnet = all(_WORDNET.fullmatch(name) for name in found)
    alphabetical = not names or (by_wordnet and not all(name in names for name in found))
    expected = found if alphabetical else names
    if classes is not None and len(expected) != classes:
        source = f"sub-folders of {folder}" if alphabetical else "names in labels.txt"
        raise InputError(
            f"labels: {len(expected)} {source} for a head of {classes} classes; expected {classes}"
        )
    # ImageNet's own names have two cranes: that is no harm while nobody asks which.
    if twice := [name for name in found if expected.count(name) > 1]:
        raise InputError(
            f"labels: sub-folder {twice[0]!r} of {folder}: labels.txt has that name more than once"
        )
    if unknown := [name for name in found if name not in expected]:
        some = ", ".join(expected[:20]) + (", ..." if len(expected) > 20 else "")
        raise InputError(
            f"labels: sub-folder {unknown[0]!r} of {folder} is not a class of the model; expected "
            f"one of {some}; or no sub-folders, for images without labels"
        )
    return {name: expected.index(name) for name in found}
