"""What decodes the files of a model: the parameter ``decoder`` of ``NAME_decode``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from foveate.errors import ServerError
from foveate.images.decode import Pixels, decode_images
from foveate.images.preprocess import Preprocess

__all__ = ["Decoder", "choose_decoder"]

# Of each file its pixels, or what went wrong with it.
Decoder = Callable[[Sequence[bytes]], list[Pixels | Exception]]


def choose_decoder(
    parameters: Mapping[str, str], height: int, width: int, device: torch.device
) -> Decoder:
    """``pillow`` (the default) or ``nvjpeg``, which needs a GPU as ``device``.

    Raises :class:`ServerError` naming key and value.
    """
    preprocess = Preprocess.parse(parameters)
    name = parameters.get("decoder", "pillow")
    if name == "pillow":
        return partial(decode_images, height=height, width=width, preprocess=preprocess)
    if name != "nvjpeg":
        raise ServerError(f"decoder={name!r}: expected pillow or nvjpeg")

    from foveate.images.nvjpeg import NvJpeg

    return NvJpeg(height, width, preprocess, device)
