"""From an image of any size to the pixels a checkpoint expects: resize, then crop the centre.

Configured by parameters of ``NAME_decode`` in its ``config.pbtxt``, which the server and the
commands both read. Without them, images are resized to the model's size, whatever their shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foveate.errors import BadImage, ServerError

__all__ = ["INTERPOLATIONS", "Preprocess", "corner", "read_preprocess"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_MAX_RESIZED_PIXELS = 32 * 10**6  # a very long image would become huge when resized
_PARAMETER = re.compile(
    r'parameters\s*\{\s*key\s*:\s*"(\w+)"\s*value\s*:?\s*\{\s*string_value\s*:\s*"([^"]*)"'
)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image is resized before its centre is cropped; antialiased, by Pillow."""

    resize: int | tuple[int, int] | None = None  # shorter edge, or (height, width); None: crop size
    interpolation: str = "bilinear"

    @property
    def parameters(self) -> dict[str, str]:
        """As texts; :meth:`parse` reads them."""
        if self.resize is None:
            return {"interpolation": self.interpolation}
        edges = (self.resize,) if isinstance(self.resize, int) else self.resize
        return {"resize": "x".join(map(str, edges)), "interpolation": self.interpolation}

    @staticmethod
    def parse(parameters: Mapping[str, str]) -> Preprocess:
        """Raises :class:`ServerError` naming key and value."""
        resize: int | tuple[int, int] | None = None
        if (text := parameters.get("resize")) is not None:
            if re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", text) is None:
                raise ServerError(f"resize={text!r}: expected an edge such as 256, or 256x256")
            edges = [int(edge) for edge in text.split("x")]
            resize = edges[0] if len(edges) == 1 else (edges[0], edges[1])
        interpolation = parameters.get("interpolation", "bilinear")
        if interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ServerError(f"interpolation={interpolation!r}: expected one of {known}")
        return Preprocess(resize=resize, interpolation=interpolation)

    @property
    def reduces(self) -> bool:
        """Whether a JPEG may be decoded at a lower scale, which is faster: not where pixels must
        match a checkpoint's own pipeline."""
        return self.resize is None

    def apply(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """The centre [height, width] of the resized image.

        Raises :class:`BadImage` as :meth:`resized` does.
        """
        columns, rows = self.resized(image.size, height, width)
        if image.size != (columns, rows):
            image = image.resize((columns, rows), INTERPOLATIONS[self.interpolation])
        if (columns, rows) == (width, height):
            return image
        left, top = corner((columns, rows), height, width)
        return image.crop((left, top, left + width, top + height))

    def resized(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """Width and height after the resize of an image of that width and height.

        Raises :class:`BadImage` if it is too long relative to its shorter edge.
        """
        columns, rows = self._resized(size, height, width)
        if columns * rows > _MAX_RESIZED_PIXELS:
            raise BadImage(
                f"IMAGE: {size[0]}x{size[1]} pixels, resized to {columns}x{rows}; "
                f"the limit is {_MAX_RESIZED_PIXELS}"
            )
        return columns, rows

    def _resized(self, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, long = sorted(size)
        edges = self.resize, int(self.resize * long / short)
        return edges if size[0] <= size[1] else (edges[1], edges[0])


def corner(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Left and top of the centre [height, width] of a picture of that width and height.

    An odd margin loses its extra pixel at the end, as in transformers.
    """
    columns, rows = size
    return (columns - width) // 2, (rows - height) // 2


def read_preprocess(model: Path) -> Preprocess:
    """What ``NAME_decode`` beside the folder of model NAME does; the plain resize if there is none.

    Raises :class:`ServerError` naming file, key and value.
    """
    config = model.with_name(f"{model.name}_decode") / "config.pbtxt"
    if not config.exists():
        return Preprocess()
    try:
        return Preprocess.parse(dict(_PARAMETER.findall(config.read_text())))
    except ServerError as error:
        raise ServerError(f"{config}: {error}") from error
