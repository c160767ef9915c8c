"""A vocabulary of visual words for a calibration that was given none."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from foveate.atomic_file import replacing
from foveate.images.dataset import Images
from foveate.model.vit import ViTConfig, patchify
from foveate.reduce.vwt_inter import learn_words

__all__ = ["WORDS", "save_words"]

WORDS = 100
_IMAGES = 256  # whose patches are enough


def save_words(path: Path, images: Images, config: ViTConfig, seed: int) -> None:
    """Learn ``WORDS`` words [WORDS, patch*patch*3] from the first images and write them (fp16)."""
    rows = patchify(images.pixels[:_IMAGES], config.patch).flatten(0, 1).float()
    words = learn_words((rows / 255.0 - config.mean) / config.std, WORDS, seed)
    with replacing(path) as scratch:
        save_file({"words": words.half()}, scratch)
