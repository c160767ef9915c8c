"""Slim variants of the demo model at half the multiply-accumulates: what they cost and lose.

    python -m foveate_benchmarks.ladders.compress [NAME] [--repository model_repository]

Closed form: 512 unlabelled calibration images. Distilled: the same, then trained against the dense
model on 4,000 calibration images. Quality on 2,000 held-out images, of weights rounded to fp16 as
files hold them. Times: plain forward pass, batch 1 and 8, one thread, process CPU time, models
interleaved round by round, medians.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer

from foveate.compress.distill import distill
from foveate.compress.report import examine
from foveate.compress.slim import compress
from foveate.images.digit_sets import calibration_images, held_out_images
from foveate.inference.allocator import tune_allocator
from foveate.model.vit import ViT, load_vit, save_vit
from foveate_benchmarks.results import conclude

FIT = 512
EPOCHS = 4
VARIANTS: dict[str, dict[str, Any]] = {
    "slim": {},
    "slim, SNP's redundancy": {"criterion": "redundancy"},
    "slim, heads": {"heads": True},
    "slim, residual": {"residual": True},
}


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    target_macs: float = 0.5,
    images: int = 4000,
    held_out: int = 2000,
    rounds: int = 60,
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    dense = load_vit(repository / name / "1" / "model.safetensors")
    fit, judge = calibration_images(images), held_out_images(held_out)
    made: dict[str, ViT] = {"dense": dense}
    seconds = {"dense": 0.0}
    for variant, options in VARIANTS.items():
        start = time.process_time()
        made[variant] = compress(dense, fit.pixels[:FIT], target_macs, **options)
        seconds[variant] = time.process_time() - start
        print(f"{variant}: {seconds[variant]:.0f} s")
    with tempfile.TemporaryDirectory() as scratch:
        for variant in ("slim", "slim, heads"):
            start = time.process_time()
            student = stored(made[variant])
            checkpoint = Path(scratch) / "training"
            distill(student, dense, fit.pixels, epochs=EPOCHS, seed=0, checkpoint=checkpoint)
            made[f"{variant}, distilled"] = student
            seconds[f"{variant}, distilled"] = time.process_time() - start
            print(f"{variant}, distilled: {time.process_time() - start:.0f} s")
    vits = [dense, *(stored(vit) for key, vit in made.items() if key != "dense")]
    reports = dict(zip(made, examine(vits, judge.pixels, judge.labels, rounds), strict=True))
    base = reports["dense"]
    rows = {
        variant: {
            **asdict(report),
            "macs_ratio": report.macs / base.macs,
            "time_ratio_batch_1": report.seconds_batch_1 / base.seconds_batch_1,
            "time_ratio_batch_8": report.seconds_batch_8 / base.seconds_batch_8,
            "seconds_to_make": seconds[variant],
            "dim": vit.config.dim,
            "blocks": [asdict(shape) for shape in vit.config.shapes],
        }
        for (variant, report), vit in zip(reports.items(), vits, strict=True)
    }
    for variant, row in rows.items():
        print(
            f"{variant:32} macs {row['macs_ratio']:.3f}  parameters {row['parameters']}  "
            f"time x{row['time_ratio_batch_1']:.2f} x{row['time_ratio_batch_8']:.2f}  "
            f"top-1 {row['top1']:.2%}  agreement {row['agreement']:.2%}"
        )
    top1 = {variant: report.top1 or 0.0 for variant, report in reports.items()}
    checks = {
        "at most the target is left": all(
            row["macs_ratio"] <= target_macs for key, row in rows.items() if key != "dense"
        ),
        "closed form loses at most 1 point": top1["dense"] - top1["slim"] <= 0.01,
        "distilled loses at most 0.5 points": top1["dense"] - top1["slim, distilled"] <= 0.005,
    }
    conclude("compress", checks, target_macs=target_macs, epochs=EPOCHS, rows=rows)


def stored(vit: ViT) -> ViT:
    """As its file would hold it."""
    with tempfile.TemporaryDirectory() as folder:
        save_vit(vit, Path(folder) / "w.safetensors")
        return load_vit(Path(folder) / "w.safetensors")


if __name__ == "__main__":
    typer.run(main)
