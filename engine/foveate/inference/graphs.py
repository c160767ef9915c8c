"""A model and its ladder on a GPU: one CUDA graph for every level and batch size, made at load.

Replaying a graph launches a whole forward pass at once; launched one by one, its kernels would keep
the processor busy for longer than the GPU. A batch is padded to the next size with images that
have no rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.inference.embed import Embedding
from foveate.inference.engine import PRECISIONS, Engine, Outputs, batch_sizes
from foveate.inference.fixed import Forward, Routes
from foveate.inference.fp8 import has_fp8, in_fp8
from foveate.inference.prepared import PreparedLadder
from foveate.model.vit import ViT

__all__ = ["GraphEngine"]

_WARM_UP = 3  # passes before a capture: kernels compile, libraries choose their algorithms


class GraphEngine(Engine):
    """On a CPU the passes run as they are, without graphs.

    Levels in FP8 run so on a GPU that has it, with all else in bfloat16, which is what a product of
    rows with scales of their own gives. Elsewhere they run like the others.
    """

    def __init__(
        self,
        prepared: PreparedLadder,
        device: torch.device,
        max_batch: int,
        dtype: torch.dtype = torch.float16,
        routes: Routes | None = None,
    ) -> None:
        super().__init__(prepared, device, batch_sizes(max_batch), torch.get_num_threads())
        self._dtype = dtype
        shape = (max_batch, self.config.height, self.config.width, 3)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._ordinals = torch.arange(max_batch + 1, dtype=torch.int32, device=device)
        self._images = torch.ones(1, dtype=torch.int32, device=device)
        models: dict[tuple[int, bool], tuple[ViT, Embedding]] = {}
        pool = None
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what captures and launches takes the current one
            pool = torch.cuda.graph_pool_handle()
            self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._passes: dict[tuple[int, int, int], Callable[[], Outputs]] = {}
        for index, level in enumerate(self.levels):
            fp8 = level.precision == "fp8" and has_fp8(device)
            key = id(level.vit), fp8
            if key not in models:
                if fp8:
                    vit = in_fp8(level.vit, device)
                else:
                    vit = copy.deepcopy(level.vit).to(device, dtype)
                models[key] = vit, Embedding(vit)
            vit, embed = models[key]
            own = vit.cls_token.dtype
            words = None if level.words is None else level.words.to(device, own)
            selectors = {
                block: copy.deepcopy(selector).to(device, own)
                for block, selector in level.selectors.items()
            }
            for variant, schedule in enumerate(level.schedule.variants):
                forward = Forward(schedule, vit, words, routes or Routes(), selectors, embed)
                for size in self.batches:
                    self._passes[index, variant, size] = self._prepare(forward, size, pool)

    @property
    def executor(self) -> str:
        graphs = " in CUDA graphs" if self.device.type == "cuda" else ""
        return f"PyTorch {torch.__version__}{graphs}"

    @property
    def precision(self) -> str:
        return PRECISIONS[self._dtype]

    @property
    def padded(self) -> bool:
        return True

    def run(self, level: int, variant: int, images: Sequence[Tensor], size: int) -> Outputs:
        self._pixels[: len(images)].copy_(torch.stack([*images]))
        self._images.fill_(len(images))
        scores, dests = self._passes[level, variant, size]()
        return scores.cpu(), dests

    @torch.inference_mode()
    def _prepare(self, forward: Forward, size: int, pool: Any) -> Callable[[], Outputs]:
        def run() -> Outputs:
            present = torch.minimum(self._ordinals[: size + 1], self._images)
            return forward(self._pixels[:size], present)

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
