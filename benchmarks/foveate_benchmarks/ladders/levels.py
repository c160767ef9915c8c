"""Realised speed-up of each level against its ratio of multiply-accumulates.

    python -m foveate_benchmarks.ladders.levels [NAME] [--repository model_repository]

Batch 8, one thread, process CPU time, levels interleaved round by round, minima of all rounds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from foveate.inference.allocator import tune_allocator
from foveate.inference.latency import one_pass, sample
from foveate.inference.prepared import PreparedLadder
from foveate.inference.runtime import Runtime
from foveate_benchmarks.results import conclude


def main(
    name: str = "digits", repository: Path = Path("model_repository"), rounds: int = 40
) -> None:
    tune_allocator()
    prepared = PreparedLadder.load(repository / name / "1")
    engine = Runtime.choose().engine(prepared, (8,))
    levels = engine.ladder.levels
    passes = {level: one_pass(engine, level, 8) for level in range(len(levels))}
    samples = sample(passes, rounds, time.process_time)
    best = [min(samples[level]) for level in range(len(levels))]
    rows: list[dict[str, Any]] = []
    for index, level in enumerate(levels):
        macs, speed = levels[0].macs / level.macs, best[0] / best[index]
        rows.append(
            {
                "level": level.name,
                "mmacs": level.macs / 1e6,
                "macs_ratio": macs,
                "batch8_ms": best[index] * 1e3,
                "speedup": speed,
                "speedup_over_macs_ratio": speed / macs,
                "bar": 0.85 if level.macs >= 0.35 * levels[0].macs else 0.70,
                "quality": engine.ladder.quality(index),
            }
        )
        print(
            f"{level.name:28} {level.macs / 1e6:6.1f} MMAC x{macs:5.2f}  "
            f"{best[index] * 1e3:6.2f} ms x{speed:5.2f}  realised {speed / macs:.2f}  "
            f"quality {rows[-1]['quality']:.4f}"
        )
    checks = {
        "at least 5 levels": len(levels) >= 5,
        "span of at least 4x in time": best[0] / best[-1] >= 4,
        "cheapest loses at most 2.5 points": engine.ladder.quality(0)
        - engine.ladder.quality(len(levels) - 1)
        <= 0.025,
        "realised speed-up over its bar at every level": all(
            row["speedup_over_macs_ratio"] >= row["bar"] for row in rows
        ),
    }
    conclude("levels", checks, rounds=rounds, levels=rows)


if __name__ == "__main__":
    typer.run(main)
