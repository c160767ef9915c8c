"""Measure how long each level takes on this device, once, and store it."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from foveate.errors import LadderError
from foveate.images.folder import Progress
from foveate.inference.engine import Engine
from foveate.levels.latency_table import LatencyTable
from foveate.model.vit import ViTConfig

__all__ = [
    "device_name",
    "hardware",
    "load_or_measure",
    "measure",
    "one_pass",
    "processor",
    "sample",
    "table_path",
]

Key = TypeVar("Key")

_ROUNDS = 5


def device_name(engine: Engine) -> str:
    """Everything but the ladder that measured times depend on: processor, executor, precision."""
    what = f"{engine.executor} {engine.precision}"
    threads = "" if engine.device.type == "cuda" else f"{engine.threads} threads, "
    return f"{hardware(engine.device)}, {threads}{what}"


def hardware(device: torch.device) -> str:
    """Name of a GPU, or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def load_or_measure(
    engine: Engine, state_dir: Path, progress: Progress = lambda *_: None
) -> LatencyTable:
    """This device's table from ``state_dir``; if missing, measures it (takes seconds) and saves it.

    Models that share a state folder and start together measure one after the other.
    """
    path = table_path(engine, state_dir)
    try:
        return _load(path, engine)
    except LadderError:  # missing or damaged: measuring repairs it
        pass
    with _alone(state_dir):
        try:
            return _load(path, engine)  # another instance of the model was first
        except LadderError:
            table = measure(engine, progress=progress)
            table.save(path)
            return table


def _load(path: Path, engine: Engine) -> LatencyTable:
    table = LatencyTable.load(path)
    if table.ladder != engine.ladder.digest or len(table.seconds) != len(engine.levels):
        raise LadderError(f"{path}: measured for another ladder")
    if table.batches != engine.batches:
        raise LadderError(f"{path}: batches={table.batches}, expected {engine.batches}")
    return table


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Wait for other measuring processes. The lock is released even if this process dies."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "measuring.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table_path(engine: Engine, state_dir: Path) -> Path:
    """File of an engine's table."""
    text = f"{device_name(engine)} {engine.ladder.digest}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return state_dir / engine.ladder.model / f"latency-{key}.json"


def measure(
    engine: Engine,
    batches: Sequence[int] | None = None,
    rounds: int = _ROUNDS,
    clock: Callable[[], float] | None = None,
    progress: Progress = lambda *_: None,
) -> LatencyTable:
    """Minimum batch time of every level and batch size: noisy neighbours only ever add time.

    Rounds interleave the levels. A single thread is timed by the CPU time of the process, which
    stops while another process has the CPU, because the table stays in use for a long time.
    """
    batches = batches or engine.batches
    passes = {
        (level, batch): one_pass(engine, level, batch)
        for level in range(len(engine.levels))
        for batch in batches
    }
    samples = sample(passes, rounds, clock or _own_clock(engine), progress)
    return LatencyTable(
        device=device_name(engine),
        ladder=engine.ladder.digest,
        padded=engine.padded,
        batches=tuple(batches),
        seconds=tuple(
            tuple(min(samples[level, batch]) for batch in batches)
            for level in range(len(engine.levels))
        ),
    )


def one_pass(engine: Engine, level: int, batch: int) -> Callable[[], object]:
    """What runs a batch of noise at a level."""
    return partial(engine.infer, _noise(engine.config, batch), [level] * batch)


def sample(
    passes: Mapping[Key, Callable[[], object]],
    rounds: int = _ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = lambda *_: None,
) -> dict[Key, list[float]]:
    """Seconds of each pass in each of the rounds that interleave them.

    Each runs twice, and the second run counts: the caches still hold the one before.
    """
    samples: dict[Key, list[float]] = {key: [] for key in passes}
    for round_ in range(rounds):
        for key, run in passes.items():
            run()
            start = clock()
            run()
            samples[key].append(clock() - start)
        progress("measure latencies", round_ + 1, rounds)
    return samples


def _noise(config: ViTConfig, images: int) -> Tensor:
    shape = (images, config.height, config.width, 3)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _own_clock(engine: Engine) -> Callable[[], float]:
    alone = engine.device.type == "cpu" and engine.threads == 1
    return time.process_time if alone else time.perf_counter


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
