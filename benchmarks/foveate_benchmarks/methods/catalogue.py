"""Every method of the field that this project has, at like multiply-accumulates.

A family is a function from a share of tokens to the reducers of a level. ``matched`` finds the
share at which a level costs what it should. To add a family, add a line to ``FAMILIES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from foveate.errors import LadderError
from foveate.levels.ladder import Ladder
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig
from foveate_benchmarks.methods.method import Method, Reducers

__all__ = ["SHARES", "catalogue", "matched"]

SHARES = (0.75, 0.5, 0.3)  # of the dense model's multiply-accumulates

Family = Callable[[ViTConfig, float], Reducers]


def pruned(config: ViTConfig, ratio: float, **how: Any) -> Reducers:
    """The share ``ratio`` of the tokens stays at a quarter, a half and three quarters."""
    depth = config.depth
    return [
        {
            "kind": "prune",
            "block": block,
            "keep": max(4, math.ceil(config.patches * ratio**stage)),
            **how,
        }
        for stage, block in enumerate((depth // 4, depth // 2, 3 * depth // 4), 1)
    ]


def merged(config: ViTConfig, ratio: float, by: str) -> Reducers:
    """As many tokens merge in every block, as long as half of them can."""
    most, n = round(2 * config.patches * (1 - ratio) / config.depth), config.patches + 1
    reducers: list[dict[str, Any]] = []
    for block in range(config.depth):
        remove = min(most, (n - 1) // 2, n - 5)
        if remove > 0:
            reducers.append({"kind": "merge", "block": block, "remove": remove, "by": by})
        n -= remove
    return reducers


def intra(config: ViTConfig, ratio: float, **how: Any) -> Reducers:
    return [{"kind": "vwt-intra", "keep": round(config.patches * ratio), **how}]


def inter(config: ViTConfig, ratio: float) -> Reducers:
    return [{"kind": "vwt-inter", "count": round(config.patches * ratio)}]


def adaptive(config: ViTConfig, ratio: float) -> Reducers:
    """Busy images keep the share ``ratio``, flat ones half or three quarters of that."""
    keeps = [round(config.patches * ratio * part) for part in (0.5, 0.75, 1)]
    return [{"kind": "adaptive", "keeps": keeps, "variance": 0.005}]


FAMILIES: dict[str, Family] = {
    "random tokens, dropped": partial(pruned, score="random", fate="drop"),
    "CLS attention, dropped": partial(pruned, score="cls", fate="drop"),
    "CLS attention × value norm, dropped": partial(pruned, fate="drop"),
    "MLP shift, dropped": partial(pruned, score="mlp-shift", fate="drop"),
    "EViT": partial(pruned, score="cls", fate="package-sum"),
    "CLS attention × value norm, package": partial(pruned, fate="package"),
    "CLS attention × value norm, merged": partial(pruned, fate="merge"),
    "ToMe, every block": partial(merged, by="tome"),
    "PiToMe, every block": partial(merged, by="pitome"),
    "VWT intra, dropped": partial(intra, fate="drop"),
    "VWT intra, grouped": intra,
    "VWT inter, 100 words": inter,
    "VWT inter, 1000 words": inter,
    "adaptive VWT intra": adaptive,
}
WORDS = {"VWT inter, 100 words": 100, "VWT inter, 1000 words": 1000}


def catalogue(config: ViTConfig, folder: Path) -> tuple[list[Method], dict[str, str]]:
    """The methods to measure, the dense model first, and why the others are missing.

    Args:
        folder: version folder of the model, whose other files (selectors, slim weights, ladder)
            are methods too.
    """
    methods, missing = [Method(family="dense")], {}
    for family, make in FAMILIES.items():
        words = WORDS.get(family, 0)
        try:
            found = matched(config, partial(make, config), words)
        except LadderError as error:
            missing[family] = str(error)
        else:
            methods += [Method(family=family, reducers=r, words=words) for r in found]
    for family in ("VWT intra, dropped", "VWT intra, grouped"):  # the published count, too
        exactly = Method(family=family, reducers=FAMILIES[family](config, 0.5))
        if family not in missing and exactly not in methods:
            methods.append(exactly)
    for part in (_selectors, _slim):
        found_files, reasons = part(config, folder)
        methods += found_files
        missing |= reasons
    half = intra(config, 0.5)
    sides = range(config.height - config.patch, config.height // 3, -2 * config.patch)
    methods += [Method(family="resolution", side=side) for side in sides]
    methods += [Method(family="int8", int8=True)]
    methods += [Method(family="int8 and VWT intra, grouped", int8=True, reducers=half)]
    methods += _served(folder)
    return methods, missing


def matched(config: ViTConfig, make: Callable[[float], Reducers], words: int = 0) -> list[Reducers]:
    """For each of ``SHARES`` the reducers whose multiply-accumulates come nearest.

    Raises :class:`LadderError` if no ratio gives a level.
    """
    dense = Schedule().macs(config)
    levels: list[tuple[float, Reducers]] = []
    reason: LadderError | None = None
    for percent in range(95, 9, -1):
        reducers = make(percent / 100)
        try:
            levels.append((Schedule.parse(reducers, config).macs(config, words) / dense, reducers))
        except LadderError as error:
            reason = reason or error
    if reason is not None and not levels:
        raise reason
    chosen = [min(levels, key=lambda level: abs(level[0] - share)) for share in SHARES]
    unique = [level for i, level in enumerate(chosen) if level not in chosen[:i]]
    return [reducers for _, reducers in unique]


def _selectors(config: ViTConfig, folder: Path) -> tuple[list[Method], dict[str, str]]:
    """SPViT's learned selector, from what ``foveate train-selector`` wrote."""
    files = sorted(folder.glob("*selector*.safetensors"))
    if not files:
        return [], {"SPViT selector": "no *selector*.safetensors: foveate train-selector"}
    methods = []
    for file in files:
        for fate in ("drop", "package"):
            try:
                found = matched(config, partial(pruned, config, score="selector", fate=fate))
            except LadderError as error:
                return [], {"SPViT selector": str(error)}
            family = f"{file.stem}, {'dropped' if fate == 'drop' else fate}"
            methods += [Method(family=family, reducers=r, selector=file.name) for r in found]
    return methods, {}


def _slim(config: ViTConfig, folder: Path) -> tuple[list[Method], dict[str, str]]:
    """SNP's narrower weights, from what ``foveate compress`` wrote; alone and with fewer tokens."""
    files = sorted(folder.glob("*slim*.safetensors"))
    if not files:
        return [], {"SNP": "no *slim*.safetensors: foveate compress"}
    half = intra(config, 0.5)
    return [
        Method(family=f"SNP {file.stem}{also}", weights=file.name, reducers=reducers)
        for file in files
        for also, reducers in (("", ()), (" and VWT intra, grouped", half))
    ], {}


def _served(folder: Path) -> list[Method]:
    """The levels of the ladder that is served."""
    levels = Ladder.load(folder / "ladder.json").levels[1:]
    return [
        Method(family="served ladder", reducers=level.reducers, weights=level.weights, served=level)
        for level in levels
    ]
