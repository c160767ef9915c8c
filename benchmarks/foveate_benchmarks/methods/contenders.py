"""Methods made ready to answer: each is a level of an engine, as it would be served."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.images.cluttered_digits import calibration_set
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig, load_vit, patchify, save_vit
from foveate.reduce.selector_file import load_selectors
from foveate.reduce.vwt_inter import learn_words
from foveate_benchmarks.methods.int8 import quantized
from foveate_benchmarks.methods.method import Method
from foveate_benchmarks.methods.resolution import resized, shrunk

__all__ = ["Contender", "contenders"]


@dataclass(frozen=True)
class Contender:
    """A method, what it costs by arithmetic, and how to ask it."""

    method: Method
    macs: int
    scores: Callable[[Tensor], Tensor]  # [B, H, W, 3] uint8 -> [B, classes]


def contenders(methods: Sequence[Method], folder: Path, scratch: Path) -> list[Contender]:
    """Bind methods to the tensors in the version folder ``folder``, in the order given.

    Args:
        scratch: empty folder for ladders, vocabularies and resized models.
    """
    vit = load_vit(folder / "model.safetensors")
    for size in {method.words for method in methods} - {0}:
        save_file({"words": _words(vit.config, size)}, scratch / _vocabulary(size))
    for file in folder.glob("*.safetensors"):
        if not (scratch / file.name).exists():
            (scratch / file.name).symlink_to(file.resolve())
    made: dict[int, Contender] = {}
    for side in {method.side for method in methods}:
        own = [i for i, method in enumerate(methods) if method.side == side]
        place = scratch
        if side is not None:
            place = scratch / str(side)
            place.mkdir()
            save_vit(shrunk(vit, side), place / "model.safetensors")
        engine = _engine(place, [methods[i] for i in own])
        int8 = _in_int8(engine)
        for level, i in enumerate(own):
            run = partial(_scores, int8 if methods[i].int8 else engine, level, side)
            made[i] = Contender(methods[i], engine.ladder.levels[level].macs, run)
    return [made[i] for i in range(len(methods))]


def _scores(engine: Engine, level: int, side: int | None, pixels: Tensor) -> Tensor:
    pixels = pixels if side is None else resized(pixels, side)
    return engine.infer(pixels, [level] * len(pixels)).scores


def _engine(place: Path, methods: Sequence[Method]) -> Engine:
    """An engine with a level for each method, written and read as a ladder is."""
    config = load_vit(place / "model.safetensors").config
    levels = [_level(place, method) for method in methods]
    ladder = {
        "schema": 1,
        "model": "methods",
        "image_size": [config.height, config.width],
        "tokens": 1 + config.patches,
        "levels": levels,
    }
    (place / "ladder.json").write_text(json.dumps(ladder))
    return ReferenceEngine(PreparedLadder.load(place))


def _level(place: Path, method: Method) -> dict[str, Any]:
    if method.served is not None:
        return asdict(method.served)
    config = load_vit(place / method.weights).config
    schedule = Schedule.parse(method.reducers, config)
    more = {} if method.selector is None else {"selector": _per_token(place, method, config)}
    return {
        "name": method.family,
        "reducers": [dict(reducer) for reducer in method.reducers],
        "weights": method.weights,
        "vocabulary": _vocabulary(method.words) if method.words else None,
        "selector": method.selector,
        "tokens": schedule.tokens(config)[1],
        "macs": schedule.macs(config, method.words, **more),
        "quality": {"top1": None, "agreement": 0.0, "n": 0},  # not yet measured
    }


def _in_int8(engine: Engine) -> Engine:
    """The same levels, with linear layers in int8."""
    copies: dict[int, ViT] = {}
    for level in engine.levels:
        if id(level.vit) not in copies:
            copies[id(level.vit)] = quantized(level.vit)
    levels = tuple(replace(p, vit=copies[id(p.vit)]) for p in engine.levels)
    return ReferenceEngine(PreparedLadder(engine.ladder, levels))


def _words(config: ViTConfig, size: int) -> Tensor:
    """A vocabulary of patches of images that are not reported on."""
    pixels = torch.from_numpy(calibration_set(256)[0])
    rows = patchify(pixels, config.patch).flatten(0, 1).float()
    return learn_words((rows / 255.0 - config.mean) / config.std, size).half()


def _vocabulary(size: int) -> str:
    return f"vocabulary-{size}.safetensors"


def _per_token(place: Path, method: Method, config: ViTConfig) -> int:
    """Multiply-accumulates a selector spends on one token."""
    selectors = load_selectors(place / str(method.selector), config)
    return next(iter(selectors.values())).macs
