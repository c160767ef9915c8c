"""Compare our answers with the original's: each reads the image files in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foveate.images.folder import read_image
from foveate.images.labelled_folder import class_names
from foveate.images.preprocess import read_preprocess
from foveate.importers.original import Original
from foveate.model.vit import load_vit

__all__ = ["Compared", "compare"]

_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One image. A place is a class and its score."""

    image: Path
    original: list[tuple[str, float]]
    ours: list[tuple[str, float]]
    difference: float  # largest, of logits

    @property
    def same(self) -> bool:
        """Whether the classes are the same, in the same order."""
        return [name for name, _ in self.original] == [name for name, _ in self.ours]


@torch.inference_mode()
def compare(model: Path, images: Sequence[Path], original: Original) -> Iterator[Compared]:
    """The entry in folder ``model`` against the original, image by image."""
    vit, names, preprocess = (
        load_vit(model / "1" / "model.safetensors"),
        class_names(model),
        read_preprocess(model),
    )

    def best(logits: Tensor) -> list[tuple[str, float]]:
        scores = vit.scores(logits.unsqueeze(0))[0]
        order = scores.argsort(descending=True, stable=True)[:_TOP]
        return [(names[index], float(scores[index])) for index in order]

    for image in images:
        pixels = read_image(image, vit.config, preprocess)
        ours, theirs = vit(pixels.unsqueeze(0))[0], original(image)
        yield Compared(
            image=image,
            original=best(theirs),
            ours=best(ours),
            difference=float((ours - theirs).abs().max()),
        )
