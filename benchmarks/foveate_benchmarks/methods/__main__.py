"""Every method on the same model, the same images and the same machine, in one run.

    python -m foveate_benchmarks.methods [NAME] [--repository model_repository]

Quality on held-out images of the demo. Time at batch 1 and 8: one thread, process CPU time, rounds
interleaved over all methods, medians. ``foveate_benchmarks.tables`` writes it to docs/methods.md.
Which methods there are: ``catalogue.py``; those that need a file of
``foveate train-selector`` or ``foveate compress`` are listed as missing where there is none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from foveate.compress.report import times
from foveate.digits.evaluate import Accuracy
from foveate.images.cluttered_digits import test_set
from foveate.inference.allocator import tune_allocator
from foveate.model.vit import load_vit
from foveate_benchmarks.methods.catalogue import catalogue
from foveate_benchmarks.methods.contenders import Contender, contenders
from foveate_benchmarks.methods.published import PUBLISHED
from foveate_benchmarks.results import conclude

BATCHES = (1, 8)


def milliseconds(runs: Sequence[Contender], pixels: Tensor, batch: int, rounds: int) -> list[float]:
    """Median time of a batch for each contender; other images every round."""
    starts = (number * batch % (len(pixels) - batch + 1) for number in range(rounds + 1))
    images = (pixels[start : start + batch] for start in starts)
    return [1e3 * seconds for seconds in times([run.scores for run in runs], images)]


@torch.inference_mode()
def classes(contender: Contender, pixels: Tensor) -> Tensor:
    """Answers [n] in batches of 16."""
    return torch.cat([contender.scores(part).argmax(1) for part in torch.split(pixels, 16)])


def row(contender: Contender, answers: Tensor, exact: Tensor, labels: Tensor) -> dict[str, Any]:
    accuracy = Accuracy(int((answers == labels).sum()), len(labels))
    method = contender.method
    return {
        "family": method.family,
        "reducers": [dict(reducer) for reducer in method.reducers],
        "weights": method.weights,
        "side": method.side,
        "level": None if method.served is None else method.served.name,
        "macs": contender.macs,
        "top1": accuracy.top1,
        "interval": accuracy.interval,
        "agreement": (answers == exact).double().mean().item(),
    }


def judge(rows: Sequence[dict[str, Any]], missing: dict[str, str], half: int) -> dict[str, bool]:
    """What must hold, and what of it does: VWT intra at ``half`` of the patches pays in time."""
    dense, checks = rows[0], {"no method is missing": not missing}
    for found in rows:
        keep = [reducer.get("keep") for reducer in found["reducers"]]
        if not found["family"].startswith("VWT intra") or keep != [half]:
            continue
        for batch in BATCHES:
            key = f"batch{batch}_ms"
            share, macs = found[key] / dense[key], found["macs"] / dense["macs"]
            text = f"{found['family']} to {half} patches, batch {batch}"
            print(f"{text}: {share:.1%} of the time for {macs:.1%} of the multiply-accumulates")
            checks[f"{text}: share of time at most that of MACs + 3 points"] = share <= macs + 0.03
    return checks


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    images: int = 2000,
    rounds: int = 25,
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    folder = repository / name / "1"
    config = load_vit(folder / "model.safetensors").config
    methods, missing = catalogue(config, folder)
    pixels, labels = (torch.from_numpy(array) for array in test_set(images))
    with tempfile.TemporaryDirectory() as scratch:
        runs = contenders(methods, folder, Path(scratch))
        by_batch = {batch: milliseconds(runs, pixels, batch, rounds) for batch in BATCHES}
        rows: list[dict[str, Any]] = []
        exact = classes(runs[0], pixels)
        for i, contender in enumerate(runs):
            found = row(contender, classes(contender, pixels), exact, labels)
            rows.append(found | {f"batch{batch}_ms": by_batch[batch][i] for batch in BATCHES})
            print(
                f"{found['family'][:36]:36} {found['macs'] / 1e6:6.1f} MMAC "
                + " ".join(f"{by_batch[batch][i]:6.2f} ms" for batch in BATCHES)
                + f"  top-1 {found['top1']:.2%}  agreement {found['agreement']:.2%}",
                flush=True,
            )
    for family, reason in missing.items():
        print(f"missing: {family}: {reason}")
    checks = judge(rows, missing, config.patches // 2)
    conclude(
        "methods",
        checks,
        images=images,
        rounds=rounds,
        rows=rows,
        missing=missing,
        published=PUBLISHED,
    )


if __name__ == "__main__":
    typer.run(main)
