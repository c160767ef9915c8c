"""Files become pixels, or a clear refusal."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from foveate.errors import BadImage
from foveate.images.decode import MAX_BYTES, MAX_PIXELS, MAX_PNG_PIXELS, decode_image


def file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA", "I;16"])
def test_png_of_any_mode_becomes_rgb(mode: str) -> None:
    pixels = decode_image(file(Image.new(mode, (33, 57)), "PNG"), 96, 64)
    assert (pixels.shape, pixels.dtype) == ((96, 64, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_mode_becomes_rgb(mode: str) -> None:
    assert decode_image(file(Image.new(mode, (500, 300)), "JPEG"), 96, 96).shape == (96, 96, 3)


def test_png_of_the_right_size_is_bit_exact() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(file(Image.fromarray(image), "PNG"), 96, 96), image)


def test_too_many_bytes_are_refused_before_decoding() -> None:
    with pytest.raises(BadImage, match=str(MAX_BYTES)):
        decode_image(bytes(MAX_BYTES + 1), 96, 96)


@pytest.mark.parametrize(("kind", "most"), [("PNG", MAX_PNG_PIXELS), ("JPEG", MAX_PIXELS)])
def test_too_many_pixels_are_refused_before_decoding(kind: str, most: int) -> None:
    """All but the header is cut away: who decodes would say so."""
    start = file(Image.new("L", (most // 1000 + 1, 1000)), kind)[:1000]
    with pytest.raises(BadImage, match=f"the limit of a {kind} file is {most}"):
        decode_image(start, 96, 96)


def test_a_screenshot_of_a_large_screen_is_decoded() -> None:
    assert decode_image(file(Image.new("L", (3840, 2160)), "PNG"), 96, 96).shape == (96, 96, 3)


def test_other_formats_are_refused() -> None:
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        with pytest.raises(BadImage, match="neither JPEG nor PNG"):
            decode_image(file(Image.new("RGB", (8, 8)), kind), 96, 96)


def test_damage_anywhere_is_a_bad_image_or_an_image() -> None:
    """Whatever the bytes, the outcome is pixels or BadImage, never another error."""
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG"):
        noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        good = np.frombuffer(file(noise, kind), np.uint8)
        for _ in range(150):
            bad = good[: rng.integers(1, len(good))].copy()
            bad[rng.integers(0, len(bad), 4)] = rng.integers(0, 256, 4)
            with contextlib.suppress(BadImage):
                assert decode_image(bad.tobytes(), 96, 96).shape == (96, 96, 3)
