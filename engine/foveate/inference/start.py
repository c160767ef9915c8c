"""Start the engine that serves a model here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.images.folder import Progress
from foveate.inference.engine import Engine, batch_sizes
from foveate.inference.fp8 import without_fp8
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Executor, Precision, Runtime
from foveate.usable_cpus import usable_cpus

__all__ = ["check_gpu", "gpu_engine", "start_engine"]

_log = logging.getLogger(__name__)

Started = TypeVar("Started", bound=Engine)

_CPU = torch.device("cpu")
_TOLERANCE = 0.05  # most that a score of level 0 may differ in 16 bits
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def start_engine(
    folder: Path,
    max_batch: int,
    *,
    device: torch.device = _CPU,
    executor: Executor = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    cache: Path,
    progress: Progress = lambda *_: None,
) -> Engine:
    """The engine that serves a model's version ``folder``, with everything compiled or captured.

    Args:
        precision: on a GPU, ``auto`` takes fp16 where level 0 answers a test picture in it as in
            fp32, else bf16. Whatever is asked for, fp32 is used where 16 bits answer otherwise.
        executor, threads: on a CPU, as precision in :meth:`Runtime.choose`.
        cache: folder for exported levels.

    Raises :class:`LadderError` or :class:`WeightsError`, naming the file, and :class:`InputError`.
    """
    prepared = PreparedLadder.load(folder)
    if without := without_fp8(prepared.ladder, device):
        _log.warning("%s: %s", folder, without)
    if device.type == "cuda":
        check_gpu(device)
        torch.set_num_threads(threads)
        engine = gpu_engine(prepared, device, max_batch, precision)
        engine.capture(progress)
        return engine
    runtime = Runtime.choose(executor, precision, threads)
    batches = batch_sizes(max_batch)
    if not runtime.compiled:
        return ReferenceEngine(prepared, batches)

    from foveate.inference.compiled import CompiledEngine
    from foveate.inference.exported import exported_levels

    def compiled(own: str) -> Engine:
        models = exported_levels(folder, prepared, cache, own, usable_cpus(), progress)
        engine = CompiledEngine(
            prepared,
            lambda level, variant: models[level, variant],
            batches,
            precision=own,
            threads=threads,
        )
        engine.compile(progress)
        return engine

    wanted = ["bf16", "fp32"] if runtime.bf16 else ["fp32"]
    return _first_right(prepared, wanted, compiled)


def check_gpu(device: torch.device) -> None:
    """Raise :class:`InputError` if this machine has no such GPU."""
    if not torch.cuda.is_available():
        raise InputError(f"device={device}: PyTorch {torch.__version__} finds no GPU here")
    if (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"device={device}: expected cuda:0 to cuda:{count - 1}")


def gpu_engine(
    prepared: PreparedLadder, device: torch.device, max_batch: int, precision: Precision = "auto"
) -> GraphEngine:
    """The engine of :func:`start_engine` on a GPU, without its graphs."""
    wanted = ["fp16", "bf16", "fp32"] if precision == "auto" else [*{precision: 0, "fp32": 0}]
    return _first_right(
        prepared, wanted, lambda own: GraphEngine(prepared, device, max_batch, _DTYPES[own])
    )


def _first_right(
    prepared: PreparedLadder, precisions: Sequence[str], start: Callable[[str], Started]
) -> Started:
    """The engine of the first precision in which level 0 answers as in fp32; the last is fp32."""
    for precision, following in pairwise(precisions):
        engine = start(precision)
        differs = _difference(engine, ReferenceEngine(prepared))
        if not differs:
            return engine
        _log.warning("%s: %s; levels run in %s", prepared.ladder.model, differs, following)
    return start(precisions[-1])


def _difference(engine: Engine, reference: Engine) -> str:
    """How level 0 of two engines answers a picture differently; empty if it does not."""
    pixels = _picture(engine.config.height, engine.config.width).unsqueeze(0)
    own, expected = (e.infer(pixels, [0]).scores[0] for e in (engine, reference))
    apart = float((own - expected).abs().max())
    if not apart <= _TOLERANCE:
        return f"in {engine.precision}, a score of level 0 is off by {apart:.2f}"
    # Of classes that score nearly the same, either may come first.
    if expected.max() - expected[own.argmax()] > _TOLERANCE:
        return f"in {engine.precision}, level 0 answers another class"
    return ""


def _picture(height: int, width: int) -> Tensor:
    """A picture with flat, shaded, edged and noisy parts: [H, W, 3] uint8, always the same."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shaded = torch.stack([x, y, 1 - x * y], 2)
    disc = ((x - 0.6).square() + (y - 0.4).square() < 0.06).unsqueeze(2)
    noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    noisy = ((x < 0.3) & (y > 0.6)).unsqueeze(2)
    picture = torch.where(noisy, noise, torch.where(disc, 1 - shaded, shaded))
    return (picture * 255).to(torch.uint8)
