"""A model and its ladder on a GPU: one CUDA graph for every level and batch size, made at load.

Replaying a graph launches a whole forward pass at once; launched one by one, its kernels would keep
the processor busy for longer than the GPU. What the processor does for a batch:

1. copies the images behind one another into pinned memory, from where the GPU fetches them; for an
   adaptive level, waits until it has looked at them;
2. writes an order for each pass: which of the images it takes;
3. launches the passes, which gather their images and put their scores where they belong;
4. has the scores of the whole batch copied back, and waits once.

Two batches may be under way: while the GPU computes one, the next is launched. A batch is padded to
the next size with images that have no rows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from foveate.images.folder import Progress
from foveate.inference.attention_route import timed_routes
from foveate.inference.capture import captured
from foveate.inference.embed import Embedding
from foveate.inference.engine import PRECISIONS, Answers, Engine, Part, batch_sizes, check_levels
from foveate.inference.fixed import Forward, Routes
from foveate.inference.fp8 import has_fp8, in_fp8
from foveate.inference.mirror import Mirror
from foveate.inference.prepared import PreparedLadder
from foveate.inference.token_map import trace
from foveate.model.vit import ViT

__all__ = ["GraphEngine", "Pass"]

_UNDER_WAY = 2  # batches

Pass = Callable[[], Sequence[Tensor]]  # gives where each reducer sent each row


class GraphEngine(Engine):
    """Captures a pass when it is first asked for, or all by :meth:`capture`. On a CPU passes run as
    they are.

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
        """``routes``: by default the fastest, which are timed on a GPU."""
        super().__init__(prepared, device, batch_sizes(max_batch), torch.get_num_threads())
        self._dtype, self._max_batch = dtype, max_batch
        self._copies: Any = None
        self._computes: Any = None
        # One pool for all: only one graph runs at a time, and what it leaves in memory is read
        # before the next one starts.
        self._pool: Any = None
        self._graphs: dict[tuple[int, int, int], Pass] = {}
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what captures and launches takes the current one
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._computes = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        config, rows = self.config, _UNDER_WAY * max_batch + 1  # the last one is for padding
        size = 3 * config.height * config.width
        self._pixels = Mirror((rows, size), torch.uint8, device)
        self._scores = Mirror((rows, config.classes), torch.float32, device)
        self._maps = Mirror((rows, config.patches), torch.int16, device)
        # Of each pass: its images by their rows, padding, and how many there are.
        self._orders = Mirror((_UNDER_WAY, max_batch, max_batch + 1), torch.int64, device)
        self._order = torch.full((max_batch + 1,), rows - 1, device=device)
        self._order[-1] = 1
        self._ordinals = torch.arange(max_batch + 1, dtype=torch.int32, device=device)
        self._free: SimpleQueue[int] = SimpleQueue()
        for place in range(_UNDER_WAY):
            self._free.put(place)
        self._passes = {
            (index, variant, batch): self._pass(forward, batch)
            for index, variant, forward in self._forwards(routes)
            for batch in self.batches
        }

    def _forwards(self, routes: Routes | None) -> Iterator[tuple[int, int, Forward]]:
        """Every level and variant."""
        models: dict[tuple[int, bool], tuple[ViT, Embedding]] = {}  # by weights, and if in FP8
        routes = routes or timed_routes(self.levels, self.device, self._dtype, self._max_batch)
        for index, level in enumerate(self.levels):
            fp8 = level.precision == "fp8" and has_fp8(self.device)
            key = id(level.vit), fp8
            if key not in models:
                if fp8:
                    vit = in_fp8(level.vit, self.device)
                else:
                    vit = copy.deepcopy(level.vit).to(self.device, self._dtype)
                models[key] = vit, Embedding(vit)
            vit, embed = models[key]
            own = vit.cls_token.dtype
            words = None if level.words is None else level.words.to(self.device, own)
            selectors = {
                block: copy.deepcopy(selector).to(self.device, own)
                for block, selector in level.selectors.items()
            }
            for variant, schedule in enumerate(level.schedule.variants):
                yield index, variant, Forward(schedule, vit, words, routes, selectors, embed)

    def _pass(self, forward: Forward, size: int) -> Pass:
        """What answers the images that ``_order`` names."""
        config, pixels = self.config, self._pixels.device
        # A gather moves elements one by one, so they had better be wide.
        wide = next(t for t in _WIDE if pixels.shape[1] % t.itemsize == 0)
        images, shape = pixels.view(wide), (size, config.height, config.width, 3)

        def run() -> Sequence[Tensor]:
            order, count = self._order[:size], self._order[-1:].int()
            own = images.index_select(0, order).view(torch.uint8).view(shape)
            present = torch.minimum(self._ordinals[: size + 1], count)
            scores, dests = forward(own, present)
            self._scores.device.index_copy_(0, order, scores.float())
            return dests

        return run

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

    @property
    def overlaps(self) -> bool:
        return self.device.type == "cuda"

    @torch.inference_mode()
    def capture(self, progress: Progress = lambda *_: None) -> None:
        """Capture every pass, level 0 first. ``progress`` is told what that took so far."""
        start, before = time.monotonic(), torch.cuda.memory_reserved(self.device)
        for level in range(len(self.levels)):
            # The largest first: the others fit into the memory it leaves.
            for key in sorted((key for key in self._passes if key[0] == level), reverse=True):
                self._ready(key)
            seconds = time.monotonic() - start
            taken = (torch.cuda.memory_reserved(self.device) - before) >> 20
            stage = f"capture levels, {seconds:.1f} s and {taken} MiB beside the weights"
            progress(stage, level + 1, len(self.levels))

    def _ready(self, key: tuple[int, int, int]) -> Pass:
        """A pass, captured if it can be."""
        if self.device.type == "cuda" and key not in self._graphs:
            self._graphs[key] = captured(self._passes[key], self.device, self._computes, self._pool)
        return self._graphs.get(key) or self._passes[key]

    @torch.inference_mode()
    def launch(
        self, pixels: Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Callable[[], Answers]:
        """At most ``max_batch`` images. With two batches under way, waits until one has its
        answers."""
        shape = (self.config.height, self.config.width, 3)
        for batch in pixels:
            if batch.shape[1:] != shape or batch.dtype != torch.uint8:
                raise ValueError(
                    f"pixels: {batch.dtype} {[*batch.shape]}, expected uint8 [B, {shape[0]}, "
                    f"{shape[1]}, 3]"
                )
        images = sum(map(len, pixels))
        if images > self._max_batch:
            raise ValueError(f"images: {images}, expected at most {self._max_batch}")
        check_levels(levels, images)
        place = self._free.get()
        try:
            rows = slice(place * self._max_batch, place * self._max_batch + images)
            torch.cat([batch.flatten(1) for batch in pixels], out=self._pixels.host[rows])
            parts = self._fetch(rows, levels)
            self._write_orders(place, parts)
            with torch.cuda.stream(self._computes):
                self._orders.push(place)
                for number, part in enumerate(parts):
                    self._order.copy_(self._orders.device[place, number])
                    dests = self._ready((part.level, part.variant, part.size))()
                    if token_map:
                        self._trace(part, dests)
                self._scores.pull(rows)
                if token_map:
                    self._maps.pull(rows)
                done = self._event()
        except BaseException:
            self._free.put(place)
            raise

        def wait() -> Answers:
            try:
                if self.device.type == "cuda":
                    # In the thread that waits: CUDA would begin there on the first GPU of all.
                    torch.cuda.set_device(self.device)
                if done is not None:
                    done.synchronize()
                maps = self._maps.host[rows].clone() if token_map else None
                return Answers(self._scores.host[rows].clone(), maps)
            finally:
                self._free.put(place)

        return wait

    def infer(
        self, pixels: Tensor | Sequence[Tensor], levels: Sequence[int], *, token_map: bool = False
    ) -> Answers:
        batch = pixels if isinstance(pixels, Tensor) else torch.cat([*pixels])
        check_levels(levels, len(batch))  # of all: a part takes no more of them than it has images
        answers = []
        for first in range(0, max(1, len(batch)), self._max_batch):
            part = slice(first, first + self._max_batch)
            answers.append(self.launch([batch[part]], levels[part], token_map=token_map)())
        maps = [own.token_map for own in answers if own.token_map is not None]
        return Answers(
            torch.cat([own.scores for own in answers]), torch.cat(maps) if maps else None
        )

    def _write_orders(self, place: int, parts: Sequence[Part]) -> None:
        first, padding = place * self._max_batch, len(self._pixels.host) - 1
        lines = []
        for part in parts:
            own = [first + image for image in part.images]
            lines.append([*own, *[padding] * (self._max_batch - len(own)), len(own)])
        if lines:
            self._orders.host[place, : len(lines)] = torch.tensor(lines)

    def _fetch(self, rows: slice, levels: Sequence[int]) -> list[Part]:
        """Have the GPU copy images in, beside what it computes; and which passes answer them.

        For an adaptive level the GPU looks at its images once they are there, and the processor
        waits for that.
        """
        shape = (self.config.height, self.config.width, 3)
        with torch.cuda.stream(self._copies):
            self._pixels.push(rows)
            parts = [*self.parts(self._pixels.device[rows].view(-1, *shape), levels)]
        if self._copies is not None:
            self._computes.wait_stream(self._copies)
        return parts

    def _event(self) -> Any:
        """What the current stream has reached; None on a CPU, where all is done in order."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _trace(self, part: Part, dests: Sequence[Tensor]) -> None:
        """Write the token maps of a pass, before the next one overwrites ``dests``."""
        count = len(part.images)
        maps = trace(self.schedule(part), self.config, dests, count, self.device)
        self._maps.device.index_copy_(0, self._order[:count], maps)


_WIDE = (torch.int64, torch.int32, torch.int16, torch.uint8)
