"""JPEG or PNG bytes to the pixels a model takes."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from foveate.errors import BadImage
from foveate.images.part_limits import check_parts
from foveate.images.preprocess import Preprocess

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MAX_PNG_PIXELS", "decode_image"]

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 32 * 10**6
# Every pixel of a PNG is decoded, and few bytes can hold many. A 4K screen has 8.3 million.
MAX_PNG_PIXELS = 9 * 10**6


def decode_image(
    data: bytes,
    height: int,
    width: int,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (it is frozen)
) -> npt.NDArray[np.uint8]:
    """Decode to RGB, resize and crop to [height, width, 3].

    Checks size, parts and header before it decodes any pixel. Raises :class:`BadImage` with the
    reason.
    """
    if not data:
        raise BadImage("IMAGE: 0 bytes; expected a JPEG or PNG file")
    if len(data) > MAX_BYTES:
        raise BadImage(f"IMAGE: {len(data)} bytes; the limit is {MAX_BYTES}")
    check_parts(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clients' files must not fill our log
            file = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            columns, rows = file.size
            limit = MAX_PNG_PIXELS if file.format == "PNG" else MAX_PIXELS
            if columns * rows > limit:
                raise BadImage(
                    f"IMAGE: {columns}x{rows} pixels; the limit of a {file.format} file is {limit}"
                )
            if preprocess.reduces:
                file.draft("RGB", (width, height))  # JPEG: decode at the nearest larger scale
            image = file.convert("RGB")
    except Image.DecompressionBombError as error:
        raise BadImage(f"IMAGE: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        kind = "neither JPEG nor PNG" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"IMAGE: {len(data)} bytes, cannot be decoded: {kind}") from error
    return np.asarray(preprocess.apply(image, height, width), dtype=np.uint8)
