"""One group of the comparison: a model, a batch size and a number of threads.

All that is compared runs in turn, round by round; each pass runs twice and the second run counts,
unless one takes a second or longer.
One thread is timed by the CPU time of the process, which stops while others have the core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from statistics import median
from typing import Any

import numpy as np
import torch

from foveate.inference.compiled import CompiledEngine, has_bf16
from foveate.inference.export import compile_model, export_level
from foveate_benchmarks.cpu_peers.models import Model
from foveate_benchmarks.cpu_peers.peers import Peers, Run, bare

__all__ = ["OURS", "PRECISIONS", "Bench", "Group", "Row", "clock"]

OURS, OURS_BARE = "foveate", "foveate, bare request"
PRECISIONS = ("fp32", "bf16")
FEWEST = 3  # rounds
LONG = 1.0  # seconds of a pass

Key = tuple[str, str, int | None]  # who, precision, level


@dataclass(frozen=True)
class Group:
    model: str
    threads: int
    batch: int


@dataclass(frozen=True)
class Row:
    """Of one contender in a group, or why it is not there."""

    model: str
    threads: int
    batch: int
    who: str
    precision: str
    level: int | None = None  # of ours
    rounds: int = 0
    best_ms: float | None = None
    median_ms: float | None = None
    difference: float | None = None  # largest, of scores, from PyTorch in fp32
    missing: str | None = None

    def facts(self) -> dict[str, Any]:
        """Without what says nothing."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def clock(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


class Bench:
    """A model, ready to be measured with any batch and number of threads."""

    def __init__(self, model: Model, inductor: bool = True) -> None:
        """``inductor``: torch.compile, too, whose first compilations take minutes."""
        self.model = model
        self._peers = Peers(model.vit, inductor)
        levels = model.prepared.levels
        # Exporting depends neither on the batch nor on the threads.
        self._export = cache(lambda level, variant: export_level(levels[level].variants[variant]))

    def measure(self, group: Group, rounds: int, seconds: float) -> list[Row]:
        """At most ``rounds``, and no longer than about ``seconds``, but :data:`FEWEST` rounds."""
        torch.set_num_threads(group.threads)
        torch.compiler.reset()  # of other batch sizes nothing is needed any more
        rows: list[Row] = []
        passes: dict[Key, Run] = {}
        with torch.inference_mode():
            for precision in PRECISIONS:
                for who, level, run in self._contenders(group, precision):
                    if isinstance(run, str):
                        facts = asdict(group)
                        rows.append(Row(**facts, who=who, precision=precision, missing=run))
                    else:
                        passes[who, precision, level] = run
            scores, once = _first(passes)
            long = sum(_runs(took) * took for took in once.values())
            rounds = max(min(rounds, int(seconds / long)), min(rounds, FEWEST))
            samples = _interleaved(passes, once, rounds, clock(group.threads))
        exact = scores["eager", "fp32", None]
        for key, times in samples.items():
            who, precision, level = key
            rows.append(
                Row(
                    **asdict(group),
                    who=who,
                    precision=precision,
                    level=level,
                    rounds=rounds,
                    best_ms=1e3 * min(times),
                    median_ms=1e3 * median(times),
                    difference=None if level else (scores[key] - exact).abs().max().item(),
                )
            )
        return rows

    def _contenders(
        self, group: Group, precision: str
    ) -> Iterator[tuple[str, int | None, Run | str]]:
        if precision == "bf16" and not has_bf16():
            yield "all", None, "this CPU has neither AMX-BF16 nor AVX512-BF16"
            return
        pixels = self.model.images[: group.batch]
        for who, run in self._peers.runs(precision, pixels, group.threads):
            yield who, None, run
        size = group.batch
        first = compile_model(self._export(0, 0), size, precision, group.threads)
        yield OURS_BARE, 0, bare(first, pixels)
        engine = CompiledEngine(
            self.model.prepared, self._export, (size,), precision=precision, threads=group.threads
        )
        for level in range(len(engine.levels)):
            yield OURS, level, partial(_scores, engine, pixels, [level] * size)
            engine.infer(pixels, [level] * size)  # compiles it
            if reason := engine.uncompiled.get(level):
                print(f"level {level} in {precision} runs on PyTorch: {reason}")


def _first(passes: Mapping[Key, Run]) -> tuple[dict[Key, torch.Tensor], dict[Key, float]]:
    """What each answers, and about how many seconds it takes."""
    scores, seconds = {}, {}
    for key, run in passes.items():
        start = time.perf_counter()
        scores[key] = torch.as_tensor(np.array(run()))
        seconds[key] = time.perf_counter() - start
    return scores, seconds


def _runs(seconds: float) -> int:
    """Of a pass in a round: a long one has the caches to itself after its first moments."""
    return 2 if seconds < LONG else 1


def _interleaved(
    passes: Mapping[Key, Run],
    once: Mapping[Key, float],
    rounds: int,
    clock: Callable[[], float],
) -> dict[Key, list[float]]:
    """Seconds of each pass in each round."""
    samples: dict[Key, list[float]] = {key: [] for key in passes}
    for _ in range(rounds):
        for key, run in passes.items():
            for _ in range(_runs(once[key]) - 1):
                run()
            start = clock()
            run()
            samples[key].append(clock() - start)
    return samples


def _scores(engine: CompiledEngine, pixels: torch.Tensor, levels: Sequence[int]) -> object:
    return engine.infer(pixels, levels).scores
