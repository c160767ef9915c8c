"""Start the engine that serves a model here."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from foveate.images.folder import Progress
from foveate.inference.engine import Engine, batch_sizes
from foveate.inference.fp8 import without_fp8
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Executor, Precision, Runtime
from foveate.usable_cpus import usable_cpus

__all__ = ["start_engine"]

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_TOLERANCE = 0.05  # most that a score of level 0 may differ in bf16


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
    """The engine that serves a model's version ``folder``, with everything compiled.

    Args:
        executor, precision, threads: on a CPU, as in :meth:`Runtime.choose`. Where level 0 in bf16
            answers a test picture otherwise than in fp32, fp32 is used.
        cache: folder for exported levels.

    Raises :class:`LadderError` or :class:`WeightsError`, naming the file, and :class:`InputError`.
    """
    prepared = PreparedLadder.load(folder)
    if without := without_fp8(prepared.ladder, device):
        _log.warning("%s: %s", folder, without)
    if device.type == "cuda":
        return GraphEngine(prepared, device, max_batch)
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

    engine = compiled(runtime.precision)
    if runtime.bf16 and (differs := _difference(engine, ReferenceEngine(prepared))):
        _log.warning("%s: %s; levels run in fp32", folder, differs)
        return compiled("fp32")
    return engine


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
