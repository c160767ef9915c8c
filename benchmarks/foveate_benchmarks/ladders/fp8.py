"""What FP8 changes in the answers of every level of the demo model, emulated on the CPU.

    python -m foveate_benchmarks.ladders.fp8 [--images 2000]

Rounded are the operands of the products in blocks, as a GPU rounds them. All else is in fp32: a GPU
sums with fewer bits and has bfloat16 elsewhere. What it answers is not measured here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

from foveate.images import cluttered_digits
from foveate.inference.engine import Engine
from foveate.inference.latency import processor
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate_benchmarks.results import conclude

BATCH = 50
LOSS = 0.01  # of top-1, the most that FP8 may cost a level
AGREEMENT = 0.98  # least share of images with the same class


def main(
    images: int = 2000, repository: Path = Path("model_repository"), keep: bool = True
) -> None:
    pixels, labels = map(torch.from_numpy, cluttered_digits.test_set(images))
    plain = PreparedLadder.load(repository / "digits" / "1")
    rounded = PreparedLadder(
        plain.ladder, tuple(replace(level, precision="fp8") for level in plain.levels)
    )
    fp32, fp8 = ReferenceEngine(plain), ReferenceEngine(rounded, emulate_fp8=True)
    rows: list[dict[str, Any]] = []
    for index, level in enumerate(plain.ladder.levels):
        expected, scores = (_scores(engine, index, pixels) for engine in (fp32, fp8))
        classes, wanted = scores.argmax(1), expected.argmax(1)
        rows.append(
            {
                "level": level.name,
                "top1_fp32": float((wanted == labels).float().mean()),
                "top1_fp8": float((classes == labels).float().mean()),
                "agreement": float((classes == wanted).float().mean()),
                "score": float((scores - expected).abs().max()),
            }
        )
        print(json.dumps(rows[-1]))
    checks = {
        f"top-1 of every level falls by {100 * LOSS:g} points at most": all(
            row["top1_fp32"] - row["top1_fp8"] <= LOSS for row in rows
        ),
        f"the class of {100 * AGREEMENT:g} % of the images at every level": all(
            row["agreement"] >= AGREEMENT for row in rows
        ),
    }
    conclude("fp8", checks, keep, processor=processor(), images=images, levels=rows)


def _scores(engine: Engine, level: int, pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat(
        [engine.infer(part, [level] * len(part)).scores for part in pixels.split(BATCH)]
    )


if __name__ == "__main__":
    typer.run(main)
