"""The plugin with an emulated GPU under it: what a backend's ``model.py`` imports.

``passes.json`` beside the weights says what passes take: {"overlap": true, "pass_s": 0.0004,
"image_s": 0.00008, "looks": false}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foveate.backend.classifier
from foveate.backend.model import TritonPythonModel
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate_benchmarks.serving.emulated_gpu import EmulatedEngine

__all__ = ["TritonPythonModel"]


def start_emulated(folder: Path, max_batch: int, **_: Any) -> Engine:
    taken = json.loads((folder / "passes.json").read_text())
    prepared = PreparedLadder.load(folder)
    macs = [level.macs for level in prepared.ladder.levels]

    def seconds(level: int, size: int) -> float:
        share = macs[level] / macs[0]
        return float(taken["pass_s"] + taken["image_s"] * size * share)

    return EmulatedEngine(
        prepared, max_batch, seconds, overlaps=taken["overlap"], looks=taken["looks"]
    )


foveate.backend.classifier.start_engine = start_emulated  # type: ignore[attr-defined]
