"""Start the engine that serves a model here."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from foveate.devices import missing_gpu
from foveate.errors import InputError
from foveate.images.folder import Progress
from foveate.inference.engine import Engine, batch_sizes
from foveate.inference.fp8 import without_fp8
from foveate.inference.graphs import GraphEngine
from foveate.inference.precision import Precision, difference, gpu_dtype, picture
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Executor, Runtime
from foveate.usable_cpus import usable_cpus

__all__ = ["start_engine"]

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")


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
        if missing := missing_gpu(device.index or 0):
            raise InputError(f"device={device}: {missing}")
        torch.set_num_threads(threads)
        dtype = gpu_dtype(prepared.levels[0].vit, device, precision)
        graphs = GraphEngine(prepared, device, max_batch, dtype)
        graphs.capture(progress)
        return graphs
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
    if runtime.bf16:
        pixels = picture(engine.config.height, engine.config.width).unsqueeze(0)
        own, expected = (
            e.infer(pixels, [0]).scores[0] for e in (engine, ReferenceEngine(prepared))
        )
        if differs := difference(own, expected, "bf16"):
            _log.warning("%s: %s; levels run in fp32", folder, differs)
            return compiled("fp32")
    return engine
