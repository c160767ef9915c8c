"""JPEGs of a batch decoded and resized on a GPU; whatever else by Pillow.

nvJPEG, through torchvision. It rounds otherwise than the library that Pillow uses, and decodes at
full scale where Pillow may decode at a lower one, so pixels differ by some levels of 255.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.devices import missing_gpu
from foveate.errors import BadImage, ServerError
from foveate.images.decode import Pixels, decode_image, decode_images, open_image
from foveate.images.preprocess import Preprocess, corner

__all__ = ["NvJpeg", "resize"]

_RESIZES = ("bilinear", "bicubic")  # that torch does as Pillow does
_APART = 16  # levels of 255 that a smooth picture may differ by


class NvJpeg:
    """Calling it decodes files: of each its pixels, or what went wrong with it."""

    def __init__(
        self, height: int, width: int, preprocess: Preprocess, device: torch.device
    ) -> None:
        """Raises :class:`ServerError`, naming key and value, if it cannot work here."""
        if preprocess.interpolation not in _RESIZES:
            known = " or ".join(_RESIZES)
            raise ServerError(
                f"interpolation={preprocess.interpolation!r}: expected {known} with decoder=nvjpeg"
            )
        self._size, self._preprocess = (height, width), preprocess
        self._decode = open_decoder(device)
        self._check()

    def __call__(self, files: Sequence[bytes]) -> list[Pixels | Exception]:
        chosen = [place for place, data in enumerate(files) if self._takes(data)]
        decoded: list[Pixels] = []
        try:
            decoded = self._decoded([files[place] for place in chosen])
        except RuntimeError:
            chosen = []  # one cannot be decoded, or there is no memory: Pillow does all, and says
        rest = [place for place in range(len(files)) if place not in chosen]
        others = decode_images([files[place] for place in rest], *self._size, self._preprocess)
        results = dict(zip((*chosen, *rest), (*decoded, *others), strict=True))
        return [results[place] for place in range(len(files))]

    def _takes(self, data: bytes) -> bool:
        """JPEGs of colours or greys within our limits; the rest is for Pillow, also to refuse."""
        try:
            file = open_image(data)
            self._preprocess.resized(file.size, *self._size)
        except BadImage:
            return False
        return file.format == "JPEG" and file.mode in ("RGB", "L")

    @torch.inference_mode()
    def _decoded(self, files: Sequence[bytes]) -> list[Pixels]:
        if not files:
            return []
        given = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        return [self._cut(picture) for picture in self._decode(given)]

    def _cut(self, picture: Tensor) -> Pixels:
        """The centre of the resized picture [3, H, W]."""
        height, width = self._size
        own = picture.shape[2], picture.shape[1]
        columns, rows = self._preprocess.resized(own, height, width)
        resized = resize(picture, rows, columns, self._preprocess.interpolation)
        left, top = corner((columns, rows), height, width)
        centre = resized[:, top : top + height, left : left + width]
        return centre.permute(1, 2, 0).contiguous().cpu().numpy()

    def _check(self) -> None:
        """Decode a picture, and compare it with Pillow's."""
        across = np.linspace(0, 255, 64, dtype=np.uint8)
        picture = np.stack(np.broadcast_arrays(across, across[:, None], across[::-1]), 2)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG")
        try:
            (ours,) = self._decoded([buffer.getvalue()])
        except RuntimeError as error:
            raise ServerError(f"decoder='nvjpeg': {error}") from error
        theirs = decode_image(buffer.getvalue(), *self._size, self._preprocess)
        apart = np.abs(np.subtract(ours, theirs, dtype=np.int16)).max()
        if apart > _APART:
            raise ServerError(f"decoder='nvjpeg': differs from pillow by {apart} of 255")


def resize(picture: Tensor, rows: int, columns: int, interpolation: str) -> Tensor:
    """[3, H, W] (uint8) to [3, rows, columns] as Pillow does: columns, then rows, each rounded.

    Differs by one level of 255 at most.
    """
    for size in ((picture.shape[1], columns), (rows, columns)):
        if picture.shape[1:] != size:
            wide = F.interpolate(
                picture.float().unsqueeze(0), size, mode=interpolation, antialias=True
            )
            picture = wide[0].round_().clamp_(0, 255).to(torch.uint8)
    return picture


def open_decoder(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
    """What decodes files [bytes] (uint8) on a GPU to pictures [3, H, W] (uint8) there.

    Raises :class:`ServerError` with the reason if there is no such thing.
    """
    said = "decoder='nvjpeg'"
    if device.type != "cuda":
        group = "instance_group [ { kind: KIND_GPU count: 1 gpus: [ 0 ] } ]"
        raise ServerError(f"{said}: expected {group}")
    if find_spec("torchvision") is None:
        raise ServerError(f"{said}: torchvision is not installed; pip install 'foveate[gpu]'")
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, RuntimeError) as error:
        raise ServerError(f"{said}: torchvision cannot be imported: {error}") from error
    if missing := missing_gpu(device.index):
        raise ServerError(f"{said}: {missing}")

    def decode(files: list[Tensor]) -> list[Tensor]:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))

    return decode
