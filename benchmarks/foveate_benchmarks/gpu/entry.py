"""A model entry of random weights with the levels that are measured, as a server loads it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from foveate.images.preprocess import Preprocess
from foveate.importers.entry import Placement, new_entry
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig, save_vit
from foveate_benchmarks.gpu.models import Spec, random_vit

__all__ = ["HOST_ONLY", "write_entry", "write_host_only"]

WEIGHTS, LADDER = "model.safetensors", "ladder.json"
HOST_ONLY = "_host_only"  # ending of the name of the model whose passes compute nothing


def write_entry(
    repository: Path, name: str, model: Spec, max_batch: int, gpu: int | None = None
) -> None:
    """Add ``name``, on the CPU unless a ``gpu`` is named."""
    config = model.config
    levels = [_level(level, schedule, config) for level, schedule in model.levels().items()]
    size = config.height, config.width
    ladder = Ladder(model=name, image_size=size, tokens=config.tokens, levels=tuple(levels))
    with new_entry(repository, name) as entry:
        labels = [f"class {number}" for number in range(config.classes)]
        entry.describe(config, labels, Preprocess(), {}, Placement(gpu=gpu, max_batch=max_batch))
        save_vit(random_vit(config, "cpu", torch.float32), entry.version / WEIGHTS)
        ladder.save(entry.version / LADDER)


def write_host_only(repository: Path, name: str) -> None:
    """Add a model of the same shape beside ``name``, whose passes compute nothing."""
    beside = repository / f"{name}{HOST_ONLY}"
    shutil.copytree(repository / name, beside)
    text = (beside / "config.pbtxt").read_text()
    text = text.replace('backend: "foveate"', 'backend: "python"')
    (beside / "config.pbtxt").write_text(text)
    shutil.copy(Path(__file__).with_name("host_only.py"), beside / "1" / "model.py")
    # Measured times are kept by the ladder's name, and are not those of the other.
    ladder = Ladder.load(beside / "1" / LADDER)
    replace(ladder, model=beside.name).save(beside / "1" / LADDER)


def _level(name: str, schedule: Schedule, config: ViTConfig) -> Level:
    return Level(
        name=name,
        reducers=tuple(schedule.dump()),
        weights=WEIGHTS,
        vocabulary=None,
        tokens=tuple(schedule.tokens(config)[1]),
        macs=schedule.macs(config),
        quality=Quality(top1=None, agreement=1.0, n=0),  # of random weights: nothing to measure
    )
