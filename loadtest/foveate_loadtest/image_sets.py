"""Images to send, and their labels if known."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.errors import InputError
from foveate.images.cluttered_digits import test_set
from foveate.images.labelled_folder import list_folder
from foveate_loadtest.choices import DIGITS, Protocol, Target
from foveate_loadtest.classes import Classes, ask_classes
from foveate_loadtest.errors import ScheduleError

with contextlib.suppress(ImportError):  # only the digits need it
    # Here, because beside gevent it can be imported by the main thread alone: numpy asks a process.
    import sklearn.datasets  # noqa: F401

__all__ = ["NO_LABEL", "encode", "labelled_images", "load_images", "open_images", "save_images"]

NO_LABEL = -1

Pixels = NDArray[np.uint8]  # [H, W, 3]
Labels = NDArray[np.int16]


def labelled_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first ``count`` held-out digits: pixels [n, 96, 96, 3], labels [n]."""
    return test_set(count)


def save_images(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write an image set as ``.npz``."""
    with path.open("wb") as file:
        np.savez(file, pixels=pixels, labels=labels)


def load_images(
    source: str, count: int, target: Target, classes: Classes | None = None
) -> tuple[Sequence[Pixels] | Sequence[bytes], Labels]:
    """Pixels [n, H, W, 3] or whole files, as ``target`` takes them, and labels [n].

    Args:
        source: ``digits``; an ``.npz`` file with ``pixels`` [n, H, W, 3] (uint8), of the model's
            size, and perhaps ``labels`` [n]; or a folder of JPEG and PNG files, with a sub-folder
            for each class if there are labels, see :func:`list_folder`.
        count: maximum number of images.
        classes: the model's classes, which give sub-folders their labels; without them the images
            of a folder have none.

    Raises :class:`ScheduleError` naming what cannot be used.
    """
    path = Path(source)
    if source == DIGITS:
        pixels, labels = labelled_images(count)
    elif path.suffix == ".npz" and path.is_file():
        with np.load(path) as data:
            if "pixels" not in data or data["pixels"].dtype != np.uint8 or data["pixels"].ndim != 4:
                raise ScheduleError(f"images={source}: needs an array pixels [n, H, W, 3] of uint8")
            pixels = data["pixels"][:count]
            labels = data["labels"][:count] if "labels" in data else _unlabelled(len(pixels))
    elif path.is_dir():
        if target is Target.PIXELS:
            raise ScheduleError(f"images={source}: files need target classify, which decodes them")
        return _folder(path, count, classes)
    else:
        raise ScheduleError(f"images={source}: neither {DIGITS!r}, nor an .npz file, nor a folder")
    if not len(pixels):
        raise ScheduleError(f"images={source}: no image to send")
    if target is Target.PIXELS:
        return list(pixels), labels.astype(np.int16)
    return [encode(image) for image in pixels], labels.astype(np.int16)


def open_images(
    source: str, count: int, target: Target, host: str, protocol: Protocol, model: str
) -> tuple[Sequence[Pixels] | Sequence[bytes], Labels]:
    """:func:`load_images` for a model of the server at ``host`` (host:port).

    The server names the classes that a folder's labels are; other sets have numbers.
    """
    classes = ask_classes(host, protocol, model) if Path(source).is_dir() else None
    return load_images(source, count, target, classes)


def encode(pixels: Pixels, form: str = "JPEG") -> bytes:
    """One image [H, W, 3] as the bytes of a JPEG (quality 95) or PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, quality=95)
    return buffer.getvalue()


def _folder(folder: Path, count: int, classes: Classes | None) -> tuple[list[bytes], Labels]:
    try:
        known = classes or Classes(None, ())
        paths, numbers = list_folder(folder, known.total, known.names, min_images=1, key="images")
    except InputError as error:
        raise ScheduleError(str(error)) from error
    labels = _unlabelled(len(paths)) if numbers is None or classes is None else np.array(numbers)
    # A few of a large set should be of all its classes.
    order = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[index].read_bytes() for index in order], labels[order].astype(np.int16)


def _unlabelled(count: int) -> NDArray[np.int64]:
    return np.full(count, NO_LABEL, np.int64)
