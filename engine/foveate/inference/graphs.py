"""A model and its ladder on a GPU: one CUDA graph for every level and batch size, made at load.

Replaying a graph launches a whole forward pass at once; launched one by one, its kernels would keep
the processor busy for longer than the GPU. A batch is padded to the next size with images that
have no rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveate.inference.embed import Embedding
from foveate.inference.fixed import Forward, Routes
from foveate.inference.packed import Answers, Engine, choose
from foveate.inference.token_map import trace

__all__ = ["GraphEngine"]

_WARM_UP = 3  # passes before a capture: kernels compile, libraries choose their algorithms


# Probabilities [batch, classes], and where each reducer sent each row.
Outputs = tuple[Tensor, list[Tensor]]


class GraphEngine:
    """Answers as :class:`foveate.inference.packed.Engine` does, level by level, on ``device``.

    On a CPU the passes run as they are, without graphs.
    """

    def __init__(
        self,
        engine: Engine,
        device: torch.device,
        max_batch: int,
        dtype: torch.dtype = torch.float16,
        routes: Routes | None = None,
    ) -> None:
        self.ladder, self.levels, self.config = engine.ladder, engine.levels, engine.config
        self.device = device
        self.batches = tuple(2**i for i in range(max_batch.bit_length()) if 2**i < max_batch)
        self.batches += (max_batch,)
        shape = (max_batch, self.config.height, self.config.width, 3)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._images = torch.ones(1, dtype=torch.int32, device=device)
        vits = {id(level.vit): level.vit for level in engine.levels}
        moved = {key: copy.deepcopy(vit).to(device, dtype) for key, vit in vits.items()}
        embeddings = {key: Embedding(vit) for key, vit in moved.items()}
        pool = None
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what captures and launches takes the current one
            pool = torch.cuda.graph_pool_handle()
            self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._passes: dict[tuple[int, int, int], Callable[[], Outputs]] = {}
        for index, level in enumerate(engine.levels):
            words = None if level.words is None else level.words.to(device, dtype)
            selectors = {
                block: copy.deepcopy(selector).to(device, dtype)
                for block, selector in level.selectors.items()
            }
            for variant, schedule in enumerate(level.schedule.variants):
                for batch in self.batches:
                    vit, embed = moved[id(level.vit)], embeddings[id(level.vit)]
                    forward = Forward(
                        schedule, vit, words, batch, routes or Routes(), selectors, embed
                    )
                    self._passes[index, variant, batch] = self._prepare(forward, pool)

    @torch.inference_mode()
    def infer(self, pixels: Tensor, levels: Sequence[int], *, token_map: bool = False) -> Answers:
        """Classify images [B, H, W, 3] (uint8, on the CPU), each at its own level index.

        ``token_map`` asks for the destination of every patch, which costs a little.
        """
        scores = torch.empty(len(levels), self.config.classes)
        maps = None
        if token_map:
            maps = torch.empty(len(levels), self.config.patches, dtype=torch.int16)
        chosen = choose(self.levels, levels, pixels)
        for level, variant in sorted(set(chosen)):
            images = [i for i, own in enumerate(chosen) if own == (level, variant)]
            for first in range(0, len(images), self.batches[-1]):
                part = images[first : first + self.batches[-1]]
                probabilities, dests = self._run(level, variant, pixels[part])
                scores[part] = probabilities[: len(part)].cpu()
                if maps is not None:
                    schedule = self.levels[level].schedule.variants[variant]
                    maps[part] = trace(schedule, self.config, dests, len(part))
        return Answers(scores, maps)

    def _run(self, level: int, variant: int, pixels: Tensor) -> Outputs:
        images = len(pixels)
        batch = next(size for size in self.batches if size >= images)
        self._pixels[:images].copy_(pixels)
        self._images.fill_(images)
        return self._passes[level, variant, batch]()

    @torch.inference_mode()
    def _prepare(self, forward: Forward, pool: Any) -> Callable[[], Outputs]:
        run = partial(forward, self._pixels[: forward.batch], self._images)
        if pool is None:
            return run
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: only one graph runs at a time, and its outputs are read at once.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            outputs = run()

        def replay(_held: object = run) -> Outputs:  # weights and inputs live as long as the graph
            graph.replay()
            return outputs

        return replay
