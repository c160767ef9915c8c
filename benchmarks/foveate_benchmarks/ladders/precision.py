"""What compiling and bf16 change in the answers of every kind of level.

    python -m foveate_benchmarks.ladders.precision [--images 1000]

The demo model, on images of its test set: levels it ships and one of every other kind. In fp32,
token maps must be those of PyTorch; where rounding decides between two tokens that score alike, a
map differs, and is counted. In bf16, the class must be the same. The selector is distilled first.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import save_file

from foveate.images import cluttered_digits
from foveate.images.dataset import Images
from foveate.inference.compiled import has_bf16
from foveate.inference.latency import processor
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Runtime
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig, load_vit, patchify
from foveate.reduce.selector_file import save_selectors
from foveate.reduce.vwt_inter import learn_words
from foveate.selector.recipe import Recipe
from foveate.selector.train import train
from foveate_benchmarks.results import conclude

AGREEMENT = 0.995  # least share of images with the same class in bf16
BATCH = 16
STEPS = 60  # of training a selector
SELECTOR, WORDS = "selector.safetensors", "words.safetensors"


def prune(block: int, keep: int, fate: str = "drop", score: str = "cls-value") -> dict[str, Any]:
    return {"kind": "prune", "block": block, "keep": keep, "fate": fate, "score": score}


def merge(block: int, remove: int, by: str) -> dict[str, Any]:
    return {"kind": "merge", "block": block, "remove": remove, "by": by}


KINDS: dict[str, list[dict[str, Any]]] = {
    "cls, package-sum": [prune(2, 72, "package-sum", "cls")],
    "cls-value, merge": [prune(2, 72, "merge")],
    "key, drop": [prune(2, 72, "drop", "key")],
    "key, package": [prune(2, 72, "package", "key")],
    "mlp-shift, drop": [prune(2, 72, "drop", "mlp-shift")],
    "selector, package": [prune(2, 72, "package", "selector")],
    "random, drop": [prune(2, 72, "drop", "random")],
    "tome": [merge(block, 20, "tome") for block in (1, 2, 3)],
    "pitome": [merge(block, 20, "pitome") for block in (1, 2, 3)],
    "intra, drop": [{"kind": "vwt-intra", "keep": 72, "fate": "drop"}],
    "inter": [{"kind": "vwt-inter", "count": 72}],
    "adaptive": [{"kind": "adaptive", "keeps": [48, 72, 101], "variance": 0.01}],
}


def main(
    images: int = 1000, repository: Path = Path("model_repository"), keep: bool = True
) -> None:
    pixels = torch.from_numpy(cluttered_digits.test_set(images)[0])
    with tempfile.TemporaryDirectory() as name:
        prepared = PreparedLadder.load(_version(repository / "digits" / "1", Path(name)))
    reference = ReferenceEngine(prepared)
    engines = {"fp32": Runtime.choose(precision="fp32").engine(prepared, (BATCH,))}
    if has_bf16():
        engines["bf16"] = Runtime.choose(precision="bf16").engine(prepared, (BATCH,))
    rows: list[dict[str, Any]] = []
    for level, own in enumerate(prepared.ladder.levels):
        expected = reference.infer(pixels, [level] * images, token_map=True)
        row: dict[str, Any] = {"level": own.name}
        for precision, engine in engines.items():
            answers = engine.infer(pixels, [level] * images, token_map=True)
            assert answers.token_map is not None
            assert expected.token_map is not None
            maps = torch.eq(answers.token_map, expected.token_map).all(1)
            classes = answers.scores.argmax(1) == expected.scores.argmax(1)
            row[precision] = {
                "classes": int(classes.sum()),
                "maps": int(maps.sum()),
                "score": float((answers.scores - expected.scores).abs().max()),
            }
        rows.append(row)
        print(json.dumps(row))
    checks = {
        f"{precision}: the class of {100 * AGREEMENT} % of the images at every level": all(
            row[precision]["classes"] >= AGREEMENT * images for row in rows
        )
        for precision in engines
    }
    checks["fp32: the token map of every image at every level"] = all(
        row["fp32"]["maps"] == images for row in rows
    )
    uncompiled = {p: engine.uncompiled for p, engine in engines.items()}
    checks["every level compiles"] = not any(uncompiled.values())
    conclude("precision", checks, keep, processor=processor(), images=images, levels=rows)


def _version(shipped: Path, folder: Path) -> Path:
    """The demo's folder with further levels."""
    shutil.copytree(shipped, folder, dirs_exist_ok=True)
    vit = load_vit(folder / "model.safetensors")
    config = vit.config
    pixels = torch.from_numpy(cluttered_digits.calibration_set(800)[0])
    learning, validation = Images(pixels[:600], None), Images(pixels[600:], None)
    trained = train(vit, learning, validation, Recipe(counts={2: 72}, steps=STEPS))
    save_selectors(folder / SELECTOR, trained.selectors)
    save_file({"words": _words(pixels[:100], config)}, folder / WORDS)
    ladder = json.loads((folder / "ladder.json").read_text())
    ladder["levels"] += [_level(name, reducers, config) for name, reducers in KINDS.items()]
    (folder / "ladder.json").write_text(json.dumps(ladder))
    return folder


def _words(pixels: torch.Tensor, config: ViTConfig) -> torch.Tensor:
    rows = patchify(pixels, config.patch).float().flatten(0, 1)
    return learn_words((rows / 255 - config.mean) / config.std, 200)


def _level(name: str, reducers: list[dict[str, Any]], config: ViTConfig) -> dict[str, Any]:
    schedule = Schedule.parse(reducers, config)
    return {
        "name": name,
        "reducers": reducers,
        "weights": "model.safetensors",
        "vocabulary": WORDS if name == "inter" else None,
        "selector": SELECTOR if name.startswith("selector") else None,
        "tokens": schedule.tokens(config)[1],
        "macs": schedule.macs(config),
        "quality": {"top1": None, "agreement": 0.0, "n": 0},
    }


if __name__ == "__main__":
    typer.run(main)
