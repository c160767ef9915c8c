"""What every engine does alike: images of any levels in, grouped by level, answers out in order.

There is one description of a level, :mod:`foveate.inference.fixed`, and three engines that run it:

* :mod:`foveate.inference.reference`: PyTorch as it is; what the others are compared with;
* :mod:`foveate.inference.compiled`: compiled by OpenVINO, for CPUs;
* :mod:`foveate.inference.graphs`: CUDA graphs of our kernels, for GPUs.

No image sees another, but a product of matrices may round a row differently by how many rows there
are. So among any batch mates an image is answered as if alone, up to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from foveate.inference.prepared import PreparedLadder
from foveate.inference.token_map import trace
from foveate.levels.latency_table import LatencyTable
from foveate.reduce.adaptive import Adaptive

__all__ = ["PRECISIONS", "Answers", "Engine", "Outputs", "batch_sizes"]

PRECISIONS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}

# Probabilities [b, classes], and where each reducer sent each row, [b * n] int32; the first images
# of b count.
Outputs = tuple[Tensor, Sequence[Tensor]]


@dataclass(frozen=True)
class Answers:
    """One row per image, in request order."""

    scores: Tensor  # [B, classes] float32 probabilities
    token_map: Tensor | None  # [B, patches] int16: destination token, -1 dropped, -2 packaged


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Sizes worth a pass of their own: 1, 2, 4, 8, 12, 16, 24, 32, ... and ``largest``."""
    sizes = {2**i for i in range(16)} | {3 * 2**i for i in range(2, 15)} | {largest}
    return tuple(sorted(size for size in sizes if size <= largest))


class Engine(ABC):
    """A model and its ladder, ready to answer."""

    def __init__(
        self,
        prepared: PreparedLadder,
        device: torch.device,
        batches: Sequence[int],
        threads: int,
    ) -> None:
        """``batches`` are the sizes of its passes, ascending."""
        self.ladder, self.levels, self.config = prepared.ladder, prepared.levels, prepared.config
        self.device, self.threads = device, threads
        self.uncompiled: dict[int, str] = {}  # levels that run on the reference, and why
        self.batches = tuple(batches)
        self._table: LatencyTable | None = None

    @property
    @abstractmethod
    def executor(self) -> str:
        """What runs, and its version."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Of its products of matrices."""

    @property
    @abstractmethod
    def padded(self) -> bool:
        """Whether it runs batches of the sizes in ``batches`` only."""

    @abstractmethod
    def run(self, level: int, variant: int, images: Sequence[Tensor], size: int) -> Outputs:
        """One pass over images [H, W, 3] (uint8) of one level, padded to ``size``."""

    def split_by(self, table: LatencyTable) -> None:
        """Run batches from now on in the parts that are quickest by these times of this engine."""
        self._table = table

    @torch.inference_mode()
    def infer(
        self, pixels: Tensor | Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Answers:
        """Classify images [B, H, W, 3] (uint8), or several such batches, each at its own level.

        ``token_map`` asks for the destination of every patch, which costs a little.
        """
        batches = [pixels] if isinstance(pixels, Tensor) else pixels
        images = [*chain.from_iterable(batch.unbind() for batch in batches)]
        if len(levels) != len(images):
            raise ValueError(
                f"levels: {len(levels)}, expected one for each of {len(images)} images"
            )
        scores = torch.empty(len(images), self.config.classes)
        maps = None
        if token_map:
            maps = torch.empty(len(images), self.config.patches, dtype=torch.int16)
        groups: dict[tuple[int, int], list[int]] = {}
        for image, chosen in enumerate(self._variants(images, levels)):
            groups.setdefault(chosen, []).append(image)
        for (level, variant), positions in groups.items():
            for size in self._sizes(level, len(positions)):
                part, positions = positions[:size], positions[size:]
                own, dests = self.run(level, variant, [images[i] for i in part], size)
                scores[part] = own[: len(part)]
                if maps is not None:
                    schedule = self.levels[level].schedule.variants[variant]
                    maps[part] = trace(schedule, self.config, dests, len(part))
        return Answers(scores, maps)

    def _variants(self, images: Sequence[Tensor], levels: Sequence[int]) -> list[tuple[int, int]]:
        """The level and variant of each image; the variant is 0 unless the level is adaptive."""
        chosen = [(level, 0) for level in levels]
        for level in {*levels}:
            adaptive = self.levels[level].schedule.input
            if isinstance(adaptive, Adaptive):
                places = [i for i, own in enumerate(levels) if own == level]
                pixels = torch.stack([images[i] for i in places])
                variants = adaptive.choose(pixels, self.config.patch).tolist()
                for place, variant in zip(places, variants, strict=True):
                    chosen[place] = level, variant
        return chosen

    def _sizes(self, level: int, images: int) -> Sequence[int]:
        """Sizes of the passes that answer so many images; the last may be padded."""
        largest = self.batches[-1]
        if self._table is not None:
            full, rest = divmod(images, largest)
            return (largest,) * full + self._table.parts(level, rest)
        sizes = [largest] * (images // largest)
        if rest := images % largest:
            sizes.append(next(size for size in self.batches if size >= rest))
        return sizes
