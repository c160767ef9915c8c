"""The one reading of a folder of images: which files, and the class of each. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import InputError

__all__ = ["FEWEST", "class_names", "list_folder"]

FEWEST = 16  # images of a folder
_SUFFIXES = {".jpg", ".jpeg", ".png"}
_WORDNET = re.compile(r"n\d{8}")  # how ImageNet calls its folders


def class_names(model: Path) -> list[str]:
    """Names of the head's classes in order: lines of ``labels.txt``; empty if there is none."""
    path = model / "labels.txt"
    return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


def list_folder(
    folder: Path, classes: int | None, names: Sequence[str], fewest: int = FEWEST
) -> tuple[list[Path], list[int] | None]:
    """JPEG and PNG files of ``folder`` and the class of each.

    Sub-folders, if there are any, are classes; without them images have no labels.

    Args:
        folder: flat, or one tree of images a class.
        classes: of the model's head; None if unknown, and then not checked.
        names: of the head's classes in order, as sub-folders must be called. If unknown (empty), or
            if sub-folders are called by WordNet numbers that are not among them, as ImageNet's are,
            they must be as many as classes and count in alphabetical order.
        fewest: images that must be there.

    Raises :class:`InputError` naming folder or label and what was expected.
    """
    if not folder.is_dir():
        raise InputError(f"data={folder}: not a folder")
    numbers = _numbers(folder, classes, names)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if numbers and (loose := [path for path in paths if path.parent == folder]):
        raise InputError(f"{loose[0]}: has no label; expected in a sub-folder of its class")
    if len(paths) < fewest:
        raise InputError(
            f"data={folder}: {len(paths)} JPEG or PNG files; expected at least {fewest}"
        )
    if not numbers:
        return paths, None
    return paths, [numbers[path.relative_to(folder).parts[0]] for path in paths]


def _numbers(folder: Path, classes: int | None, names: Sequence[str]) -> dict[str, int]:
    """Class of every sub-folder; empty if there is none."""
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
    if unknown := [name for name in found if name not in expected]:
        some = ", ".join(expected[:20]) + (", ..." if len(expected) > 20 else "")
        raise InputError(
            f"labels: sub-folder {unknown[0]!r} of {folder} is no class of the model; expected "
            f"one of {some}; or no sub-folders, for images without labels"
        )
    return {name: expected.index(name) for name in found}
