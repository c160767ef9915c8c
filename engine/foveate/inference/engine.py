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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.inference.prepared import PreparedLadder
from foveate.inference.token_map import trace
from foveate.levels.latency_table import LatencyTable
from foveate.levels.schedule import Schedule
from foveate.reduce.adaptive import Adaptive

__all__ = [
    "PRECISIONS",
    "Answers",
    "CpuEngine",
    "Engine",
    "Outputs",
    "Part",
    "batch_sizes",
    "check_levels",
]

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


class Part(NamedTuple):
    """One pass of a batch."""

    level: int
    variant: int  # 0 unless the level is adaptive
    size: int  # images it is padded to
    images: list[int]  # their places in the batch


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Sizes worth a pass of their own: 1, 2, 4, 8, 12, 16, 24, 32, ... and ``largest``."""
    sizes = {2**i for i in range(16)} | {3 * 2**i for i in range(2, 15)} | {largest}
    return tuple(sorted(size for size in sizes if size <= largest))


def check_levels(levels: Sequence[int], images: int) -> None:
    """Raise ValueError unless each of so many images has its level."""
    if len(levels) != images:
        raise ValueError(f"levels: {len(levels)}, expected one for each of {images} images")


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

    @property
    @abstractmethod
    def overlaps(self) -> bool:
        """Whether :meth:`launch` returns before the answers are there."""

    @abstractmethod
    def launch(
        self, pixels: Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Callable[[], Answers]:
        """Begin a batch, as in :meth:`infer`; what is returned waits for its answers."""

    @abstractmethod
    def infer(
        self, pixels: Tensor | Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Answers:
        """Classify images [B, H, W, 3] (uint8), or several such batches, each at its own level.

        ``token_map`` asks for the destination of every patch, which costs a little.
        """

    def split_by(self, table: LatencyTable) -> None:
        """Run batches from now on in the parts that are quickest by these times of this engine."""
        self._table = table

    def schedule(self, part: Part) -> Schedule:
        """Of the level and variant."""
        return self.levels[part.level].schedule.variants[part.variant]

    def parts(self, images: Tensor | Sequence[Tensor], levels: Sequence[int]) -> Iterator[Part]:
        """The passes that answer images [H, W, 3], each at its level."""
        check_levels(levels, len(images))
        groups: dict[tuple[int, int], list[int]] = {}
        for image, chosen in enumerate(self._variants(images, levels)):
            groups.setdefault(chosen, []).append(image)
        for (level, variant), places in groups.items():
            for size in self._sizes(level, len(places)):
                yield Part(level, variant, size, places[:size])
                places = places[size:]

    def _variants(
        self, images: Tensor | Sequence[Tensor], levels: Sequence[int]
    ) -> list[tuple[int, int]]:
        """The level and variant of each image."""
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


class CpuEngine(Engine):
    """Computes where it is called."""

    @abstractmethod
    def run(self, level: int, variant: int, images: Sequence[Tensor], size: int) -> Outputs:
        """One pass over images [H, W, 3] (uint8) of one level, padded to ``size``."""

    @property
    def overlaps(self) -> bool:
        return False

    def launch(
        self, pixels: Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Callable[[], Answers]:
        answers = self.infer(pixels, levels, token_map=token_map)
        return lambda: answers

    @torch.inference_mode()
    def infer(
        self, pixels: Tensor | Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Answers:
        batches = [pixels] if isinstance(pixels, Tensor) else pixels
        images = [*chain.from_iterable(batch.unbind() for batch in batches)]
        scores = torch.empty(len(images), self.config.classes)
        maps = None
        if token_map:
            maps = torch.empty(len(images), self.config.patches, dtype=torch.int16)
        for part in self.parts(images, levels):
            own = [images[i] for i in part.images]
            found, dests = self.run(part.level, part.variant, own, part.size)
            scores[part.images] = found[: len(own)]
            if maps is not None:
                maps[part.images] = trace(self.schedule(part), self.config, dests, len(own))
        return Answers(scores, maps)
