"""Held-out accuracy of a dense checkpoint: ``python -m foveate.digits.evaluate PATH``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch

from foveate.accuracy.interval import wilson
from foveate.images.cluttered_digits import test_set
from foveate.model.vit import ViT, load_vit

__all__ = ["Accuracy", "evaluate"]


class Accuracy(NamedTuple):
    """Right answers out of ``total``."""

    correct: int
    total: int

    @property
    def top1(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Binomial 95 % interval (Wilson).

        It takes images as independent. The held-out images share 360 source digits, so the true
        interval is somewhat wider.
        """
        return wilson(self.correct, self.total)


@torch.inference_mode()
def evaluate(model: ViT, count: int = 2000, batch: int = 50) -> Accuracy:
    """Top-1 of the dense ``model`` on the first ``count`` images of the held-out set."""
    pixels, labels = (torch.from_numpy(array) for array in test_set(count))
    guesses = torch.cat([model(pixels[at : at + batch]).argmax(1) for at in range(0, count, batch)])
    return Accuracy(int((guesses == labels).sum()), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="checkpoint (safetensors)")
    parser.add_argument("--count", type=int, default=2000, help="held-out images")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = evaluate(load_vit(args.path), args.count)
    low, high = result.interval
    if args.json:
        print(json.dumps({**result._asdict(), "top1": result.top1, "interval": [low, high]}))
    else:
        print(
            f"top-1 {result.top1:.2%} ({result.correct} of {result.total}), "
            f"95 % interval {low:.2%} to {high:.2%}"
        )


if __name__ == "__main__":
    main()
