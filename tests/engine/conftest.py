from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.inference.engine import Engine

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


@pytest.fixture(scope="session")
def engine(build_engine: Callable[..., Engine]) -> Engine:
    """A demo-sized model with random weights and one level of every kind of reducer."""
    return build_engine(REDUCERS)


@pytest.fixture(scope="session")
def exact_engine(build_engine: Callable[..., Engine]) -> Engine:
    """The same in float64, whose rounding is too small to swap two tokens."""
    return build_engine(REDUCERS, dtype=torch.float64)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Eight images with flat, textured and noisy parts: [8, 96, 96, 3] uint8."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8, generator=generator)
    noise[:, :40] = 17
    noise[:4, 40:60] //= 8
    return noise
