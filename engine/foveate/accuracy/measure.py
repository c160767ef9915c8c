"""Every level's answers to a folder of labelled images, read and answered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from foveate.accuracy.interval import wilson
from foveate.devices import choose_device
from foveate.errors import InputError
from foveate.images.folder import Progress, read_image
from foveate.images.labelled_folder import class_names, list_folder
from foveate.images.preprocess import read_preprocess
from foveate.inference.prepared import PreparedLadder
from foveate.inference.runtime import Executor, Precision, Runtime

__all__ = ["Accuracy", "measure"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of one level. Shares are 0..1."""

    level: int
    name: str
    top1: float
    low: float  # 95 % interval of top1
    high: float
    top5: float
    agreement: float  # share of images classified as level 0 classifies them
    n: int


def measure(
    model: Path,
    data: Path,
    *,
    device: str = "cpu",
    executor: Executor = "auto",
    precision: Precision = "auto",
    batch: int = 8,
    threads: int = 1,
    workers: int = 2,
    levels: Sequence[int] | None = None,
    progress: Progress = lambda *_: None,
) -> list[Accuracy]:
    """Accuracy of ``levels`` (all, by default; level 0 is always among them).

    Args:
        model: folder of the model in its repository.
        data: folder of images with a sub-folder for each class.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        executor, precision: as it is served; on a CPU.
        batch: images at once.
        threads: of the passes.
        workers: threads that read and decode.
        progress: called with stage, images done and total images.

    Raises :class:`InputError` naming what cannot be used.
    """
    prepared = PreparedLadder.load(model / "1")
    config, names = prepared.config, class_names(model)
    wanted = sorted({0, *(range(len(prepared.levels)) if levels is None else levels)})
    for level in wanted:
        if not 0 <= level < len(prepared.levels):
            raise InputError(f"level={level}: expected 0..{len(prepared.levels) - 1}")
    runtime = Runtime.choose(executor, precision, threads, choose_device(device))
    engine = runtime.engine(prepared, (batch,))
    paths, labels = list_folder(data, config.classes, names)
    if labels is None:
        raise InputError(f"data={data}: no sub-folders, so no labels; expected one per class")
    read = partial(read_image, config=config, preprocess=read_preprocess(model))
    top = min(5, config.classes)
    hits = torch.zeros(len(wanted), 3, dtype=torch.int64)  # top-1, top-5, agreement
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), batch):
            some = slice(start, start + batch)
            images = torch.stack([*pool.map(read, paths[some])])
            target, dense = torch.tensor(labels[some]), None
            for row, level in enumerate(wanted):
                best = engine.infer(images, [level] * len(images)).scores.topk(top).indices
                dense = best[:, 0] if dense is None else dense
                hits[row, 0] += (best[:, 0] == target).sum()
                hits[row, 1] += (best == target.unsqueeze(1)).any(1).sum()
                hits[row, 2] += (best[:, 0] == dense).sum()
            progress("classify images", start + len(images), len(paths))
    return [
        _accuracy(level, prepared.ladder.levels[level].name, hits[row].tolist(), len(paths))
        for row, level in enumerate(wanted)
    ]


def _accuracy(level: int, name: str, hits: Sequence[int], n: int) -> Accuracy:
    top1, top5, agreement = hits
    low, high = wilson(top1, n)
    return Accuracy(
        level=level,
        name=name,
        top1=top1 / n,
        low=low,
        high=high,
        top5=top5 / n,
        agreement=agreement / n,
        n=n,
    )
