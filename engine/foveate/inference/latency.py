"""Measure how long each level takes on this device, once, and store it."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from foveate.errors import LadderError
from foveate.inference.graphs import GraphEngine
from foveate.inference.packed import Engine
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable

__all__ = ["device_name", "load_or_measure", "measure", "sample", "table_path"]

_ROUNDS = 7


def device_name(device: torch.device) -> str:
    """Everything but the ladder that measured times depend on: processor, threads, torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def load_or_measure(engine: Engine | GraphEngine, state_dir: Path) -> LatencyTable:
    """This device's table from ``state_dir``; if missing, measures it (takes seconds) and saves it.

    Models that share a state folder and start together measure one after the other.
    """
    path = table_path(engine.ladder, engine.device, state_dir)
    try:
        return _load(path, engine)
    except LadderError:  # missing or damaged: measuring repairs it
        pass
    with _alone(state_dir):
        try:
            return _load(path, engine)  # another instance of the model was first
        except LadderError:
            table = measure(engine)
            table.save(path)
            return table


def _load(path: Path, engine: Engine | GraphEngine) -> LatencyTable:
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


def table_path(ladder: Ladder, device: torch.device, state_dir: Path) -> Path:
    """File of a ladder's table for a device."""
    key = hashlib.sha256(f"{device_name(device)} {ladder.digest}".encode()).hexdigest()[:16]
    return state_dir / ladder.model / f"latency-{key}.json"


def measure(
    engine: Engine | GraphEngine,
    batches: Sequence[int] | None = None,
    rounds: int = _ROUNDS,
    clock: Callable[[], float] | None = None,
) -> LatencyTable:
    """Minimum batch time of every level and batch size: noisy neighbours only ever add time.

    Rounds interleave the levels. A single thread is timed by its own CPU clock, which stops while
    another process has the CPU, because the table stays in use for a long time.
    """
    batches = batches or engine.batches
    samples = sample(engine, batches, rounds, clock or _own_clock(engine.device))
    return LatencyTable(
        device=device_name(engine.device),
        ladder=engine.ladder.digest,
        padded=isinstance(engine, GraphEngine),
        batches=tuple(batches),
        seconds=tuple(
            tuple(min(samples[level, batch]) for batch in batches)
            for level in range(len(engine.levels))
        ),
    )


def sample(
    engine: Engine | GraphEngine,
    batches: Sequence[int],
    rounds: int = _ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[tuple[int, int], list[float]]:
    """Seconds of every level and batch size in each of the rounds that interleave them."""
    config = engine.config
    generator = torch.Generator().manual_seed(0)
    shape = (max(batches), config.height, config.width, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    samples: dict[tuple[int, int], list[float]] = {}
    for round_ in range(rounds + 1):
        for level in range(len(engine.levels)):
            for batch in batches:
                start = clock()
                engine.infer(pixels[:batch], [level] * batch)
                if round_ > 0:  # the first round warms up
                    samples.setdefault((level, batch), []).append(clock() - start)
    return samples


def _own_clock(device: torch.device) -> Callable[[], float]:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
