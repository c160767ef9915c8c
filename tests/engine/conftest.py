from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from foveate.inference.packed import Engine, Prepared
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig

torch.set_num_threads(1)

PRUNES = [
    {"kind": "prune", "block": 1, "keep": 30, "fate": "package"},
    {"kind": "prune", "block": 3, "keep": 12, "fate": "package"},
]
DROPS = [{**item, "fate": "drop"} for item in PRUNES]
REDUCERS: list[list[dict[str, Any]]] = [
    [],
    [{"kind": "vwt-intra", "keep": 72}],
    [{"kind": "vwt-inter", "count": 60}],
    [{"kind": "vwt-inter", "count": 9}],  # fewer than the words an image uses: surplus groups
    DROPS,
    PRUNES,
    [{"kind": "vwt-intra", "keep": 42}, *PRUNES],
    [{"kind": "vwt-intra", "keep": 42}, *DROPS],
    [{"kind": "vwt-inter", "count": 48}, *PRUNES],
]


def build(
    reducers: Sequence[Sequence[dict[str, Any]]],
    config: ViTConfig = ViTConfig(),  # noqa: B008 (it is frozen)
    selectors: Mapping[int, Any] | None = None,
    seed: int = 0,
    std: float = 0.05,
    dtype: torch.dtype = torch.float32,
) -> Engine:
    torch.manual_seed(seed)
    vit = ViT(config).eval().requires_grad_(False)
    for parameter in vit.parameters():
        parameter.normal_(std=std)
    vit.to(dtype)
    words = torch.nn.functional.normalize(torch.randn(100, 3 * config.patch**2), dim=1).to(dtype)
    levels, prepared = [], []
    for index, items in enumerate(reducers):
        schedule = Schedule.parse(items, vit.config)
        levels.append(
            Level(
                name=f"level{index}",
                reducers=schedule.dump(),
                weights="model.safetensors",
                vocabulary=None,
                tokens=tuple(schedule.tokens(vit.config)[1]),
                macs=schedule.macs(vit.config, 100),
                quality=Quality(top1=None, agreement=1 - index / 100, n=100),
            )
        )
        prepared.append(Prepared(schedule, vit, words, selectors or {}))
    ladder = Ladder(
        model="toy",
        image_size=(config.height, config.width),
        tokens=1 + config.patches,
        levels=tuple(levels),
    )
    return Engine(ladder, prepared)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """A demo-sized model with random weights and one level of every kind of reducer."""
    return build(REDUCERS)


@pytest.fixture(scope="session")
def exact_engine() -> Engine:
    """The same in float64, whose rounding is too small to swap two tokens."""
    return build(REDUCERS, dtype=torch.float64)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Eight images with flat, textured and noisy parts: [8, 96, 96, 3] uint8."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8, generator=generator)
    noise[:, :40] = 17
    noise[:4, 40:60] //= 8
    return noise


@pytest.fixture(scope="session")
def build_engine() -> Callable[..., Engine]:
    return build
