"""JPEG or PNG bytes to the pixels a model takes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from foveate.errors import BadImage
from foveate.images.part_limits import check_parts
from foveate.images.preprocess import Preprocess

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_PNG_PIXELS",
    "Pixels",
    "decode_image",
    "decode_images",
    "open_image",
]

Pixels = npt.NDArray[np.uint8]  # [H, W, 3]

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 32 * 10**6
# Every pixel of a PNG is decoded, and few bytes can hold many. A 4K screen has 8.3 million.
MAX_PNG_PIXELS = 9 * 10**6


def decode_images(
    files: Sequence[bytes], height: int, width: int, preprocess: Preprocess
) -> list[Pixels | Exception]:
    """Each as :func:`decode_image` does it, or what that raised: a bad file fails alone."""
    return [_attempt(data, height, width, preprocess) for data in files]


def _attempt(data: bytes, height: int, width: int, preprocess: Preprocess) -> Pixels | Exception:
    try:
        return decode_image(data, height, width, preprocess)
    except Exception as error:
        return error


def decode_image(
    data: bytes,
    height: int,
    width: int,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (it is frozen)
) -> Pixels:
    """Decode to RGB, resize and crop to [height, width, 3].

    Checks size, parts and header before it decodes any pixel. Raises :class:`BadImage` with the
    reason.
    """
    file = open_image(data)
    with _explained(data):
        if preprocess.reduces:
            file.draft("RGB", (width, height))  # JPEG: decode at the nearest larger scale
        image = file.convert("RGB")
    return np.asarray(preprocess.apply(image, height, width), dtype=np.uint8)


def open_image(data: bytes) -> Image.Image:
    """A JPEG or PNG file within our limits, of which no pixel is decoded yet.

    Raises :class:`BadImage` with the reason.
    """
    if not data:
        raise BadImage("IMAGE: 0 bytes; expected a JPEG or PNG file")
    if len(data) > MAX_BYTES:
        raise BadImage(f"IMAGE: {len(data)} bytes; the limit is {MAX_BYTES}")
    check_parts(data)
    with _explained(data):
        file = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    columns, rows = file.size
    limit = MAX_PNG_PIXELS if file.format == "PNG" else MAX_PIXELS
    if columns * rows > limit:
        raise BadImage(
            f"IMAGE: {columns}x{rows} pixels; the limit of a {file.format} file is {limit}"
        )
    return file


@contextmanager
def _explained(data: bytes) -> Iterator[None]:
    """What the library says of a file becomes :class:`BadImage`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clients' files must not fill our log
            yield
    except Image.DecompressionBombError as error:
        raise BadImage(f"IMAGE: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        kind = "neither JPEG nor PNG" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"IMAGE: {len(data)} bytes, cannot be decoded: {kind}") from error
