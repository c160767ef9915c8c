"""Checkpoints with random weights, as their libraries save them, and what those answer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models() -> Iterator[Any]:
    """``benchmarks/parity_parts/transformers_models.py``."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("parity_parts.transformers_models")
    sys.path[:] = before


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, models: Any) -> Callable[[str], Any]:
    """``checkpoint(case)``: its folder, eight images and their logits; made once."""
    made: dict[str, SimpleNamespace] = {}

    def make(case: str) -> SimpleNamespace:
        if case not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            images = models.pixels(models.CASES[case].edge)
            logits = models.save(case, folder, images)
            made[case] = SimpleNamespace(folder=folder, images=images, logits=logits)
        return made[case]

    return make
