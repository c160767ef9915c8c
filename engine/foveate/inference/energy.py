"""Joules of an image on a GPU, by the counter of the GPU itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import torch

from foveate.inference.engine import Engine
from foveate.inference.latency import one_pass

__all__ = ["energy_counter", "image_joules"]

_SECONDS = 2.0  # the counter moves about ten times a second


def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """What reads the joules that a GPU has taken since its driver was loaded.

    None where that cannot be known: on a CPU, without ``pynvml`` (``pip install 'foveate[gpu]'``),
    on GPUs older than Volta.
    """
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        # By its name: NVML does not know of CUDA_VISIBLE_DEVICES.
        uuid = torch.cuda.get_device_properties(device).uuid
        gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3


def image_joules(
    engine: Engine,
    level: int,
    batch: int,
    joules: Callable[[], float],
    seconds: float = _SECONDS,
) -> float:
    """Energy of an image at a level, while batches are answered one after another.

    Args:
        joules: reads how many have been taken so far.
        seconds: to measure for, at least.
    """
    run = one_pass(engine, level, batch)
    run()
    before, start, images = joules(), time.monotonic(), 0
    while images == 0 or time.monotonic() < start + seconds:
        run()
        images += batch
    return (joules() - before) / images
